"""What clients owe each other at the end of each settlement cycle, netted.

A trade belongs to the cycle that is open on its shard. ``SettlementCycleClosed`` is the shard's
cut: it closes the cycle that it names and every cycle before, and opens the next. A cycle is closed
when every shard that takes part in it has cut it, so no shard waits for another.

A shard that is added later takes part from the cycle that was open on shard 0 when shard 0 recorded
``ShardPlaced``. The added shard's own log begins with the cut of the cycle before. The log
tells which shards exist; the caller adds shards that it knows of and that have decided nothing yet.

A buyer will receive the quantity and pay price × quantity, a seller the reverse; what a client
receives is positive. So quantities and amounts sum to zero in each cycle and instrument. Amounts
count units of 10^-(price_scale + quantity_scale). ``net_by_currency`` adds up a client's
instruments.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, Self

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Integer, Numeric, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.events import SettlementCycleClosed, TradeExecuted
from exchange.log.events import DecidedEvent
from exchange.log.reader import PLACED_SHARDS
from exchange.log.schema import metadata
from projections.folding import LogPart, Row, Rows, buyer_and_seller, fold_batch
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

NAME = "settlement"
VERSION: Final = 1  # of the rules

CYCLES = Table(
    "settlement_cycles",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("cycle", Integer, primary_key=True, autoincrement=False),
    Column("trade_count", BigInteger, nullable=False),
    Column("closed_ms", BigInteger),  # the cut's; null if a later cut closed the cycle
    Column("closed_position", BigInteger),
    postgresql_partition_by="LIST (generation)",
)

OBLIGATIONS = Table(
    "obligations",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("cycle", Integer, primary_key=True, autoincrement=False),
    Column("client_id", Text, primary_key=True),
    Column("instrument", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("net_quantity", Numeric, nullable=False),
    Column("net_amount", Numeric, nullable=False),
    postgresql_partition_by="LIST (generation)",
)

QUERIES: Final = Queries(NAME, VERSION, (CYCLES, OBLIGATIONS))

READ_OPEN_CYCLE = """
select cycle + 1 from settlement_cycles
where generation = $1 and shard = $2 and closed_ms is not null
order by cycle desc
limit 1
"""

UPSERT_CYCLES = """
insert into settlement_cycles
    (generation, shard, cycle, trade_count, closed_ms, closed_position)
