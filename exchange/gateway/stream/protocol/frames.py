"""Messages to clients: their types, and their texts, encoded once for all subscribers.

A text is the WebSocket frame that carries the message, so that sending it is to write its bytes.

``sequence`` is the position of the last event that a message includes, ``prev_sequence`` the
``sequence`` of the message before it on the same channel and instrument. So for a subscriber that
has seen S, a message with ``sequence <= S`` is a repetition, and one with ``prev_sequence > S``
comes after a gap.

No message is longer than ``MESSAGE_BYTES_MAX``. Trades and orders are cut between events, so each
message has a sequence of its own. A snapshot or an answer that is too long comes in numbered parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from exchange.gateway.http.amounts import Amount
from exchange.gateway.http.problems import ProblemMembers
from exchange.gateway.http.responses import DepthView, OrderView, TradeView, encoder
from exchange.gateway.orders.batches import BatchView
from exchange.gateway.orders.cancelling import AllCancelledView
from exchange.gateway.orders.entry import CancelledView, PlacedView
from exchange.gateway.parts.limits import Budget
from exchange.gateway.parts.listings import Listing
from exchange.gateway.server.streams import ready
from exchange.gateway.stream.protocol.messages import Channel

HEARTBEAT_MS: Final = 1_000
MESSAGE_BYTES_MAX: Final = 256 * 1024  # clients' libraries accept 1 MiB by default
ITEM_BYTES_MAX: Final = 4 * 1024  # an order's update with its trade: six ids of 256 bytes, amounts
ENVELOPE_BYTES_MAX: Final = 16 * 1024  # an answer without its trades: an order and 40 levels
PIECE_BYTES_MAX: Final = MESSAGE_BYTES_MAX - ENVELOPE_BYTES_MAX
LEVELS_MAX: Final = 2_400  # in a part of a snapshot; a level has 100 bytes at most


class Frame(Struct, frozen=True, gc=False):
    """A message of a channel as it is sent, and what the queue must know of it.

    ``more`` has the parts after the first. Nothing is sent between the parts.
    """

    channel: Channel
    instrument: str
    sequence: int
    text: bytes
    snapshot: bool = False
    more: tuple[bytes, ...] = ()

    @property
    def texts(self) -> tuple[bytes, ...]:
        return (self.text, *self.more)


class LevelView(Struct, frozen=True):
    """A level of a book that changed; quantity 0 removes it."""

    price: Amount
    quantity: Amount


class ReplayView(Struct, frozen=True):
    """Where a replay of the log is: positions by shard, and times of the engine.

    ``state`` is ``waiting`` (for somebody to follow an instrument), ``playing``, ``paused`` or
    ``ended``; ``speed`` is how much faster than the engine's time it goes, or ``max``.
    """

    state: Literal["waiting", "playing", "paused", "ended"]
    speed: int | Literal["max"]
    begin: dict[str, int] = field(name="from")
    to: dict[str, int]
    positions: dict[str, int]
    time: str | None


class Connected(Struct, frozen=True, tag="connected"):
    """The first message of a connection; with ``replay`` if it is history that is told."""

    connection_id: str
    channels: list[Channel]
    heartbeat_ms: int
    timestamp: str
    replay: ReplayView | UnsetType = UNSET


class ReplayChanged(Struct, frozen=True, tag="replay"):
    """The answer to a message that steers a replay: where it is now, and how it goes on."""

    replay: ReplayView
    id: str | UnsetType = UNSET


class Replayed(Struct, frozen=True, tag="replayed"):
    """A replay has ended: all messages of it were sent."""

    replay: ReplayView


class Authenticated(Struct, frozen=True, tag="authenticated"):
    """Whose connection it is now; null where the door is open. A token has its end."""

    client_id: str | None
    scopes: list[str]
    ends_at: str | UnsetType = UNSET
    id: str | UnsetType = UNSET


class Subscribed(Struct, frozen=True, tag="subscribed"):
    """Everything after ``sequence`` on these channels follows."""

    channels: list[Channel]
    instrument: str
    sequence: int
    id: str | UnsetType = UNSET


class Unsubscribed(Struct, frozen=True, tag="unsubscribed"):
    """Nothing more of these channels follows."""

    channels: list[Channel]
    instrument: str
    id: str | UnsetType = UNSET


class Trades(Struct, frozen=True, tag="trades"):
    """Trades, oldest first."""

    instrument: str
    trades: Sequence[TradeView]
    sequence: int
    prev_sequence: int


class OrderUpdate(Struct, frozen=True):
    """What happened to an order, and the order after it."""

    event: str
    order: OrderView
    sequence: int
    trade: TradeView | UnsetType = UNSET


class Orders(Struct, frozen=True, tag="orders"):
    """What happened to orders, oldest first."""

    instrument: str
    orders: Sequence[OrderUpdate]
    sequence: int
    prev_sequence: int


class BookSnapshot(Struct, frozen=True, tag="orderbook"):
    """The whole book, best levels first; ``kind`` is ``snapshot``.

    A large book comes in ``parts`` numbered from 1, and is whole with the last part.
    """

    kind: Literal["snapshot"]
    instrument: str
    bids: list[DepthView]
    asks: list[DepthView]
    timestamp: str
    sequence: int
    part: int | UnsetType = UNSET
    parts: int | UnsetType = UNSET


class BookDelta(Struct, frozen=True, tag="orderbook"):
    """The levels that changed, with their new quantities; ``kind`` is ``delta``."""

    kind: Literal["delta"]
    instrument: str
    bids: list[LevelView]
    asks: list[LevelView]
    timestamp: str
    sequence: int
    prev_sequence: int


class Ticker(Struct, frozen=True, tag="ticker"):
    """The last trade and the best levels; null where there is none."""

    instrument: str
    last_price: Amount | None
    last_quantity: Amount | None
    best_bid: Amount | None
    best_bid_quantity: Amount | None
    best_ask: Amount | None
    best_ask_quantity: Amount | None
    timestamp: str
    sequence: int
    prev_sequence: int


class Heartbeat(Struct, frozen=True, tag="heartbeat"):
    """Everything up to these sequences has been sent."""

    sequences: dict[str, int]
    timestamp: str


class Pong(Struct, frozen=True, tag="pong"):
    """The answer to a ping."""

    timestamp: str
    id: str | UnsetType = UNSET


class RateLimitView(Struct, frozen=True):
    """What is left of the budget that a message was charged to; ``reset`` is in seconds."""

    limit: int
    remaining: int
    reset: int


def rate_limit(budget: Budget) -> dict[str, RateLimitView]:
    """Return the field ``rate_limit`` of an answer; no field without a limit."""
    if budget.is_unlimited:
        return {}
    return {"rate_limit": RateLimitView(budget.limit, budget.remaining, budget.reset_s)}


class OrderAnswer(PlacedView, frozen=True, tag="order_accepted", kw_only=True):
    """The answer to an order; ``replayed`` says that an earlier order had its key.

    An answer with very many trades comes in ``parts`` numbered from 1, each with some of the
    trades.
    """

    replayed: bool
    part: int | UnsetType = UNSET
    parts: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    rate_limit: RateLimitView | UnsetType = UNSET


class CancelAnswer(CancelledView, frozen=True, tag="order_cancelled", kw_only=True):
    """The answer to a cancel; ``replayed`` says that an earlier cancel had its key."""

    replayed: bool
    id: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    rate_limit: RateLimitView | UnsetType = UNSET


class AllCancelledAnswer(AllCancelledView, frozen=True, tag="all_cancelled", kw_only=True):
    """The answer to a cancel of all; on ``pending`` shards orders may still be open."""

    replayed: bool
    id: str | UnsetType = UNSET
    rate_limit: RateLimitView | UnsetType = UNSET


class BatchAnswer(BatchView, frozen=True, tag="batch", kw_only=True):
    """The answers to the entries of a batch, and the books after it.

    A long answer comes in ``parts`` numbered from 1, each with some of the entries or books.
    """

    part: int | UnsetType = UNSET
    parts: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    rate_limit: RateLimitView | UnsetType = UNSET


class OrderPending(Struct, frozen=True, tag="order_pending"):
    """An order or cancel was not decided in time; ``location`` is where to ask."""

    order_id: str
    command_id: str
    status: Literal["pending"]
    location: str
    id: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    rate_limit: RateLimitView | UnsetType = UNSET


class Error(ProblemMembers, frozen=True, tag="error", kw_only=True):
    """The refusal of a message, or the failure to answer it, with the members of a problem."""

    id: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    rate_limit: RateLimitView | UnsetType = UNSET


def text_of(message: Struct) -> bytes:
    """Encode a message."""
    return ready(encoder.encode(message))


Item = TypeVar("Item", TradeView, OrderUpdate)
Part = TypeVar("Part")


def pieces(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Cut trades or updates so that each piece fits into a message.

    The two updates of one trade stay together: a message has all updates up to its sequence.
    """
    if len(items) * ITEM_BYTES_MAX <= PIECE_BYTES_MAX:
        yield items
        return
    piece: list[Item] = []
    piece_bytes = 0
    for _, same in groupby(items, key=attrgetter("sequence")):
        together = list(same)
        size_bytes = sum(len(encoder.encode(item)) + 1 for item in together)
        if piece and piece_bytes + size_bytes > PIECE_BYTES_MAX:
            yield piece
            piece, piece_bytes = [], 0
        piece += together
        piece_bytes += size_bytes
    yield piece


