"""Every order as it is now, and the events that made it so.

Read ``changes``, the only function that knows what each event does to orders. ``after`` returns an
order after a change. Answers and the stream use both too.

``_Effects`` has what a batch did to each order. An order that begins in the batch is inserted as it
is at the batch's end. An earlier order gets the batch's last change. Any split into batches gives
the same rows, since a change says how much remains of an order, not how much was filled.

An older log may begin an order twice: a record without a key was decided twice if Kafka held it
twice. The row is then the order as it began last, as in an answer that is folded from the log. Its
history has all events, and other read models have all its trades.

A refused order has a row too, unless its id was taken: the id then belongs to another order, which
the refusal does not change.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Self, assert_never
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    Select,
    SmallInteger,
    Table,
    Text,
    Uuid,
    cast,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import (
    AccountCreated,
    AccountRejected,
    CancelAllAccepted,
    CancelRejected,
    ClientResumed,
    ClientSuspended,
    CommandQuarantined,
    CommandRetried,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    KeyIssued,
    KeyRejected,
    KeyRevoked,
    OpenOrdersLimited,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
    ShardPlaced,
    TradeExecuted,
)
from exchange.domain.values import RejectReason
from exchange.log.events import DecidedEvent, load_event
from exchange.log.schema import EVENTS, metadata
from exchange.ports import StoredEvent
from projections.folding import LogPart, Row, Rows, parts_of
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

NAME = "orders"
VERSION: Final = 1  # of the rules


class OrderStatus(StrEnum):
    """The status of an order; the last three are final."""

    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


# To look up a member of an enum takes as long as to make a small struct.
_OPEN, _PARTIALLY_FILLED, _FILLED, _CANCELLED, _REJECTED = OrderStatus
ALL_STATUSES: Final = frozenset(OrderStatus)
WORKING_STATUSES: Final = frozenset((_OPEN, _PARTIALLY_FILLED))
FINAL_STATUSES: Final = (_FILLED, _CANCELLED, _REJECTED)  # in a set each look-up would hash a name

ORDERS = Table(
    "orders",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("order_id", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("instrument", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("order_type", Text, nullable=False),
    Column("price", BigInteger),
    Column("quantity", BigInteger, nullable=False),
    Column("filled_quantity", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("command_id", Uuid, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Index("orders_by_client", "generation", "client_id", "created_ms", "shard", "position"),
    # Market makers ask for their open orders, which are a small part of all that they sent.
    Index(
        "open_orders_by_client",
        "generation",
        "client_id",
        "created_ms",
        "shard",
        "position",
        postgresql_where=text("status in ('open', 'partially_filled')"),
    ),
    postgresql_partition_by="LIST (generation)",
)

ORDER_EVENTS = Table(
    "order_events",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("order_id", Text, primary_key=True),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    postgresql_partition_by="LIST (generation)",
)

QUERIES: Final = Queries(NAME, VERSION, (ORDERS, ORDER_EVENTS))

INSERT_ORDERS = """
insert into orders
    (generation, order_id, shard, instrument, client_id, side, order_type, price, quantity,
    filled_quantity, status, reason, command_id, created_ms, updated_ms, position, last_position)
select $1, order_id, shard, instrument, client_id, side, order_type, price, quantity,
    filled_quantity, status, reason, command_id, created_ms, updated_ms, position, last_position
