"""The WebSocket stream: books, trades, orders and tickers, followed without losing a message.

In reading order: ``messages`` (what clients send), ``frames`` (what they get),
``shard_feed`` (one shard's events in order, from Redis or from the log), ``books`` and
``order_updates`` (what events mean), ``subscriptions`` and ``shard_stream`` (who gets
what of one shard), ``hub`` (of all), ``outbox`` (the bounded queue of a connection),
``session`` (one connection) and ``endpoint`` (all of them).
"""
