"""The instruments that can be traded, and the shard of each.

One row per instrument. Scales, base and quote never change, so a reader may keep them for ever.
"""

from collections.abc import Sequence
from typing import Final, Self

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Table, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import InstrumentRegistered
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.folding import LogPart, Row, Rows, fold_batch
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

NAME = "instruments"
VERSION: Final = 1  # of the rules

INSTRUMENTS = Table(
    "instruments",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("instrument", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("base", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("price_scale", SmallInteger, nullable=False),
    Column("quantity_scale", SmallInteger, nullable=False),
    Column("tick_size", BigInteger, nullable=False),
    Column("lot_size", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    postgresql_partition_by="LIST (generation)",
)

QUERIES: Final = Queries(NAME, VERSION, (INSTRUMENTS,))

INSERT_INSTRUMENTS = """
insert into instruments
    (generation, instrument, shard, base, quote, price_scale, quantity_scale, tick_size, lot_size,
    state, position, time_ms)
select $1, instrument, shard, base, quote, price_scale, quantity_scale, tick_size, lot_size,
    state, position, time_ms
from unnest($2::text[], $3::smallint[], $4::text[], $5::text[], $6::smallint[], $7::smallint[],
    $8::bigint[], $9::bigint[], $10::text[], $11::bigint[], $12::bigint[])
    as new (instrument, shard, base, quote, price_scale, quantity_scale, tick_size, lot_size,
        state, position, time_ms)
"""

READ_INSTRUMENTS = select(
    INSTRUMENTS.c.instrument,
    INSTRUMENTS.c.shard,
    INSTRUMENTS.c.base,
    INSTRUMENTS.c.quote,
    INSTRUMENTS.c.price_scale,
    INSTRUMENTS.c.quantity_scale,
    INSTRUMENTS.c.tick_size,
    INSTRUMENTS.c.lot_size,
    INSTRUMENTS.c.state,
    INSTRUMENTS.c.position,
    INSTRUMENTS.c.time_ms,
)


class InstrumentRow(Struct, frozen=True):
    """An instrument: scales in decimal places, tick and lot in units, time since the epoch."""

    instrument: str
    shard: int
    base: str
    quote: str
    price_scale: int
    quantity_scale: int
    tick_size: int
    lot_size: int
    state: str
    position: int
    time_ms: int


@QUERIES.query
async def list_instruments(
    connection: AsyncConnection, live: Live, *, after: str = "", limit: int
) -> list[InstrumentRow]:
    """Return instruments by name.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        after: Only instruments with names above this one: the last name of the page before.
        limit: How many at most.
    """
    query = READ_INSTRUMENTS.where(
        INSTRUMENTS.c.generation == live.generation, INSTRUMENTS.c.instrument > after
    )
    rows = await connection.execute(query.order_by(INSTRUMENTS.c.instrument).limit(limit))
    return [InstrumentRow(*row) for row in rows]


class InstrumentsFold:
    """The instruments in memory; each is finished at once."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self._rows = list(rows)

    def add(self, part: LogPart) -> None:
        self._rows += [
            _row(part.shard, position, event)
            for position, event in enumerate(part.events, part.first)
            if type(event) is InstrumentRegistered
        ]

    def finished(self) -> Rows:
        rows, self._rows = self._rows, []
        return {INSTRUMENTS.name: rows}

    def rows(self) -> Rows:
        return {INSTRUMENTS.name: list(self._rows)}

    @property
    def size(self) -> int:
        return len(self._rows)

    def dump(self) -> bytes:
        return msgspec.json.encode(self._rows)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=list[Row]))


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Add the instruments that a batch registers."""
    rows = fold_batch(InstrumentsFold(), events)[INSTRUMENTS.name]
    if rows:
        await connection.execute(INSERT_INSTRUMENTS, generation, *columns(sorted(rows)))


def instruments_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the instruments up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (INSTRUMENTS,),
        project,
        version=VERSION,
        fold=InstrumentsFold,
        last_event={INSTRUMENTS.name: "position"},
    )


def _row(shard: int, position: int, event: InstrumentRegistered) -> Row:
    return (
        event.instrument,
        shard,
        event.base,
        event.quote,
        event.price_scale,
        event.quantity_scale,
        event.tick_size,
        event.lot_size,
        "open",
        position,
        event.time_ms,
    )
