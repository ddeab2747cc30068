"""How read models are kept up with the log.

In reading order: ``follower`` (one model on one shard), ``tail`` (the log, read once for all
followers), ``projector`` (all followers), ``snapshotter`` (engine snapshots), ``metrics``.
"""
