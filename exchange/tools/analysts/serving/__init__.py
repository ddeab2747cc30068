"""A replay of the log over the stream: ``exchange replay --serve``.

In reading order: ``timeline`` (when which event is told), ``past`` (the hub's source: events up to
the time line's place, and books there), ``desk`` (what steers a replay, and what it refuses),
``trades`` (the last of them, over HTTP), ``server`` (all of it on a port, and how far it is in the
terminal).
"""
