"""The read side: read models, which can be thrown away and rebuilt from the log.

Each read model is one file: what it keeps, how events change it, and its queries. In PostgreSQL:
``trades`` (the shortest, read it first), ``instruments``, ``orders``, ``positions``, ``vwap``,
``settlement``, ``accounts``. In Redis: ``ticker``, ``book``, ``feed``.

``folding`` says how a model is folded in memory, by the rules of its file. ``registry`` lists all
models. ``stores`` keeps a model in its store, and ``projector`` keeps it up to date. ``lifecycle``
is about generations, of which one is read, and ``builder`` makes new ones beside it. ``publisher``
sends the events themselves to a Kafka topic. ``past`` answers as of a moment that is gone.
"""
