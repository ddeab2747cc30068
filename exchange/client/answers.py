"""What the exchange answers over HTTP. An amount is a ``Decimal`` of exactly the digits it sent.

Fields that the exchange adds later are passed over; a value that it adds later (a status, a
reason) is text like the others.
"""

from decimal import Decimal

from msgspec import Raw, Struct


class Order(Struct, frozen=True, kw_only=True):
    """An order. A cancel tells only some of it where nothing more could be read in time."""

    order_id: str
    client_id: str
    instrument: str
    side: str
    status: str
    updated_at: str
    type: str | None = None
    price: Decimal | None = None
    quantity: Decimal | None = None
    filled_quantity: Decimal | None = None
    created_at: str | None = None
    reason: str | None = None


class Trade(Struct, frozen=True):
    """A trade; ``sequence`` is its place in the log of its shard."""

    trade_id: str
    buy_order_id: str
    sell_order_id: str
    price: Decimal
    quantity: Decimal
    taker_side: str
    timestamp: str
    sequence: int


class Level(Struct, frozen=True):
    """A level of a book, with the sum from the best price to this one where it is told."""

    price: Decimal
    quantity: Decimal
    cumulative: Decimal | None = None


class Levels(Struct, frozen=True):
    """Both sides of a book, best levels first."""

    bids: list[Level]
    asks: list[Level]


class Placed(Struct, frozen=True):
    """An order that was taken, as this request left it; ``replayed``: by an earlier attempt."""

    order: Order
    trades: list[Trade]
    sequence: int
    command_id: str
    orderbook: Levels | None = None
    replayed: bool = False


class Cancelled(Struct, frozen=True):
    """An order that was cancelled."""

    order: Order
    sequence: int
    command_id: str
    replayed: bool = False


class CancelledOnShard(Struct, frozen=True):
    """A shard's part of a cancel of all."""

    shard: int
    cancelled_orders: int
    remaining_orders: int
    sequence: int
    command_id: str


class AllCancelled(Struct, frozen=True):
    """A cancel of all that is done."""

    client_id: str
    idempotency_key: str
    cancelled_orders: int
    shards: list[CancelledOnShard]
    pending: list[int]
    instrument: str | None = None
    side: str | None = None
    replayed: bool = False


class OrderRead(Struct, frozen=True):
    """An order, and up to where it was read."""

    order: Order
    sequence: int


class Orders(Struct, frozen=True):
    """A page of a client's orders, newest first."""

    client_id: str
    orders: list[Order]
    count: int
    next_cursor: str | None
    sequence: str


class OrderEvent(Struct, frozen=True, kw_only=True):
    """What happened to an order; which fields are there depends on the ``type``."""

    sequence: int
    type: str
    timestamp: str
    order_id: str | None = None
    client_id: str | None = None
    instrument: str | None = None
    side: str | None = None
    order_type: str | None = None
    price: Decimal | None = None
    quantity: Decimal | None = None
    reason: str | None = None
    taker_side: str | None = None
    taker_order_id: str | None = None
    taker_client_id: str | None = None
    taker_remaining: Decimal | None = None
    maker_order_id: str | None = None
    maker_client_id: str | None = None
    maker_remaining: Decimal | None = None


class OrderEvents(Struct, frozen=True):
    """A page of an order's events, oldest first."""

    order_id: str
    events: list[OrderEvent]
    count: int
    next_cursor: str | None
    sequence: int


class Orderbook(Struct, frozen=True):
    """The best levels of an instrument."""

    instrument: str
    bids: list[Level]
    asks: list[Level]
    timestamp: str
    sequence: int


class Trades(Struct, frozen=True):
    """A page of an instrument's trades, newest first."""

    instrument: str
    trades: list[Trade]
    count: int
    next_cursor: str | None
    sequence: int


class Fill(Struct, frozen=True):
    """A client's side of a trade."""

    trade_id: str
    order_id: str
    side: str
    role: str
    price: Decimal
    quantity: Decimal
    timestamp: str
    sequence: int


class Fills(Struct, frozen=True):
    """A page of a client's fills in an instrument, newest first; it may be empty, and not last."""

    client_id: str
    instrument: str
    fills: list[Fill]
    count: int
    next_cursor: str | None
    sequence: int


