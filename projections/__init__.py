"""The read side: models built from the log, each of which can be thrown away and rebuilt.

A read model is one file: what it keeps, how events change it, the queries that read it. In
PostgreSQL: ``trades`` (the shortest, read it first), ``instruments``, ``orders``,
``positions``, ``vwap``, ``settlement``. In Redis: ``ticker``, ``book``, ``feed``.

``registry`` lists them all. ``stores`` is how a model is kept, ``projector`` how it is kept up.
"""
