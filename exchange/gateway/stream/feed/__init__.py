"""What happens on the shards, to the subscribers who asked for it.

In reading order: ``hub`` (all shards), ``shard_feed`` (one shard's events in order, from Redis
or the log), ``shard_stream`` (who gets what of one shard), ``subscriptions``, ``renderer``
(events to messages), ``books`` and ``order_updates`` (what events mean), ``orders_lane``
(orders may come later), ``book_snapshots`` and ``history`` (what a new subscriber gets first).
"""