select $1, shard, cycle, trade_count, closed_ms, closed_position
from unnest($2::smallint[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[])
    as new (shard, cycle, trade_count, closed_ms, closed_position)
on conflict (generation, shard, cycle) do update set
    trade_count = settlement_cycles.trade_count + excluded.trade_count,
    closed_ms = excluded.closed_ms,
    closed_position = excluded.closed_position
"""

UPSERT_OBLIGATIONS = """
insert into obligations
    (generation, cycle, client_id, instrument, shard, net_quantity, net_amount)
select $1, cycle, client_id, instrument, shard, net_quantity, net_amount
from unnest($2::integer[], $3::text[], $4::text[], $5::smallint[], $6::numeric[], $7::numeric[])
    as new (cycle, client_id, instrument, shard, net_quantity, net_amount)
on conflict (generation, cycle, client_id, instrument) do update set
    net_quantity = obligations.net_quantity + excluded.net_quantity,
    net_amount = obligations.net_amount + excluded.net_amount
"""

# Shards are read from the log in the same statement as the cuts, so a cut of shard 0 is never seen
# without the shards that were placed before it. A shard that was not placed takes part from the
# first cycle on.
SHARDS = f"""
placed as ({PLACED_SHARDS}),
shards as (
    select shard, coalesce(placed.cycle, {FIRST_CYCLE}) as first
    from (
        select generate_series(0, CAST(:shards AS integer) - 1) as shard
        union select shard from heads() where position > 0
        union select shard from placed
    ) as known
    left join placed using (shard)
)
"""

# For each cycle and shard the cut that closed the cycle: its own, or the next later one.
_CUTS: Final = """
with {shards}
select numbers.cycle, shards.shard, cut.closed_ms,
    (
        select trade_count from settlement_cycles as own
        where own.generation = :generation and own.shard = shards.shard
            and own.cycle = numbers.cycle{own_is_cut}
    ) as trade_count
from generate_series(CAST(:first AS integer), CAST(:last AS integer)) as numbers (cycle)
join shards on shards.first <= numbers.cycle
left join lateral (
    select closed_ms from settlement_cycles as later
    where later.generation = :generation and later.shard = shards.shard
        and later.cycle >= numbers.cycle and later.closed_ms is not null{later_is_cut}
    order by later.cycle
    limit 1
) as cut on true
"""
READ_CUTS = text(_CUTS.format(shards=SHARDS, own_is_cut="", later_is_cut=""))

# As of a moment: of each shard only the cycles before the one that was open there.
READ_CUTS_AS_OF = text(
    _CUTS.format(
        shards="""shards as (
    select * from unnest(
        CAST(:shards AS smallint[]), CAST(:firsts AS integer[]), CAST(:opens AS integer[])
    ) as one (shard, first, open)
)""",
        own_is_cut=" and own.cycle < shards.open",
        later_is_cut=" and later.cycle < shards.open",
    )
)

READ_FIRST_OPEN = text(f"""
with {SHARDS}
select min(greatest(shards.first, (
    select max(cycle) + 1 from settlement_cycles as own
    where own.generation = :generation and own.shard = shards.shard
        and own.closed_ms is not null
)))
from shards
""")

_ONLY_SHARDS: Final = "shard = any(coalesce(CAST(:shards AS smallint[]), array[shard]))"

READ_OBLIGATIONS = text(f"""
select client_id, instrument, shard, net_quantity, net_amount from obligations
where generation = :generation and cycle = :cycle and {_ONLY_SHARDS}
    and client_id = any(array(
        select distinct client_id from obligations
        where generation = :generation and cycle = :cycle and client_id > :after
            and client_id = coalesce(CAST(:client_id AS text), client_id)
            and {_ONLY_SHARDS}
        order by client_id
        limit :limit
    ))
order by client_id, instrument
""")


class Cycle(Struct, frozen=True):
    """A settlement cycle: its trades, and when each shard cut it (by shard, None if not yet)."""

    cycle: int
    trade_count: int
    cuts: dict[int, int | None]

    @property
    def closed_ms(self) -> int | None:
        """When the last shard cut the cycle, None while one has not."""
        times_ms = [time_ms for time_ms in self.cuts.values() if time_ms is not None]
        return max(times_ms) if len(times_ms) == len(self.cuts) else None

    @property
    def is_being_closed(self) -> bool:
        """Whether some shards have cut the cycle and others have not."""
        return self.closed_ms is None and any(ms is not None for ms in self.cuts.values())


class Obligation(Struct, frozen=True):
    """What a client will receive (deliver, if negative) for an instrument's trades."""

    client_id: str
    instrument: str
    shard: int
    net_quantity: int
    net_amount: int


class Listed(Protocol):
    """An instrument's two currencies, and the scales of the obligations in each."""

    @property
    def base(self) -> str: ...
    @property
    def quote(self) -> str: ...
    @property
    def quantity_scale(self) -> int: ...
    @property
    def cost_scale(self) -> int: ...


def net_by_currency(
    owed: Iterable[Obligation], listings: Mapping[str, Listed]
) -> dict[str, tuple[int, int]]:
    """Add up a client's obligations by currency, exactly.

    Returns:
        By currency, in order of their names: an amount in units, and its scale, which is the finest
        of the obligations added.
    """
    parts: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for obligation in owed:
        listing = listings[obligation.instrument]
        parts[listing.base].append((obligation.net_quantity, listing.quantity_scale))
        parts[listing.quote].append((obligation.net_amount, listing.cost_scale))
    return {currency: _sum(parts[currency]) for currency in sorted(parts)}


@QUERIES.query
async def read_open_cycle(connection: AsyncConnection, live: Live, shards: int) -> int:
    """Return the first cycle that not all its shards have cut."""
    parameters = {"generation": live.generation, "shards": shards}
    found: int | None = await connection.scalar(READ_FIRST_OPEN, parameters)
    return found or FIRST_CYCLE


@QUERIES.query
async def list_cycles(
    connection: AsyncConnection, live: Live, shards: int, *, first: int, last: int
) -> list[Cycle]:
    """Return the cycles from ``first`` to ``last``, newest first, even if they have not begun."""
    parameters = {"generation": live.generation, "first": first, "last": last, "shards": shards}
    cuts: defaultdict[int, dict[int, int | None]] = defaultdict(dict)
    trades: defaultdict[int, int] = defaultdict(int)
    for cycle, shard, closed_ms, trade_count in await connection.execute(READ_CUTS, parameters):
        cuts[cycle][shard] = closed_ms
        trades[cycle] += trade_count or 0
    return [Cycle(n, trades[n], cuts[n]) for n in sorted(cuts, reverse=True)]


@QUERIES.query
async def list_obligations(
    connection: AsyncConnection,
    live: Live,
    cycle: int,
    *,
    client_id: str | None,
    after: str,
    limit: int,
    shards: Sequence[int] | None = None,
) -> list[Obligation]:
    """Return a cycle's obligations of the next ``limit`` clients, by client and instrument.

    They are those of ``shards``, or of all.
    """
    parameters = {
        "generation": live.generation,
        "cycle": cycle,
        "client_id": client_id,
        "after": after,
        "limit": limit,
        "shards": None if shards is None else list(shards),
    }
    rows = await connection.execute(READ_OBLIGATIONS, parameters)
    return [
        Obligation(client, instrument, shard, int(quantity), int(amount))
        for client, instrument, shard, quantity, amount in rows
    ]


@QUERIES.query
async def list_cycles_as_of(
    connection: AsyncConnection,
    live: Live,
    folds: Mapping[int, "SettlementFold"],
    firsts: Mapping[int, int],
    *,
    first: int,
    last: int,
) -> list[Cycle]:
    """Return what ``list_cycles`` said at a moment that the live model has passed.

    A cycle that its shard had cut by then is as it was. The one that was open there is that of the
    fold.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        folds: For each shard that takes part, its fold, which ends at the moment.
        firsts: The first cycle of each of these shards.
        first: The first cycle.
        last: The last cycle.
    """
    shards = sorted(folds)
    opens = {shard: folds[shard].open_cycle(shard) for shard in shards}
    parameters = {
        "generation": live.generation,
        "first": first,
        "last": last,
        "shards": shards,
        "firsts": [firsts[shard] for shard in shards],
        "opens": [opens[shard] for shard in shards],
    }
    cuts: defaultdict[int, dict[int, int | None]] = defaultdict(dict)
    trades: defaultdict[int, int] = defaultdict(int)
    rows = await connection.execute(READ_CUTS_AS_OF, parameters)
    for cycle, shard, closed_ms, trade_count in rows:
        cuts[cycle][shard] = closed_ms
        is_open = cycle == opens[shard]
        trades[cycle] += folds[shard].open_trades(shard) if is_open else trade_count or 0
    return [Cycle(n, trades[n], cuts[n]) for n in sorted(cuts, reverse=True)]


def open_cycle_as_of(folds: Mapping[int, "SettlementFold"], firsts: Mapping[int, int]) -> int:
    """Return what ``read_open_cycle`` said at a moment, at which the folds of its shards end."""
    opens = (max(firsts[shard], fold.open_cycle(shard)) for shard, fold in folds.items())
    return min(opens, default=FIRST_CYCLE)


async def list_obligations_as_of(
    connection: AsyncConnection,
    live: Live,
    folds: Mapping[int, "SettlementFold"],
    cycle: int,
    *,
    client_id: str | None,
    after: str,
    limit: int,
) -> list[Obligation]:
    """Return what ``list_obligations`` said at a moment that the live model has passed.

    A shard's obligations of a cycle that it had cut by then are as they were. Those of the cycle
    that was open there are those of the shard's fold, and of later cycles it had none. A shard that
    has no fold had not been placed: what it owes is of later.
    """
    cut = [shard for shard, fold in folds.items() if fold.open_cycle(shard) > cycle]
    owed = await list_obligations(
        connection, live, cycle, client_id=client_id, after=after, limit=limit, shards=cut
    )
    for shard in folds.keys() - {*cut}:
        owed += [
            one
            for one in folds[shard].owed(shard, cycle)
            if one.client_id > after and client_id in (None, one.client_id)
        ]
    owed.sort(key=lambda one: (one.client_id, one.instrument))
    clients = set(sorted({one.client_id for one in owed})[:limit])
    return [one for one in owed if one.client_id in clients]


def _sum(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    finest = max(scale for _, scale in parts)
    return sum(units * 10 ** (finest - scale) for units, scale in parts), finest


class _Owed(Struct, gc=False):
    """What a client will receive for the trades of a cycle; ``position`` is that of the last."""

    quantity: int = 0
    amount: int = 0
    position: int = 0


class _OpenCycle(Struct):
    """A shard's open cycle: its trades, the last one's position, and what clients owe by now."""

    cycle: int = FIRST_CYCLE
    trade_count: int = 0
    position: int = 0
    owed: dict[str, dict[str, _Owed]] = {}  # by instrument and client

    def trade(self, event: TradeExecuted, position: int) -> None:
        self.trade_count += 1
        self.position = position
        quantity, amount = event.quantity, event.price * event.quantity
        buyer, seller = buyer_and_seller(event)
        clients = self.owed.setdefault(event.instrument, {})
        _owe(clients, buyer, quantity, -amount, position)
        _owe(clients, seller, -quantity, amount, position)

    def obligation_rows(self, shard: int) -> list[Row]:
        return [
            (self.cycle, client, instrument, shard, owed.quantity, owed.amount, owed.position)
            for instrument, clients in self.owed.items()
            for client, owed in clients.items()
        ]

    def cycle_rows(self, shard: int) -> list[Row]:
        """Return the row of a cycle without a cut; a cycle without trades has none."""
        if not self.trade_count:
            return []
        return [(shard, self.cycle, self.trade_count, None, None, self.position)]


class _State(Struct):
    """What a fold keeps: rows that are finished, and each shard's open cycle."""

    cycles: list[Row] = []
    obligations: list[Row] = []
    open: dict[int, _OpenCycle] = {}


class SettlementFold:
    """Cycles and obligations in memory; those of a cycle that its shard has cut are finished.

    Each row has one value more than its table has columns: the position of the last event that
    changed it.
    """

    def __init__(self, state: _State | None = None) -> None:
        self._state = state or _State()

    @classmethod
    def begun_at(cls, shard: int, cycle: int) -> Self:
        """Return a fold that goes on where a cycle is open, without its trades so far."""
        return cls(_State(open={shard: _OpenCycle(cycle)}))

    def add(self, part: LogPart) -> None:
        shard = part.shard
        cycle = self._state.open.setdefault(shard, _OpenCycle())
        for position, event in enumerate(part.events, part.first):
            if type(event) is TradeExecuted:
                cycle.trade(event, position)
            elif type(event) is SettlementCycleClosed:
                self._cut(shard, cycle, event, position)
                cycle = self._state.open[shard] = _OpenCycle(event.cycle + 1)

    def finished(self) -> Rows:
        state = self._state
        rows: Rows = {CYCLES.name: state.cycles, OBLIGATIONS.name: state.obligations}
        state.cycles, state.obligations = [], []
        return rows

    def rows(self) -> Rows:
        cycles, obligations = list(self._state.cycles), list(self._state.obligations)
        for shard, cycle in self._state.open.items():
            cycles += cycle.cycle_rows(shard)
            obligations += cycle.obligation_rows(shard)
        return {CYCLES.name: cycles, OBLIGATIONS.name: obligations}

    def open_cycle(self, shard: int) -> int:
        """Return the cycle that is open on a shard."""
        return self._state.open.get(shard, _OpenCycle()).cycle

    def open_trades(self, shard: int) -> int:
        """Return how many trades the cycle has that is open on a shard."""
        return self._state.open.get(shard, _OpenCycle()).trade_count

    def owed(self, shard: int, cycle: int) -> list[Obligation]:
        """Return a shard's obligations of a cycle, which is open there or a later one."""
        found = self._state.open.get(shard, _OpenCycle())
        if found.cycle != cycle:
            return []
        return [
            Obligation(client, instrument, shard, owed.quantity, owed.amount)
            for instrument, clients in found.owed.items()
            for client, owed in clients.items()
        ]

    @property
    def size(self) -> int:
        state = self._state
        still_open = sum(
            bool(cycle.trade_count) + sum(map(len, cycle.owed.values()))
            for cycle in state.open.values()
        )
        return len(state.cycles) + len(state.obligations) + still_open

    def dump(self) -> bytes:
        return msgspec.json.encode(self._state)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=_State))

    def _cut(
        self, shard: int, cycle: _OpenCycle, cut: SettlementCycleClosed, position: int
    ) -> None:
        """Finish a shard's open cycle; the cut may name a later one, and closes both."""
        trades = cycle.trade_count
        if cut.cycle != cycle.cycle:
            self._state.cycles += cycle.cycle_rows(shard)
            trades = 0
        self._state.cycles.append((shard, cut.cycle, trades, cut.time_ms, position, position))
        self._state.obligations += cycle.obligation_rows(shard)


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Add a batch's trades to the cycle that was open, and note its cuts."""
    if not any(isinstance(d.event, TradeExecuted | SettlementCycleClosed) for d in events):
        return
    shard = events[0].shard
    cycle = await connection.fetchval(READ_OPEN_CYCLE, generation, shard)
    rows = fold_batch(SettlementFold.begun_at(shard, cycle or FIRST_CYCLE), events)
    await connection.execute(UPSERT_CYCLES, generation, *_columns(rows[CYCLES.name]))
    if rows[OBLIGATIONS.name]:
        await connection.execute(UPSERT_OBLIGATIONS, generation, *_columns(rows[OBLIGATIONS.name]))


def settlement_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps cycles and obligations up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (CYCLES, OBLIGATIONS),
        project,
        version=VERSION,
        fold=SettlementFold,
        last_event={CYCLES.name: None, OBLIGATIONS.name: None},
    )


def _columns(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    """Return the columns of rows in order of their keys, without the last event's position."""
    return columns(sorted(rows))[:-1]


def _owe(
    clients: dict[str, _Owed], client_id: str, quantity: int, amount: int, position: int
) -> None:
    owed = clients.get(client_id)
    if owed is None:
        owed = clients[client_id] = _Owed()
    owed.quantity += quantity
    owed.amount += amount
    owed.position = position
