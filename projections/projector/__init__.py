"""How read models are kept up.

In reading order: ``follower`` (one model, one shard), ``tail`` (the log, read once for all),
``projector`` (all of them), ``lifecycle`` (generations, and which one is live), ``snapshotter``
(engine snapshots), ``metrics``.
"""
