"""Engine snapshots: a shard's state at the end of a batch, from which a replay can begin.

A snapshot is a shortcut, never the truth: deleting them all loses nothing. One that is
cut, of another format, or whose state has not the digest that was recorded with it is
set aside, and an older one or the whole log is used. Read ``encode`` and ``decode``.
"""

import logging
import zlib
from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange.domain.book import Instrument, RestingOrder
from exchange.domain.engine import State, rebuild
from exchange.domain.values import Position, Price, Quantity, Side

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
KEPT_MAX: Final = 5  # of each shard; the older ones serve only if the newer are damaged
COMPRESSION: Final = 1  # ids compress to a third; better takes longer than writing it

READ_SNAPSHOTS = """
select shard, position, version, digest, resting_orders, size_bytes, taken_at
from snapshots
where shard = $1 and position >= $2
order by position desc
limit $3
"""

READ_DATA = "select data from snapshots where shard = $1 and position = $2"

INSERT_SNAPSHOT = """
insert into snapshots (shard, position, version, digest, resting_orders, size_bytes, data)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (shard, position) do nothing
"""

DELETE_OLD = """
delete from snapshots
where shard = $1 and position < (
    select min(position) from (
        select position from snapshots where shard = $1 order by position desc limit $2
    ) as kept
)
"""

READ_BOUNDARY = """
select position, state_digest from batches
where shard = $1 and position >= $2
order by position
limit 1
"""

WISH = """
insert into snapshot_wishes (shard, position) values ($1, $2)
on conflict (shard) do update set position = greatest(snapshot_wishes.position, excluded.position)
"""

READ_WISH = "select position from snapshot_wishes where shard = $1"


class SnapshotRow(Struct, frozen=True):
    """What is known of a stored snapshot without reading it."""

    shard: int
    position: int
    version: int
    digest: bytes
    resting_orders: int
    size_bytes: int
    taken_at: object


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


class BadSnapshot(Exception):
    """The bytes are no snapshot of a version that is known here."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_State)


def encode(state: State) -> bytes:
    """Return a state's bytes; time priority is in them."""
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
    plain = _State(state.position, state.time_ms, state.settlement_cycle, books)
    return zlib.compress(_encoder.encode(plain), COMPRESSION)


def decode(data: bytes, *, version: int, digest: bytes) -> State:
    """Return the state that bytes are of.

    Raises:
        BadSnapshot: They are damaged, of another version, or of another state than ``digest``.
    """
    if version != FORMAT_VERSION:
        raise BadSnapshot(f"it has format {version}, and {FORMAT_VERSION} is known here")
    try:
        plain = _decoder.decode(zlib.decompress(data))
        state = rebuild(
            Position(plain.position),
            plain.time_ms,
            plain.settlement_cycle,
            [(_instrument(book), _orders(book.orders)) for book in plain.books],
        )
    except (zlib.error, msgspec.MsgspecError, AssertionError, ValueError) as error:
        raise BadSnapshot(f"it is damaged: {error}") from error
    if state.digest != digest:
        raise BadSnapshot("its state has another digest than was recorded with it")
    return state


async def store(connection: asyncpg.Connection, shard: int, state: State, data: bytes) -> None:
    """Keep a snapshot, and of the older ones the newest few."""
    orders = sum(len(book.orders) for book in state.books.values())
    row = (shard, state.position, FORMAT_VERSION, state.digest, orders, len(data), data)
    await connection.execute(INSERT_SNAPSHOT, *row)
    await connection.execute(DELETE_OLD, shard, KEPT_MAX)


async def newest(
    connection: asyncpg.Connection, shard: int, *, at_least: int = 0
) -> SnapshotRow | None:
    """Return the newest snapshot of a shard at or after a position, None if there is none."""
    rows = await connection.fetch(READ_SNAPSHOTS, shard, at_least, 1)
    return SnapshotRow(**rows[0]) if rows else None


async def load_newest(connection: asyncpg.Connection, shard: int, *, at_most: int) -> State | None:
    """Return the state of the newest snapshot that can be used, None if there is none."""
    for row in await connection.fetch(READ_SNAPSHOTS, shard, 0, KEPT_MAX):
        if row["position"] > at_most:
            continue
        data = await connection.fetchval(READ_DATA, shard, row["position"])
        try:
            return decode(data, version=row["version"], digest=row["digest"])
        except BadSnapshot as error:
            fields = {"shard": shard, "position": row["position"], "error": str(error)}
            logger.warning("Set a snapshot aside", extra=fields)
    return None


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
