"""Engine snapshots: a shard's state at the end of a batch, from which a replay can begin.

A snapshot is a shortcut, never the truth: deleting all of them loses nothing. A snapshot that is
damaged, has another format, or has another state than the log at its position is set aside; then an
older one or the whole log is used. Read ``encode``, ``decode``, ``newest_usable``.
"""

import logging
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from exchange.domain.accounts import Key
from exchange.domain.book import Instrument, RestingOrder
from exchange.domain.engine import OPEN_ORDERS_MAX, State, rebuild
from exchange.domain.values import Position, Price, Quantity, Side
from exchange.ports import StoredSnapshot

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
COMPRESSION: Final = 1  # ids shrink to a third; a higher level takes longer than writing does


class _Order(Struct, frozen=True, array_like=True):
    order_id: str
    client_id: str
    buys: bool
    price: int
    remaining: int
    priority: int


class _Book(Struct, frozen=True, array_like=True):
    name: str
    base: str
    quote: str
    price_scale: int
    quantity_scale: int
    tick_size: int
    lot_size: int
    orders: list[_Order]


class _State(Struct, frozen=True, array_like=True):
    position: int
    time_ms: int
    settlement_cycle: int
    books: list[_Book]


class _LimitedState(_State, frozen=True, array_like=True):
    """A state with another bound on open orders than the first; the field is written only then."""

    open_orders_max: int = OPEN_ORDERS_MAX


class _KeptState(_LimitedState, frozen=True, array_like=True):
    """A state with suspended clients or accounts; the fields are written only then."""

    suspended: list[str] = []
    accounts: list[str] = []
    keys: list[Key] = []


class BadSnapshot(Exception):
    """A snapshot is damaged, of an unknown format, or of another state than the log has."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_KeptState)


def encode(state: State) -> bytes:
    """Return the bytes of a state, which keep the time priority of its orders."""
    books = [
        _Book(
            *_definition(book.instrument),
            orders=[
                _Order(
                    o.order_id, o.client_id, o.side is Side.BUY, o.price, o.remaining, o.priority
                )
                for o in book.orders.values()
            ],
        )
        for book in state.books.values()
    ]
    plain = (state.position, state.time_ms, state.settlement_cycle, books)
    return zlib.compress(_encoder.encode(_written(state, plain)), COMPRESSION)


def _written(state: State, plain: tuple[int, int, int, list[_Book]]) -> _State:
    """Return no more fields than the state needs, so that earlier builds read what they can."""
    accounts = state.accounts
    if state.suspended or accounts.good:
        return _KeptState(
            *plain,
            state.open_orders_max,
            sorted(state.suspended),
            list(accounts.good),
            list(accounts.keys.values()),
        )
    if state.open_orders_max != OPEN_ORDERS_MAX:
        return _LimitedState(*plain, state.open_orders_max)
    return _State(*plain)


async def newest_usable(
    stored: AsyncIterator[StoredSnapshot],
) -> tuple[State, StoredSnapshot] | None:
    """Return the first snapshot that can be used, with its state; None if there is none."""
    async for snapshot in stored:
        try:
            return decode(snapshot), snapshot
        except BadSnapshot as error:
            fields = {"position": snapshot.position, "error": str(error)}
            logger.warning("Set a snapshot aside", extra=fields)
    return None


def decode(snapshot: StoredSnapshot) -> State:
    """Return the state in a snapshot.

    Raises:
        BadSnapshot: It is damaged, of another version, or of another state than the log has.
    """
    if snapshot.version != FORMAT_VERSION:
        known = f"{FORMAT_VERSION} is known here"
        raise BadSnapshot(f"it has format {snapshot.version}, and {known}")
    try:
        plain = _decoder.decode(zlib.decompress(snapshot.data))
        state = rebuild(
            Position(plain.position),
            plain.time_ms,
            plain.settlement_cycle,
            [(_instrument(book), _orders(book.orders)) for book in plain.books],
            plain.open_orders_max,
            plain.suspended,
            plain.accounts,
            plain.keys,
        )
    except (zlib.error, msgspec.MsgspecError, AssertionError, KeyError, ValueError) as error:
        raise BadSnapshot(f"it is damaged: {error}") from error
    claimed = (state.position, state.digest, state.time_ms)
    if claimed != (snapshot.position, snapshot.digest, snapshot.time_ms):
        raise BadSnapshot("it is of another state than the log has at its position")
    return state


def _definition(instrument: Instrument) -> tuple[str, str, str, int, int, int, int]:
    return (
        instrument.name,
        instrument.base,
        instrument.quote,
        instrument.price_scale,
        instrument.quantity_scale,
        instrument.tick_size,
        instrument.lot_size,
    )


def _instrument(book: _Book) -> Instrument:
    return Instrument(
        book.name,
        book.base,
        book.quote,
        book.price_scale,
        book.quantity_scale,
        Price(book.tick_size),
        Quantity(book.lot_size),
    )


def _orders(orders: Sequence[_Order]) -> list[RestingOrder]:
    return [
        RestingOrder(
            o.order_id,
            o.client_id,
            Side.BUY if o.buys else Side.SELL,
            Price(o.price),
            o.remaining,
            o.priority,
        )
        for o in sorted(orders, key=lambda order: order.priority)
    ]
