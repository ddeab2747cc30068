"""The door: who asks, and what they may.

In reading order: ``modes`` (who keeps the door), ``caller`` (who asks), ``keeper`` (lets callers
in), ``refusals`` (why somebody is not let in), ``keys`` (kept up with the log), ``tokens``,
``secrets`` (the master keys, and what is derived from them).
"""
