"""What the stream tells. Amounts are ``Decimal``, as over HTTP.

``read_message`` passes over types that a later exchange may add.
"""

from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from exchange.client.answers import Level, Order, Trade
from exchange.client.problems import ExchangeError


class Connected(Struct, frozen=True, tag="connected"):
    """The first message of each connection."""

    connection_id: str
    heartbeat_ms: int
    timestamp: str


class Authenticated(Struct, frozen=True, tag="authenticated"):
    """The signature was right."""


class Subscribed(Struct, frozen=True, tag="subscribed"):
    """Everything after ``sequence`` follows on these channels."""

    channels: list[str]
    instrument: str
    sequence: int


class TradesTold(Struct, frozen=True, tag="trades"):
    """Trades, oldest first."""

    instrument: str
    trades: list[Trade]
    sequence: int
    prev_sequence: int


class OrderUpdate(Struct, frozen=True):
    """What happened to an order, and the order after it."""

    event: str
    order: Order
    sequence: int
    trade: Trade | None = None


class OrdersTold(Struct, frozen=True, tag="orders"):
    """What happened to orders, oldest first."""

    instrument: str
    orders: list[OrderUpdate]
    sequence: int
    prev_sequence: int


class BookTold(Struct, frozen=True, tag="orderbook"):
    """A book, whole or in parts, or the levels of it that changed; 0 is a level that is gone."""

    kind: str
    instrument: str
    bids: list[Level]
    asks: list[Level]
    timestamp: str
    sequence: int
    prev_sequence: int = 0
    part: int = 1
    parts: int = 1


class TickerTold(Struct, frozen=True, tag="ticker"):
    """The last trade and the best levels; None where there is none."""

    instrument: str
    last_price: Decimal | None
    last_quantity: Decimal | None
    best_bid: Decimal | None
    best_bid_quantity: Decimal | None
    best_ask: Decimal | None
    best_ask_quantity: Decimal | None
    timestamp: str
    sequence: int


class Heartbeat(Struct, frozen=True, tag="heartbeat"):
    """Everything up to these sequences was sent."""

    sequences: dict[str, int]
    timestamp: str


class Replayed(Struct, frozen=True, tag="replayed"):
    """All of a replay was told."""


class ErrorTold(Struct, frozen=True, tag="error"):
    """The exchange refuses a message, or cannot go on."""

    code: str
    status: int
    detail: str
    retry_after: int = 0
    unix_ms: int = 0


Message = (
    Connected
    | Authenticated
    | Subscribed
    | TradesTold
    | OrdersTold
    | BookTold
    | TickerTold
    | Heartbeat
    | Replayed
    | ErrorTold
)


class _Kind(Struct, frozen=True):
    type: str


_message: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
_kind: Final = msgspec.json.Decoder(_Kind)
_KNOWN: Final = {str(one.__struct_config__.tag) for one in Message.__args__}


def read_message(text: bytes) -> Message | None:
    """Return what a message says; None if it is of a type that is not known here.

    Raises:
        ExchangeError: It is no message of a stream.
    """
    try:
        return _message.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if _is_unknown(text):
            return None
        raise ExchangeError(f"a message of the stream cannot be read: {error}") from error


def _is_unknown(text: bytes) -> bool:
    try:
        return _kind.decode(text).type not in _KNOWN
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
