"""Every trade, newest first.

One row per trade. Its key is its shard and position in the log, which also make its id. Rows are
written once and never change.
"""

from collections.abc import Sequence
from typing import Final, Self

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, Table, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import TradeExecuted, trade_id
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.folding import LogPart, Row, Rows, fold_batch
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

NAME = "trades"
VERSION: Final = 1  # of the rules

TRADES = Table(
    "trades",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("instrument", Text, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("taker_side", Text, nullable=False),
    Column("buy_order_id", Text, nullable=False),
    Column("sell_order_id", Text, nullable=False),
    Column("buyer_client_id", Text, nullable=False),
    Column("seller_client_id", Text, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Index("trades_by_instrument", "generation", "instrument", "position"),
    postgresql_partition_by="LIST (generation)",
)

QUERIES: Final = Queries(NAME, VERSION, (TRADES,))

INSERT_TRADES = """
insert into trades
    (generation, shard, position, instrument, price, quantity, taker_side, buy_order_id,
    sell_order_id, buyer_client_id, seller_client_id, time_ms)
select $1, shard, position, instrument, price, quantity, taker_side, buy_order_id,
    sell_order_id, buyer_client_id, seller_client_id, time_ms
from unnest($2::smallint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[])
    as new (shard, position, instrument, price, quantity, taker_side, buy_order_id,
        sell_order_id, buyer_client_id, seller_client_id, time_ms)
"""

READ_TRADES = select(
    TRADES.c.shard,
    TRADES.c.position,
    TRADES.c.instrument,
    TRADES.c.price,
    TRADES.c.quantity,
    TRADES.c.taker_side,
    TRADES.c.buy_order_id,
    TRADES.c.sell_order_id,
    TRADES.c.buyer_client_id,
    TRADES.c.seller_client_id,
    TRADES.c.time_ms,
)


class Trade(Struct, frozen=True):
    """A trade: price and quantity in the instrument's units, time since the epoch."""

    shard: int
    position: int
    instrument: str
    price: int
    quantity: int
    taker_side: str
    buy_order_id: str
    sell_order_id: str
    buyer_client_id: str
    seller_client_id: str
    time_ms: int

    @property
    def trade_id(self) -> str:
        return trade_id(self.shard, self.position)


@QUERIES.query
async def list_trades(
    connection: AsyncConnection,
    live: Live,
    instrument: str,
    *,
    before: int | None = None,
    limit: int,
) -> list[Trade]:
    """Return an instrument's trades, newest first.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        instrument: Its name; an unknown instrument has no trades.
        before: Only trades below this position: the last position of the page before.
        limit: How many at most.
    """
    query = READ_TRADES.where(
        TRADES.c.generation == live.generation, TRADES.c.instrument == instrument
    )
    if before is not None:
        query = query.where(TRADES.c.position < before)
    rows = await connection.execute(query.order_by(TRADES.c.position.desc()).limit(limit))
    return [Trade(*row) for row in rows]


class ClientTrades(Struct, frozen=True):
    """A client's trades among those that were looked at."""

    trades: list[Trade]
    looked_to: int | None
    """The position of the oldest trade looked at; None if the instrument has none before it."""


@QUERIES.query
async def list_client_trades(
    connection: AsyncConnection,
    live: Live,
    instrument: str,
    client_id: str,
    *,
    before: int | None = None,
    limit: int,
    looked_at: int,
) -> ClientTrades:
    """Return a client's trades of an instrument, newest first.

    Args:
        connection: A connection that sees one moment.
        live: The generation to read.
        instrument: Its name.
        client_id: Who bought or sold.
        before: Only trades below this position.
        limit: How many at most.
        looked_at: How many trades of the instrument are looked through.
    """
    query = READ_TRADES.where(
        TRADES.c.generation == live.generation, TRADES.c.instrument == instrument
    )
    if before is not None:
        query = query.where(TRADES.c.position < before)
    places = query.with_only_columns(TRADES.c.position).order_by(TRADES.c.position.desc())
    ends = await connection.execute(places.offset(looked_at - 1).limit(2))
    oldest, *older = ends.scalars().all() or (None,)
    if oldest is not None:
        query = query.where(TRADES.c.position >= oldest)
    mine = (TRADES.c.buyer_client_id == client_id) | (TRADES.c.seller_client_id == client_id)
    rows = await connection.execute(
        query.where(mine).order_by(TRADES.c.position.desc()).limit(limit)
    )
    return ClientTrades([Trade(*row) for row in rows], oldest if older else None)


class TradesFold:
    """The trades in memory; each is finished at once."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self._rows = list(rows)

    def add(self, part: LogPart) -> None:
        self._rows += [
            _row(part.shard, position, event)
            for position, event in enumerate(part.events, part.first)
            if type(event) is TradeExecuted
        ]

    def finished(self) -> Rows:
        rows, self._rows = self._rows, []
        return {TRADES.name: rows}

    def rows(self) -> Rows:
        return {TRADES.name: list(self._rows)}

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
    """Add a batch's trades."""
    rows = fold_batch(TradesFold(), events)[TRADES.name]
    if rows:
        await connection.execute(INSERT_TRADES, generation, *columns(rows))


def trades_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the trades up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (TRADES,),
        project,
        version=VERSION,
        fold=TradesFold,
        last_event={TRADES.name: "position"},
    )


def _row(shard: int, position: int, event: TradeExecuted) -> Row:
    return (
        shard,
        position,
        event.instrument,
        event.price,
        event.quantity,
        str(event.taker_side),
        event.buy_order_id,
        event.sell_order_id,
        event.buyer_client_id,
        event.seller_client_id,
        event.time_ms,
    )