from unnest($2::text[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::uuid[],
    $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
    as new (order_id, shard, instrument, client_id, side, order_type, price, quantity,
        filled_quantity, status, reason, command_id, created_ms, updated_ms, position,
        last_position)
on conflict (generation, order_id) do update set
    shard = excluded.shard,
    instrument = excluded.instrument,
    client_id = excluded.client_id,
    side = excluded.side,
    order_type = excluded.order_type,
    price = excluded.price,
    quantity = excluded.quantity,
    filled_quantity = excluded.filled_quantity,
    status = excluded.status,
    reason = excluded.reason,
    command_id = excluded.command_id,
    created_ms = excluded.created_ms,
    updated_ms = excluded.updated_ms,
    position = excluded.position,
    last_position = excluded.last_position
"""

UPDATE_ORDERS = """
update orders set
    filled_quantity = orders.quantity - change.remaining,
    status = coalesce(
        change.status,
        case when orders.quantity = change.remaining then 'open' else 'partially_filled' end
    ),
    reason = change.reason,
    updated_ms = change.updated_ms,
    last_position = change.last_position
from unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
    as change (order_id, remaining, status, reason, updated_ms, last_position)
where orders.generation = $1 and orders.order_id = change.order_id
"""

INSERT_ORDER_EVENTS = """
insert into order_events (generation, order_id, shard, position)
select $1, order_id, shard, position
from unnest($2::text[], $3::smallint[], $4::bigint[]) as new (order_id, shard, position)
"""

# The same words as the index's predicate, so that the planner uses the index even in a generic
# plan.
_IS_WORKING = text("orders.status in ('open', 'partially_filled')")

READ_ORDERS = select(
    ORDERS.c.order_id,
    ORDERS.c.shard,
    ORDERS.c.instrument,
    ORDERS.c.client_id,
    ORDERS.c.side,
    ORDERS.c.order_type,
    ORDERS.c.price,
    ORDERS.c.quantity,
    ORDERS.c.filled_quantity,
    ORDERS.c.status,
    ORDERS.c.reason,
    ORDERS.c.command_id,
    ORDERS.c.created_ms,
    ORDERS.c.updated_ms,
    ORDERS.c.position,
    ORDERS.c.last_position,
)

READ_ORDER_HISTORY = (
    select(
        EVENTS.c.shard,
        EVENTS.c.position,
        EVENTS.c.instrument,
        EVENTS.c.type,
        EVENTS.c.version,
        cast(EVENTS.c.data, Text),  # as it is stored, not parsed
        EVENTS.c.command_id,
        EVENTS.c.kafka_offset,
    )
    .join_from(
        ORDER_EVENTS,
        EVENTS,
        (EVENTS.c.shard == ORDER_EVENTS.c.shard) & (EVENTS.c.position == ORDER_EVENTS.c.position),
    )
    .order_by(ORDER_EVENTS.c.shard, ORDER_EVENTS.c.position)
)


# Of each order its newest beginning up to a position, and its last event up to there.
READ_REMADE: Final = text("""
select asked.order_id, shard, position, instrument, type, version, data, command_id, kafka_offset
from unnest(
    CAST(:order_ids AS text[]), CAST(:shards AS smallint[]), CAST(:positions AS bigint[])
) as asked (order_id, of_shard, up_to)
cross join lateral (
    (
        select shard, position, instrument, type, version, data::text as data, command_id,
            kafka_offset
        from order_events join events using (shard, position)
        where generation = :generation and order_events.order_id = asked.order_id
            and shard = of_shard and position <= up_to
            and type in ('OrderAccepted', 'OrderRejected')
        order by position desc
        limit 1
    )
    union
    (
        select shard, position, instrument, type, version, data::text as data, command_id,
            kafka_offset
        from order_events join events using (shard, position)
        where generation = :generation and order_events.order_id = asked.order_id
            and shard = of_shard and position <= up_to
        order by position desc
        limit 1
    )
) as event
order by asked.order_id, position
""")

ORDERS_AT_ONCE: Final = 1_000  # bounds what is made again at once


class Order(Struct, frozen=True, gc=False):
    """An order: price and quantities in the instrument's units, times since the epoch.

    ``position`` is that of its first event, ``last_position`` that of the last event that changed
    it.
    """

    order_id: str
    shard: int
    instrument: str
    client_id: str
    side: str
    order_type: str
    price: int | None
    quantity: int
    filled_quantity: int
    status: str
    reason: str | None
    command_id: UUID
    created_ms: int
    updated_ms: int
    position: int
    last_position: int

    @property
    def cursor(self) -> "OrderCursor":
        """The cursor of a page that ends with this order."""
        return OrderCursor(self.created_ms, self.shard, self.position)


class OrderCursor(Struct, frozen=True):
    """Where a page of a client's orders ended."""

    created_ms: int
    shard: int
    position: int


class Change(Struct, frozen=True, gc=False):
    """What an event does to one order: how much of it may still trade, or was cancelled or refused.

    A status of None means open, or partially filled if some of the order is.
    """

    order_id: str
    remaining: int
    status: OrderStatus | None = None
    reason: str | None = None


def changes(event: Event) -> tuple[Change, ...]:
    """Return what an event does to each order that it is about; of a trade the taker's is first."""
    match event:
        case TradeExecuted():
            return (
                _filled(event.taker_order_id, event.taker_remaining),
                _filled(event.maker_order_id, event.maker_remaining),
            )
        case OrderAccepted():
            return (Change(event.order_id, event.quantity, _OPEN),)
        case OrderRested():
            return (Change(event.order_id, event.quantity),)
        case OrderCancelled():
            return (Change(event.order_id, event.quantity, _CANCELLED, event.reason.value),)
        case OrderRejected():
            return (Change(event.order_id, event.quantity, _REJECTED, event.reason.value),)
        case (
            CancelRejected()
            | CancelAllAccepted()
            | InstrumentRegistered()
            | InstrumentRejected()
            | SettlementCycleClosed()
            | SettlementCycleRejected()
            | OpenOrdersLimited()
            | ShardPlaced()
            | AccountCreated()
            | AccountRejected()
            | ClientSuspended()
            | ClientResumed()
            | KeyIssued()
            | KeyRevoked()
            | KeyRejected()
            | RecordRejected()
            | CommandQuarantined()
            | CommandRetried()
        ):
            return ()
        case _:
            assert_never(event)


def is_id_taken(event: Event) -> bool:
    """Tell whether an order was refused because an earlier order has its id."""
    return isinstance(event, OrderRejected) and event.reason is RejectReason.DUPLICATE_ORDER_ID


def begun(decided: DecidedEvent, event: OrderAccepted | OrderRejected) -> Order:
    """Return the order that a first event begins, before the ``changes`` of that event."""
    return _begun(event, decided.shard, decided.position, decided.command_id)


def after(order: Order, change: Change, decided: DecidedEvent) -> Order:
    """Return an order after a change that ``decided`` made."""
    return _after(order, change, decided.position, decided.event.time_ms)


@QUERIES.query
async def get_order(connection: AsyncConnection, live: Live, order_id: str) -> Order | None:
    """Return an order, None if the model has none."""
    query = _of(live).where(ORDERS.c.order_id == order_id)
    row = (await connection.execute(query)).first()
    return None if row is None else _order(row)


@QUERIES.query
async def find_orders(
    connection: AsyncConnection, live: Live, order_ids: Sequence[str]
) -> list[Order]:
    """Return the orders of these ids that the model has."""
    rows = await connection.execute(_of(live).where(ORDERS.c.order_id.in_(order_ids)))
    return [_order(row) for row in rows]


@QUERIES.query
async def list_orders(
    connection: AsyncConnection,
    live: Live,
    client_id: str,
    *,
    statuses: Collection[OrderStatus] = ALL_STATUSES,
    instrument: str | None = None,
    before: OrderCursor | None = None,
    limit: int,
) -> list[Order]:
    """Return a client's orders, newest first.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        client_id: The client.
        statuses: Only orders with one of these.
        instrument: Only orders of this instrument.
        before: The cursor of the last order of the page before.
        limit: How many at most.
    """
    query = _of(live).where(ORDERS.c.client_id == client_id)
    wanted = frozenset(statuses)
    if wanted != ALL_STATUSES and wanted != WORKING_STATUSES:
        query = query.where(ORDERS.c.status.in_(sorted(wanted)))
    if wanted <= WORKING_STATUSES:
        query = query.where(_IS_WORKING)
    if instrument is not None:
        query = query.where(ORDERS.c.instrument == instrument)
    newest_first = (ORDERS.c.created_ms, ORDERS.c.shard, ORDERS.c.position)
    if before is not None:
        place = tuple_(
            before.created_ms,
            before.shard,
            before.position,
            types=[column.type for column in newest_first],
        )
        query = query.where(tuple_(*newest_first) < place)
    query = query.order_by(*(column.desc() for column in newest_first)).limit(limit)
    return [_order(row) for row in await connection.execute(query)]


@QUERIES.query
async def order_history(
    connection: AsyncConnection,
    live: Live,
    order_id: str,
    *,
    after: int = 0,
    up_to: int | None = None,
    limit: int,
) -> list[StoredEvent]:
    """Return the events that changed an order, oldest first.

    A refused cancel changes nothing and is not among them.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        order_id: The order; an unknown order has no history.
        after: Only events above this position: the last position of the page before.
        up_to: Only events up to this position: the history as of a moment.
        limit: How many at most.
    """
    query = READ_ORDER_HISTORY.where(
        ORDER_EVENTS.c.generation == live.generation,
        ORDER_EVENTS.c.order_id == order_id,
        ORDER_EVENTS.c.position > after,
    )
    if up_to is not None:
        query = query.where(ORDER_EVENTS.c.position <= up_to)
    rows = await connection.execute(query.limit(limit))
    return [StoredEvent(*row) for row in rows]


async def get_order_as_of(
    connection: AsyncConnection, live: Live, positions: Mapping[int, int], order_id: str
) -> Order | None:
    """Return what ``get_order`` said at a moment that the live model has passed.

    ``positions`` has the moment's position on each shard.
    """
    order = await get_order(connection, live, order_id)
    if order is None:
        return None
    return (await _as_of(connection, live, positions, [order])).get(order_id)


async def list_orders_as_of(
    connection: AsyncConnection,
    live: Live,
    positions: Mapping[int, int],
    latest_ms: int,
    client_id: str,
    *,
    statuses: Collection[OrderStatus] = ALL_STATUSES,
    instrument: str | None = None,
    before: OrderCursor | None = None,
    limit: int,
) -> list[Order]:
    """Return what ``list_orders`` said at a moment that the live model has passed.

    An order that has changed since is made again from its events up to the moment. One of an older
    log that began twice is listed once its second beginning is reached. Orders after ``latest_ms``,
    the time of the moment's newest event, are not looked at: there may be millions.
    """
    end = OrderCursor(latest_ms + 1, 0, 0)
    before = end if before is None else min(before, end, key=astuple)
    found: list[Order] = []
    asked = max(limit, ORDERS_AT_ONCE)
    while len(found) < limit:
        page = await list_orders(
            connection, live, client_id, instrument=instrument, before=before, limit=asked
        )
        by_then = [one for one in page if one.position <= positions.get(one.shard, 0)]
        made = await _as_of(connection, live, positions, by_then)
        orders = [made[one.order_id] for one in by_then if one.order_id in made]
        found += [one for one in orders if one.status in statuses]
        if len(page) < asked:
            break
        before = page[-1].cursor
    return found[:limit]


async def _as_of(
    connection: AsyncConnection, live: Live, positions: Mapping[int, int], orders: Sequence[Order]
) -> dict[str, Order]:
    """Return orders as they were at a moment, without those that had not begun."""
    changed = [one for one in orders if one.last_position > positions.get(one.shard, 0)]
    made = {one.order_id: one for one in orders}
    for one in changed:
        del made[one.order_id]
    if changed:
        made |= await _remade(connection, live, positions, changed)
    return made


@QUERIES.query
async def _remade(
    connection: AsyncConnection, live: Live, positions: Mapping[int, int], orders: Sequence[Order]
) -> dict[str, Order]:
    """Make orders from their newest beginnings and their last events up to a moment."""
    parameters = {
        "generation": live.generation,
        "order_ids": [one.order_id for one in orders],
        "shards": [one.shard for one in orders],
        "positions": [positions.get(one.shard, 0) for one in orders],
    }
    made: dict[str, Order] = {}
    for order_id, *row in await connection.execute(READ_REMADE, parameters):
        decided = load_event(StoredEvent(*row))
        event = decided.event
        if isinstance(event, OrderAccepted | OrderRejected):
            made[order_id] = begun(decided, event)
        for change in changes(event):
            if change.order_id == order_id:
                made[order_id] = after(made[order_id], change, decided)
    return made


class _Effects(Struct):
    """What events did to orders; to those that did not begin among them, the last change."""

    open: dict[str, Order] = {}
    final: list[Order] = []
    history: list[Row] = []
    earlier: dict[str, tuple[Change, int, int]] = {}  # with position and time

    def add(self, part: LogPart) -> None:
        shard, orders = part.shard, self.open
        for position, event in enumerate(part.events, part.first):
            if type(event) is OrderAccepted or type(event) is OrderRejected:
                if type(event) is OrderRejected and is_id_taken(event):
                    continue
                command_id = part.command_id(position - part.first)
                orders[event.order_id] = _begun(event, shard, position, command_id)
                if type(event) is OrderAccepted:  # it begins as its change would leave it
                    self.history.append((event.order_id, shard, position))
                    continue
            for change in changes(event):
                order_id = change.order_id
                self.history.append((order_id, shard, position))
                order = orders.get(order_id)
                if order is None:
                    self.earlier[order_id] = (change, position, event.time_ms)
                elif change.status in FINAL_STATUSES:
                    self.final.append(_after(order, change, position, event.time_ms))
                    del orders[order_id]
                else:
                    orders[order_id] = _after(order, change, position, event.time_ms)


class OrdersFold:
    """The orders in memory; an order is finished when its status is final, a history at once.

    In an older log that begins an order twice, its row may be finished twice. The one with the
    larger ``position`` counts.
    """

    def __init__(self, effects: _Effects | None = None) -> None:
        self._effects = effects or _Effects()

    def add(self, part: LogPart) -> None:
        """Apply the events of a part.

        Raises:
            ValueError: An order is changed that never began.
        """
        self._effects.add(part)
        if self._effects.earlier:
            raise ValueError(f"changes of orders that never began: {self._effects.earlier}"[:200])

    def finished(self) -> Rows:
        rows = self._rows(self._effects.final)
        self._effects.final, self._effects.history = [], []
        return rows

    def rows(self) -> Rows:
        return self._rows((*self._effects.final, *self._effects.open.values()))

    @property
    def size(self) -> int:
        return len(self._effects.final) + len(self._effects.open) + len(self._effects.history)

    def dump(self) -> bytes:
        return msgspec.json.encode(self._effects)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=_Effects))

    def _rows(self, orders: Iterable[Order]) -> Rows:
        return {
            ORDERS.name: [astuple(order) for order in orders],
            ORDER_EVENTS.name: list(self._effects.history),
        }


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Add a batch's new orders, change the earlier ones, and extend the histories."""
    batch = _Effects()
    for part in parts_of(events, command_ids=True):
        batch.add(part)
    # Of an order that began twice, the later one.
    new = {order.order_id: order for order in (*batch.final, *batch.open.values())}
    if new:
        rows = [astuple(new[order_id]) for order_id in sorted(new)]
        await connection.execute(INSERT_ORDERS, generation, *columns(rows))
    earlier = sorted(batch.earlier.keys() - new.keys())
    if earlier:
        rows_changed = [_change_row(*batch.earlier[order_id]) for order_id in earlier]
        updated = await connection.execute(UPDATE_ORDERS, generation, *columns(rows_changed))
        if updated != f"UPDATE {len(earlier)}":
            raise ValueError(f"{updated}, but {len(earlier)} earlier orders changed")
    if batch.history:
        await connection.execute(INSERT_ORDER_EVENTS, generation, *columns(sorted(batch.history)))


