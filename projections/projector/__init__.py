"""How read models are kept up with the log.

In reading order: ``follower`` (one model on one shard), ``tail`` (the log, read once for all
followers), ``projector`` (all followers), ``lifecycle`` (generations, and which one is live),
``snapshotter`` (engine snapshots), ``metrics``.
"""
