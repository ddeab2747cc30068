"""A client of an exchange: what programs in Python send, and how they hear of it.

``requests`` are values, and a command has its idempotency key from when it is made. ``sync_client``
and ``async_client`` send them; ``attempts`` says when they are sent again, ``wire`` to where, and
``problems`` what is known when it ends badly. ``answers`` and ``messages`` (of the stream) are what
comes back; ``following`` goes on after a lost connection, and keeps a ``book``.

It uses nothing of the exchange but ``exchange.signing``, so it runs wherever Python does.
"""

from exchange.client.answers import (
    AllCancelled,
    Cancelled,
    Order,
    Placed,
    Snapshot,
    Trade,
)
from exchange.client.async_client import AsyncClient, connected
from exchange.client.attempts import Patience
from exchange.client.book import Book, Gap
from exchange.client.following import Following, Interrupted, Update
from exchange.client.messages import (
    Connected,
    Heartbeat,
    OrdersTold,
    Replayed,
    TickerTold,
    TradesTold,
)
from exchange.client.problems import ExchangeError, OutcomeUnknown, Refused, Unavailable
from exchange.client.requests import (
    Command,
    Request,
    analytics,
    cancel,
    cancel_all,
    cycles,
    fills,
    instruments,
    limit_order,
    market_order,
    obligations,
    order,
    order_events,
    orderbook,
    orders,
    positions,
    snapshot,
    ticker,
    trades,
)
from exchange.client.sync_client import Client
from exchange.client.wire import stream_url

__all__ = [
    "AllCancelled",
    "AsyncClient",
    "Book",
    "Cancelled",
    "Client",
    "Command",
    "Connected",
    "ExchangeError",
    "Following",
    "Gap",
    "Heartbeat",
    "Interrupted",
    "Order",
    "OrdersTold",
    "OutcomeUnknown",
    "Patience",
    "Placed",
    "Refused",
    "Replayed",
    "Request",
    "Snapshot",
    "TickerTold",
    "Trade",
    "TradesTold",
    "Unavailable",
    "Update",
    "analytics",
    "cancel",
    "cancel_all",
    "connected",
    "cycles",
    "fills",
    "instruments",
    "limit_order",
    "market_order",
    "obligations",
    "order",
    "order_events",
    "orderbook",
    "orders",
    "positions",
    "snapshot",
    "stream_url",
    "ticker",
    "trades",
]