def texts_of(
    answer: OrderAnswer | CancelAnswer | OrderPending | AllCancelledAnswer | BatchAnswer,
) -> Iterator[bytes]:
    """Yield the text of an answer, in parts if it has very many trades, or entries."""
    match answer:
        case OrderAnswer():
            parts = [{"trades": trades} for trades in _cut(answer.trades, _bytes_of)]
        case BatchAnswer():
            parts = _parts_of_batch(answer)
        case _:
            parts = []
    if len(parts) <= 1:
        yield text_of(answer)
        return
    for part, some in enumerate(parts, 1):
        yield text_of(msgspec.structs.replace(answer, **some, part=part, parts=len(parts)))


def _parts_of_batch(answer: BatchAnswer) -> list[dict[str, Any]]:
    """Cut a batch's entries and books so that each part fits into a message."""
    books = list(answer.books.items())
    all_bytes = sum(map(_bytes_of, answer.entries)) + sum(map(_bytes_of_book, books))
    if all_bytes <= PIECE_BYTES_MAX:
        return []
    parts = [{"entries": some, "books": {}} for some in _cut(answer.entries, _bytes_of)]
    return parts + [{"entries": [], "books": dict(some)} for some in _cut(books, _bytes_of_book)]


def _cut(items: Sequence[Part], bytes_of: Callable[[Part], int]) -> list[list[Part]]:
    """Cut what is in JSON so that each part fits into a message."""
    parts: list[list[Part]] = [[]]
    part_bytes = 0
    for item in items:
        size_bytes = bytes_of(item)
        if parts[-1] and part_bytes + size_bytes > PIECE_BYTES_MAX:
            parts.append([])
            part_bytes = 0
        parts[-1].append(item)
        part_bytes += size_bytes
    return parts


def _bytes_of(text: Raw) -> int:
    return memoryview(text).nbytes + 1  # and a comma


def _bytes_of_book(book: tuple[str, Raw | None]) -> int:
    name, text = book
    return len(name) + (4 if text is None else memoryview(text).nbytes) + len('"":,')


def levels(changed: Mapping[int, int], listing: Listing, *, descending: bool) -> list[LevelView]:
    """Return what clients see of changed levels, the better prices first."""
    return [
        LevelView(listing.price(price), listing.quantity(changed[price]))
        for price in sorted(changed, reverse=descending)
    ]


def depth(side: Sequence[tuple[int, int]], listing: Listing) -> Iterator[DepthView]:
    """Yield what clients see of a side, best first."""
    cumulative = 0
    for price, quantity in side:
        cumulative += quantity
        yield DepthView(
            listing.price(price), listing.quantity(quantity), listing.quantity(cumulative)
        )
