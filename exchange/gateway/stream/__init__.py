"""The WebSocket stream: books, trades, orders and tickers, followed without losing a message.

In reading order: ``protocol`` (the messages of both sides), ``endpoint`` (all connections),
``session`` (one of them), ``outbox`` (its bounded queue), ``feed`` (what happens, to who asked
for it).
"""
