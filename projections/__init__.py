"""The read side: models built from the log, each of which can be thrown away and rebuilt.

Read ``follower`` (the loop), then any one projection: ``trades`` is the shortest,
``orders``, ``positions``, ``instruments`` and ``book`` (Redis) are the others. A
projection is one file: what it keeps, how a batch of events changes it, and the
queries that read it.

``projector`` runs them all, ``tail`` reads the log for them, ``postgres`` makes a batch
and its checkpoint one transaction, ``lifecycle`` knows generations and which one is live,
``checkpoints`` tells readers how far a model is, ``metrics`` tells operators, and
``failures`` knows which errors a store recovers from.
"""
