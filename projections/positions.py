"""Each client's position in each instrument: net quantity, cost and realised profit.

The cost is an average cost:

* A trade that adds to a position adds its cost.
* A trade that reduces a position removes the same share of the cost as of the quantity, rounded
  toward zero. The proceeds less the removed cost are realised as profit.
* A trade that flips a position closes it first, and opens the rest at the trade's price.

Costs count units of 10^-(price_scale + quantity_scale) and are signed like the quantity. They may
need more than 64 bits: ``numeric`` in SQL, plain integers here.

Always: the net quantities of an instrument sum to zero, and a closed position has no
cost left.
"""

from collections.abc import Sequence, Set
from decimal import Decimal
from typing import Final

import asyncpg
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Integer, Numeric, SmallInteger, Table, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import TradeExecuted
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.stores.checkpoints import is_live, read_checkpoints
from projections.stores.postgres import PostgresProjection, columns

NAME = "positions"
VERSION: Final = 1  # of the rules

POSITIONS = Table(
    "positions",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("client_id", Text, primary_key=True),
    Column("instrument", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("net_quantity", Numeric, nullable=False),
    Column("total_cost", Numeric, nullable=False),
    Column("realised_pnl", Numeric, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    postgresql_partition_by="LIST (generation)",
)

READ_AFFECTED = """
select client_id, instrument, net_quantity, total_cost, realised_pnl
from positions
join unnest($2::text[], $3::text[]) as affected (client_id, instrument)
    using (client_id, instrument)
where generation = $1
"""

UPSERT_POSITIONS = """
insert into positions
    (generation, client_id, instrument, shard, net_quantity, total_cost, realised_pnl, position,
    updated_ms)
select $1, client_id, instrument, shard, net_quantity, total_cost, realised_pnl, position,
    updated_ms
from unnest($2::text[], $3::text[], $4::smallint[], $5::numeric[], $6::numeric[], $7::numeric[],
    $8::bigint[], $9::bigint[])
    as new (client_id, instrument, shard, net_quantity, total_cost, realised_pnl, position,
        updated_ms)
on conflict (generation, client_id, instrument) do update set
    net_quantity = excluded.net_quantity,
    total_cost = excluded.total_cost,
    realised_pnl = excluded.realised_pnl,
    position = excluded.position,
    updated_ms = excluded.updated_ms
"""

READ_POSITIONS = (
    select(
        POSITIONS.c.client_id,
        POSITIONS.c.instrument,
        POSITIONS.c.shard,
        POSITIONS.c.net_quantity,
        POSITIONS.c.total_cost,
        POSITIONS.c.realised_pnl,
        POSITIONS.c.position,
        POSITIONS.c.updated_ms,
    )
    .where(is_live(POSITIONS, NAME))
    .order_by(POSITIONS.c.instrument)
)

Key = tuple[str, str]  # client, instrument


class Holding(Struct, frozen=True):
    """A net quantity, its cost (with the same sign), and the profit that is already realised."""

    net_quantity: int = 0
    total_cost: int = 0
    realised_pnl: int = 0


class ClientPosition(Struct, frozen=True):
    """A client's position in an instrument, as last changed at ``position``."""

    client_id: str
    instrument: str
    shard: int
    net_quantity: int
    total_cost: int
    realised_pnl: int
    position: int
    updated_ms: int


def after_trade(holding: Holding, quantity: int, price: int) -> Holding:
    """Return the holding after buying ``quantity``, or selling it if it is negative."""
    net, cost = holding.net_quantity, holding.total_cost
    if net * quantity >= 0:
        return Holding(net + quantity, cost + quantity * price, holding.realised_pnl)
    closed = min(abs(quantity), abs(net))
    sign = 1 if net > 0 else -1
    removed = sign * (abs(cost) * closed // abs(net))
    proceeds = sign * closed * price
    opened = quantity + sign * closed  # the part of the trade that opens the opposite position
    return Holding(
        net + quantity,
        cost - removed + opened * price,
        holding.realised_pnl + proceeds - removed,
    )


async def list_positions(
    connection: AsyncConnection, client_id: str, *, after: str = "", limit: int
) -> tuple[list[ClientPosition], dict[int, int]]:
    """Return a client's positions by instrument, and how far the model was at least, by shard.

    Closed positions are included.

    Args:
        connection: Any connection to the database.
        client_id: The client.
        after: Only instruments with names above this one: the last name of the page before.
        limit: How many at most.
    """
    reached = await read_checkpoints(connection, NAME)
    query = READ_POSITIONS.where(POSITIONS.c.client_id == client_id, POSITIONS.c.instrument > after)
    rows = await connection.execute(query.limit(limit))
    return [_client_position(*row) for row in rows], reached


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Apply a batch's trades, the buyer's side of each before the seller's."""
    trades = [
        (decided, decided.event) for decided in events if isinstance(decided.event, TradeExecuted)
    ]
    if not trades:
        return
    holdings = await _read(connection, generation, {key for _, e in trades for key, _ in _sides(e)})
    changed: dict[Key, DecidedEvent] = {}
    for decided, event in trades:
        for key, quantity in _sides(event):
            holdings[key] = after_trade(holdings.get(key, Holding()), quantity, event.price)
            changed[key] = decided
    rows = [_row(key, holdings[key], changed[key]) for key in sorted(changed)]
    await connection.execute(UPSERT_POSITIONS, generation, *columns(rows))


def positions_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the positions up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (POSITIONS,),
        project,
        version=VERSION,
        fold=None,
        last_event={POSITIONS.name: "position"},
    )


def _sides(event: TradeExecuted) -> tuple[tuple[Key, int], tuple[Key, int]]:
    """Return the buyer's key and quantity, then the seller's, whose quantity is negative."""
    return (
        ((event.buyer_client_id, event.instrument), event.quantity),
        ((event.seller_client_id, event.instrument), -event.quantity),
    )


async def _read(
    connection: asyncpg.Connection, generation: int, keys: Set[Key]
) -> dict[Key, Holding]:
    rows = await connection.fetch(READ_AFFECTED, generation, *columns(sorted(keys)))
    return {
        (row["client_id"], row["instrument"]): Holding(
            int(row["net_quantity"]), int(row["total_cost"]), int(row["realised_pnl"])
        )
        for row in rows
    }


def _row(key: Key, holding: Holding, last: DecidedEvent) -> tuple[object, ...]:
    return (
        *key,
        last.shard,
        holding.net_quantity,
        holding.total_cost,
        holding.realised_pnl,
        last.position,
        last.event.time_ms,
    )


def _client_position(
    client_id: str,
    instrument: str,
    shard: int,
    net_quantity: Decimal,
    total_cost: Decimal,
    realised_pnl: Decimal,
    position: int,
    updated_ms: int,
) -> ClientPosition:
    return ClientPosition(
        client_id,
        instrument,
        shard,
        int(net_quantity),
        int(total_cost),
        int(realised_pnl),
        position,
        updated_ms,
    )