class Position(Struct, frozen=True):
    """What a client holds of an instrument."""

    instrument: str
    net_quantity: Decimal
    total_cost: Decimal
    avg_price: Decimal | None
    realised_pnl: Decimal
    unrealised_pnl: Decimal | None
    mark_price: Decimal | None
    last_updated: str
    sequence: int


class Positions(Struct, frozen=True):
    """A page of a client's positions, by instrument."""

    client_id: str
    positions: list[Position]
    count: int
    next_cursor: str | None
    sequence: str


class Day(Struct, frozen=True):
    """The last 24 hours of an instrument; None where there was no trade."""

    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    close: Decimal | None
    change: Decimal | None
    change_percent: Decimal | None
    quantity: Decimal
    volume: Decimal
    vwap: Decimal | None
    trade_count: int
    sequence: int


class Ticker(Struct, frozen=True):
    """The last trade, the best levels and the last 24 hours; None where there is none."""

    instrument: str
    last_price: Decimal | None
    last_quantity: Decimal | None
    last_side: str | None
    last_time: str | None
    best_bid: Decimal | None
    best_bid_quantity: Decimal | None
    best_ask: Decimal | None
    best_ask_quantity: Decimal | None
    day: Day
    timestamp: str
    sequence: int


class Aggregate(Struct, frozen=True):
    """The trades of one interval."""

    time_bucket: str
    trade_count: int
    total_quantity: Decimal
    avg_price: Decimal
    min_price: Decimal
    max_price: Decimal
    open_price: Decimal
    close_price: Decimal
    total_volume: Decimal
    vwap: Decimal


class Analytics(Struct, frozen=True):
    """Candles, volumes and average prices by interval; intervals without trades are left out."""

    instrument: str
    start_time: str
    end_time: str
    interval_minutes: int
    aggregates: list[Aggregate]
    overall_vwap: Decimal | None
    sequence: int


class Instrument(Struct, frozen=True):
    """An instrument: its currencies, scales and smallest steps."""

    instrument: str
    base: str
    quote: str
    price_scale: int
    quantity_scale: int
    tick_size: Decimal
    lot_size: Decimal
    shard: int
    state: str


class Instruments(Struct, frozen=True):
    """A page of the instruments, by name."""

    instruments: list[Instrument]
    count: int
    next_cursor: str | None
    sequence: str


class Snapshot(Struct, frozen=True):
    """An engine snapshot of a shard."""

    log_id: str
    instrument: str
    shard: int
    position: int
    digest: str
    format_version: int
    resting_orders: int
    size_bytes: int
    taken_at: str


class Taken(Struct, frozen=True):
    """A snapshot that was taken, at or after the position ``wanted``."""

    snapshot: Snapshot
    wanted: int
    sequence: int


class Cycle(Struct, frozen=True):
    """A settlement cycle."""

    cycle_id: int
    state: str
    trade_count: int
    closed_at: str | None


class Cycles(Struct, frozen=True):
    """A page of settlement cycles, newest first."""

    cycles: list[Cycle]
    count: int
    next_cursor: str | None
    sequence: str


class Obligation(Struct, frozen=True):
    """What a client receives (delivers, if negative) for an instrument's trades."""

    instrument: str
    net_quantity: Decimal
    net_amount: Decimal


class CurrencyAmount(Struct, frozen=True):
    """What a client receives (delivers, if negative) of a currency."""

    currency: str
    net_amount: Decimal


class Obligations(Struct, frozen=True):
    """A client's obligations of a cycle."""

    client_id: str
    obligations: list[Obligation]
    currencies: list[CurrencyAmount]


class CycleRead(Struct, frozen=True):
    """A settlement cycle with a page of its clients."""

    cycle: Cycle
    clients: list[Obligations]
    count: int
    next_cursor: str | None
    sequence: str


class Pending(Struct, frozen=True):
    """A command that is not decided yet."""

    command_id: str
    status: str
    order_id: str | None = None


class EntryAnswer(Struct, frozen=True):
    """The answer to an entry of a batch: the status and the body that it would have alone."""

    status: int
    body: Raw
    replayed: bool = False


class BatchAnswer(Struct, frozen=True):
    """The answer to a batch."""

    entries: list[EntryAnswer]
