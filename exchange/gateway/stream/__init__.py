"""The WebSocket stream: books, trades, orders and tickers, followed without losing a message.

In reading order: ``protocol`` (the messages of both sides), ``endpoint`` (all connections),
``session`` (one connection), ``desk`` (its orders), ``caps`` (what one key may have), ``outbox``
(its bounded queue), ``heartbeats``, ``feed`` (events to subscribers).
"""
