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

from collections.abc import Iterable, Sequence, Set
from decimal import Decimal
from typing import Any, Final, Self, cast

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Integer, Numeric, SmallInteger, Table, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import TradeExecuted
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.folding import LogPart, Row, Rows, buyer_and_seller, fold_batch
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

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

QUERIES: Final = Queries(NAME, VERSION, (POSITIONS,))

READ_AFFECTED = """
select client_id, instrument, shard, net_quantity, total_cost, realised_pnl
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

READ_POSITIONS = select(
    POSITIONS.c.client_id,
    POSITIONS.c.instrument,
    POSITIONS.c.shard,
    POSITIONS.c.net_quantity,
    POSITIONS.c.total_cost,
    POSITIONS.c.realised_pnl,
    POSITIONS.c.position,
    POSITIONS.c.updated_ms,
).order_by(POSITIONS.c.instrument)

Key = tuple[str, str]  # client, instrument


class Holding(Struct, gc=False):
    """A net quantity, its cost (with the same sign), and the profit that is already realised.

    ``position`` and ``updated_ms`` are those of the last trade.
    """

    net_quantity: int = 0
    total_cost: int = 0
    realised_pnl: int = 0
    shard: int = 0
    position: int = 0
    updated_ms: int = 0

    def trade(self, quantity: int, price: int) -> None:
        """Buy ``quantity``, or sell it if it is negative."""
        net, cost = self.net_quantity, self.total_cost
        self.net_quantity = net + quantity
        if net * quantity >= 0:
            self.total_cost = cost + quantity * price
            return
        closed = net if abs(net) < abs(quantity) else -quantity  # signed like the net quantity
        share = cost * closed // abs(net)
        removed = share if net > 0 else -share
        opened = quantity + closed  # the part of the trade that opens the opposite position
        self.total_cost = cost - removed + opened * price
        self.realised_pnl += closed * price - removed


_Holdings = dict[str, dict[str, Holding]]  # by instrument and client


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


@QUERIES.query
async def list_positions(
    connection: AsyncConnection, live: Live, client_id: str, *, after: str = "", limit: int
) -> list[ClientPosition]:
    """Return a client's positions by instrument.

    Closed positions are included.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        client_id: The client.
        after: Only instruments with names above this one: the last name of the page before.
        limit: How many at most.
    """
    query = READ_POSITIONS.where(
        POSITIONS.c.generation == live.generation,
        POSITIONS.c.client_id == client_id,
        POSITIONS.c.instrument > after,
    )
    rows = await connection.execute(query.limit(limit))
    return [_client_position(*row) for row in rows]


def positions_as_of(folds: Iterable["PositionsFold"], client_id: str) -> list[ClientPosition]:
    """Return what ``list_positions`` said at a moment; there is a fold up to it for each shard."""
    found = [position for fold in folds for position in fold.of_client(client_id)]
    return sorted(found, key=lambda position: position.instrument)


class PositionsFold:
    """The positions in memory. None is ever finished: its client may trade again."""

    def __init__(self, holdings: _Holdings | None = None) -> None:
        self._holdings = holdings or {}

    def add(self, part: LogPart) -> None:
        """Apply the trades, the buyer's side of each before the seller's."""
        for position, event in enumerate(part.events, part.first):
            if type(event) is TradeExecuted:
                clients = self._holdings.get(event.instrument)
                if clients is None:
                    clients = self._holdings[event.instrument] = {}
                buyer, seller = buyer_and_seller(event)
                for client, quantity in ((buyer, event.quantity), (seller, -event.quantity)):
                    holding = clients.get(client)
                    if holding is None:
                        holding = clients[client] = Holding(shard=part.shard)
                    holding.trade(quantity, event.price)
                    holding.position, holding.updated_ms = position, event.time_ms

    def finished(self) -> Rows:
        return {POSITIONS.name: []}

    def rows(self) -> Rows:
        rows = [
            _row(client, instrument, holding)
            for instrument, clients in self._holdings.items()
            for client, holding in clients.items()
        ]
        return {POSITIONS.name: rows}

    def of_client(self, client_id: str) -> list[ClientPosition]:
        """Return a client's positions."""
        return [
            ClientPosition(*cast("Any", _row(client_id, instrument, clients[client_id])))
            for instrument, clients in self._holdings.items()
            if client_id in clients
        ]

    @property
    def size(self) -> int:
        return sum(map(len, self._holdings.values()))

    def dump(self) -> bytes:
        return msgspec.json.encode(self._holdings)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=_Holdings))


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Apply a batch's trades."""
    keys = {
        (client, decided.event.instrument)
        for decided in events
        if isinstance(decided.event, TradeExecuted)
        for client in buyer_and_seller(decided.event)
    }
    if not keys:
        return
    fold = PositionsFold(await _read(connection, generation, keys))
    rows = fold_batch(fold, events)[POSITIONS.name]
    await connection.execute(UPSERT_POSITIONS, generation, *columns(sorted(rows)))


def positions_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the positions up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (POSITIONS,),
        project,
        version=VERSION,
        fold=PositionsFold,
        last_event={POSITIONS.name: "position"},
    )


async def _read(connection: asyncpg.Connection, generation: int, keys: Set[Key]) -> _Holdings:
    holdings: _Holdings = {}
    rows = await connection.fetch(READ_AFFECTED, generation, *columns(sorted(keys)))
    for client_id, instrument, shard, quantity, cost, pnl in rows:
        holding = Holding(int(quantity), int(cost), int(pnl), shard)
        holdings.setdefault(instrument, {})[client_id] = holding
    return holdings


def _row(client_id: str, instrument: str, holding: Holding) -> Row:
    return (
        client_id,
        instrument,
        holding.shard,
        holding.net_quantity,
        holding.total_cost,
        holding.realised_pnl,
        holding.position,
        holding.updated_ms,
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