def orders_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the orders and their histories up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (ORDERS, ORDER_EVENTS),
        project,
        version=VERSION,
        fold=OrdersFold,
        last_event={ORDERS.name: "last_position", ORDER_EVENTS.name: "position"},
        needs_command_ids=True,
    )


def _begun(
    event: OrderAccepted | OrderRejected, shard: int, position: int, command_id: UUID
) -> Order:
    # In the order of the fields: by their names it would take four times as long.
    return Order(
        event.order_id,
        shard,
        event.instrument,
        event.client_id,
        event.side._value_,  # str() and .value take ten times as long
        event.order_type._value_,
        event.price,
        event.quantity,
        0,
        _OPEN._value_,
        None,
        command_id,
        event.time_ms,
        event.time_ms,
        position,
        position,
    )


def _after(order: Order, change: Change, position: int, time_ms: int) -> Order:
    filled = order.quantity - change.remaining
    so_far = _PARTIALLY_FILLED if filled else _OPEN
    return replace(
        order,
        filled_quantity=filled,
        status=(change.status or so_far)._value_,
        reason=change.reason,
        updated_ms=time_ms,
        last_position=position,
    )


def _of(live: Live) -> Select[Any]:
    return READ_ORDERS.where(ORDERS.c.generation == live.generation)


def _order(row: Sequence[Any]) -> Order:
    return Order(*row)


def _filled(order_id: str, remaining: int) -> Change:
    return Change(order_id, remaining, _PARTIALLY_FILLED if remaining else _FILLED)


def _change_row(change: Change, position: int, time_ms: int) -> Row:
    return (
        change.order_id,
        change.remaining,
        change.status,
        change.reason,
        time_ms,
        position,
    )
