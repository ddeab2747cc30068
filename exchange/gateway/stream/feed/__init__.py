"""From the events of the shards to the messages of subscribers.

In reading order: ``hub`` (all shards), ``source`` (the running exchange, or a replay),
``shard_feed`` (one shard's events in order, from Redis or the log), ``shard_stream`` (the
subscribers of one shard), ``subscriptions``, ``renderer`` (events to messages), ``books`` and
``order_updates`` (what events change), ``orders_lane`` (messages of orders may come later),
``book_snapshots`` and ``history`` (what a new subscriber gets first).
"""
