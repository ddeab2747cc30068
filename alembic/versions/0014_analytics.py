"""The views that analysts read: amounts as they are written, times as times.

A view follows the live generation: it asks the row of ``live`` that a switch changes, in the same
snapshot as it reads the rows. So a switch and a rollback need not touch it.
"""

from collections.abc import Iterator

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# As in exchange/export/columns.py.
TEXTS = {
    "order_id": "The order.",
    "client_id": "Whose order or command it is.",
    "side": "buy or sell.",
    "order_type": "limit or market.",
    "reason": "Why it was refused or cancelled.",
    "asked_by": "Who asked for the cancel.",
    "taker_side": "The side of the incoming order.",
    "taker_order_id": "The incoming order.",
    "taker_client_id": "Its client.",
    "maker_order_id": "The resting order.",
    "maker_client_id": "Its client.",
    "base": "The currency that is bought and sold.",
    "quote": "The currency of prices.",
    "sha256": "The hash of a record that was no command.",
    "body_hash": "The hash of a command that was quarantined.",
}
AMOUNTS = {
    "price": ("price_unit", "The price, in the quote currency."),
    "tick_size": ("price_unit", "What prices are multiples of."),
    "quantity": ("quantity_unit", "The quantity, in the base currency."),
    "taker_remaining": ("quantity_unit", "What is left of the incoming order after the trade."),
    "maker_remaining": ("quantity_unit", "What is left of the resting order after the trade."),
    "lot_size": ("quantity_unit", "What quantities are multiples of."),
}
NUMBERS = {
    "price_scale": "The decimal places of prices.",
    "quantity_scale": "The decimal places of quantities.",
    "cycle": "The settlement cycle.",
    "open_orders_max": "How many open orders a client may have.",
    "size_bytes": "The size of a record that was no command.",
    "crashes": "How often the command ended the matcher.",
    "placed_shard": "The shard that was added.",
    "retried_offset": "The offset of the command that is tried again.",
}
RENAMED = {"placed_shard": "shard", "retried_offset": "offset"}

SHARD = "The shard that decided it."
POSITION = "The place in the shard's log: 1, 2, 3 and so on."
INSTRUMENT = "The name of the instrument."
GENERATION = "generation = (select generation from live where projection = '{}')"


Columns = list[tuple[str, str, str]]
"""Names, what each is in SQL, and what is told of it."""


def time(column: str) -> str:
    return f"timestamptz 'epoch' + {column} * interval '1 millisecond'"


def amount(name: str, units: str, unit: str, comment: str) -> Columns:
    """Return the columns of an amount: as it is written, and in the log's integers."""
    return [
        (name, f"{units} * {unit}", comment),
        (f"{name}_units", units, f"The same in units of the instrument's {unit}."),
    ]


def event_amounts() -> Iterator[tuple[str, str, str]]:
    for name, (unit, comment) in AMOUNTS.items():
        yield from amount(name, f"(e.data->>'{name}')::bigint", unit, comment)


INSTRUMENTS = [
    ("instrument", "i.instrument", INSTRUMENT),
    ("base", "i.base", "The currency that is bought and sold."),
    ("quote", "i.quote", "The currency of prices."),
    ("shard", "i.shard", "The shard that decides its orders."),
    ("price_scale", "i.price_scale", "The decimal places of its prices."),
    ("quantity_scale", "i.quantity_scale", "The decimal places of its quantities."),
    ("price_unit", "('1e-' || i.price_scale)::numeric", "One unit of price, such as 0.01."),
    ("quantity_unit", "('1e-' || i.quantity_scale)::numeric", "One unit of quantity."),
    ("tick_size", "i.tick_size * ('1e-' || i.price_scale)::numeric", "Prices are multiples of it."),
    ("lot_size", "i.lot_size * ('1e-' || i.quantity_scale)::numeric", "So are quantities of this."),
    ("state", "i.state", "active: orders are taken."),
    ("position", "i.position", "Where the shard's log registers it."),
    ("time", time("i.time_ms"), "When it was registered."),
]

EVENTS = [
    ("shard", "e.shard", SHARD),
    ("position", "e.position", POSITION),
    ("time", time("(e.data->>'time_ms')::bigint"), "When it was decided; never runs backwards."),
    ("instrument", "e.instrument", "The name of the instrument; null for events of the shard."),
    ("type", "e.type", "What happened, such as OrderAccepted."),
    ("version", "e.version", "The version of this type of event."),
    ("command_id", "e.command_id", "The command that caused it."),
    ("kafka_offset", "e.kafka_offset", "The command's offset in the log's counting."),
    *((name, f"e.data->>'{name}'", comment) for name, comment in TEXTS.items()),
    *event_amounts(),
    *(
        (name, f"(e.data->>'{RENAMED.get(name, name)}')::bigint", comment)
        for name, comment in NUMBERS.items()
    ),
    ("data", "e.data::text", "The event's text, byte for byte what the hash chain is over."),
]

TAKER_BUYS = "case when t.taker_side = 'buy' then t.{} else t.{} end"
TRADES = [
    ("trade_id", "t.shard || '-' || t.position", "The trade's id."),
    ("shard", "t.shard", SHARD),
    ("position", "t.position", POSITION),
    ("time", time("t.time_ms"), "When it was decided."),
    ("instrument", "t.instrument", INSTRUMENT),
    *amount("price", "t.price", "price_unit", "The price, in the quote currency."),
    *amount("quantity", "t.quantity", "quantity_unit", "The quantity, in the base currency."),
    (
        "notional",
        "t.price::numeric * t.quantity * price_unit * quantity_unit",
        "Price × quantity, in the quote currency.",
    ),
    (
        "notional_units",
        "t.price::numeric * t.quantity",
        "The same in units of price_unit × quantity_unit.",
    ),
    ("taker_side", "t.taker_side", "The side of the incoming order."),
    ("taker_order_id", TAKER_BUYS.format("buy_order_id", "sell_order_id"), "The incoming order."),
    ("taker_client_id", TAKER_BUYS.format("buyer_client_id", "seller_client_id"), "Its client."),
    ("maker_order_id", TAKER_BUYS.format("sell_order_id", "buy_order_id"), "The resting order."),
    ("maker_client_id", TAKER_BUYS.format("seller_client_id", "buyer_client_id"), "Its client."),
    ("buyer_client_id", "t.buyer_client_id", "Who bought."),
    ("seller_client_id", "t.seller_client_id", "Who sold."),
]

ORDERS = [
    ("order_id", "o.order_id", "The order."),
    ("shard", "o.shard", SHARD),
    ("position", "o.position", "The place of its first event in the shard's log."),
    ("last_position", "o.last_position", "The place of the last event that changed it."),
    ("instrument", "o.instrument", INSTRUMENT),
    ("client_id", "o.client_id", "Whose order it is."),
    ("side", "o.side", "buy or sell."),
    ("order_type", "o.order_type", "limit or market."),
    *amount("price", "o.price", "price_unit", "The limit; null for a market order."),
    *amount("quantity", "o.quantity", "quantity_unit", "What was asked for."),
    *amount("filled_quantity", "o.filled_quantity", "quantity_unit", "What has traded."),
    ("status", "o.status", "open, partially_filled, filled, cancelled or rejected."),
    ("reason", "o.reason", "Why it was refused or cancelled."),
    ("command_id", "o.command_id", "The command that placed it."),
    ("created_at", time("o.created_ms"), "When it was accepted or refused."),
    ("updated_at", time("o.updated_ms"), "When it changed last."),
]

ORDER_EVENTS = [
    ("order_id", "h.order_id", "The order that the event began or changed."),
    *(
        (name, f"e.{name}", comment)
        for name, _, comment in EVENTS
        if name not in ("order_id", "data")
    ),
]

COST_UNIT = "price_unit * quantity_unit"


def money(name: str, units: str, comment: str) -> Columns:
    return [
        (name, f"{units} * {COST_UNIT}", f"{comment}, in the quote currency."),
        (f"{name}_units", units, "The same in units of price_unit × quantity_unit."),
    ]


POSITIONS = [
    ("client_id", "p.client_id", "Whose position it is."),
    ("instrument", "p.instrument", INSTRUMENT),
    ("base", "base", "The currency that is held."),
    ("quote", "quote", "The currency of cost and profit."),
    ("shard", "p.shard", SHARD),
    *amount("net_quantity", "p.net_quantity", "quantity_unit", "Bought less sold."),
    *money("total_cost", "p.total_cost", "What the open position has cost, with its sign"),
    *money("realised_pnl", "p.realised_pnl", "The profit of what was closed"),
    ("position", "p.position", "The place of the last trade in the shard's log."),
    ("updated_at", time("p.updated_ms"), "When that was."),
]

MINUTES = [
    ("instrument", "m.instrument", INSTRUMENT),
    ("time", time("m.minute * 60000"), "When the minute begins."),
    ("shard", "m.shard", SHARD),
    ("trade_count", "m.trade_count", "How many trades it has."),
    *amount("open", "m.open", "price_unit", "The first price."),
    *amount("high", "m.high", "price_unit", "The highest price."),
    *amount("low", "m.low", "price_unit", "The lowest price."),
    *amount("close", "m.close", "price_unit", "The last price."),
    *amount("price_sum", "m.price_sum", "price_unit", "The sum of the prices."),
    *amount("quantity", "m.quantity", "quantity_unit", "The quantity traded."),
    *money("volume", "m.volume", "The sum of price × quantity"),
    (
        "vwap",
        "m.volume / m.quantity * price_unit",
        (
            "The volume-weighted average price, rounded after at least 16 digits of its units. Of"
            " several minutes it is sum(volume) / sum(quantity)."
        ),
    ),
    ("position", "m.position", "The place of its last trade in the shard's log."),
]

# The shard's cut that closed a cycle: its own, or the next later one.
CUT = """
left join lateral (
    select later.closed_ms, later.closed_position from settlement_cycles as later
    where later.{live} and later.shard = s.shard and later.cycle >= s.cycle
        and later.closed_ms is not null
    order by later.cycle
    limit 1
) as cut on true
""".format(live=GENERATION.format("settlement"))

SETTLEMENT = [
    ("cycle", "s.cycle", "The settlement cycle."),
    ("client_id", "s.client_id", "Who will receive, or deliver what is negative."),
    ("instrument", "s.instrument", INSTRUMENT),
    ("base", "base", "The currency of the quantity."),
    ("quote", "quote", "The currency of the amount."),
    ("shard", "s.shard", SHARD),
    *amount("net_quantity", "s.net_quantity", "quantity_unit", "Bought less sold."),
    *money("net_amount", "s.net_amount", "What was sold for less what was paid"),
    (
        "closed_at",
        time("cut.closed_ms"),
        "When the shard closed the cycle; null while it is open there.",
    ),
]

CYCLES = [
    ("cycle", "s.cycle", "The settlement cycle."),
    ("shard", "s.shard", SHARD),
    ("trade_count", "s.trade_count", "How many trades of the shard it has."),
    ("closed_at", time("cut.closed_ms"), "When the shard closed it; null while it is open there."),
    ("closed_position", "cut.closed_position", "The place of the event that closed it."),
]

PROGRESS = [
    ("projection", "live.projection", "The read model: a view's, or vwap for minutes."),
    ("generation", "live.generation", "The generation of it that the views show."),
    ("shard", "reached.shard", "The shard."),
    ("position", "reached.position", "The last event of the shard that it has."),
    ("time", time("reached.time_ms"), "When that was decided."),
]

OF = "left join analytics.instruments as i on i.instrument = {0}.instrument"
# What has an amount that is no number of an instrument's units: its order names none.
OF_KNOWN = f"{OF} and {{1}} is distinct from 'unknown_instrument'"

VIEWS = {
    "instruments": (
        "What is traded. The other views take names and units from here.",
        INSTRUMENTS,
        f"from instruments as i where i.{GENERATION.format('instruments')}",
    ),
    "events": (
        (
            "Every event of the log. Columns that a type of event does not have are null. Its key"
            " is (shard, position); other columns have no index."
        ),
        EVENTS,
        "from events as e " + OF_KNOWN.format("e", "e.data->>'reason'"),
    ),
    "trades": (
        "Every trade. Its key is (shard, position); (instrument, position) has an index.",
        TRADES,
        f"from trades as t {OF.format('t')} where t.{GENERATION.format('trades')}",
    ),
    "orders": (
        "Every order as it is now. Its key is order_id; client_id has an index.",
        ORDERS,
        (
            f"from orders as o {OF_KNOWN.format('o', 'o.reason')}"
            f" where o.{GENERATION.format('orders')}"
        ),
    ),
    "order_events": (
        "The events that began or changed each order; ask for an order_id.",
        ORDER_EVENTS,
        (
            "from order_events as h join analytics.events as e using (shard, position)"
            f" where h.{GENERATION.format('orders')}"
        ),
    ),
    "positions": (
        (
            "What each client holds of each instrument, at average cost. Its key is (client_id,"
            " instrument)."
        ),
        POSITIONS,
        f"from positions as p {OF.format('p')} where p.{GENERATION.format('positions')}",
    ),
    "minutes": (
        (
            "The trades of each instrument and minute; a minute without trades has no row. Its key"
            " is (instrument, time)."
        ),
        MINUTES,
        f"from minutes as m {OF.format('m')} where m.{GENERATION.format('vwap')}",
    ),
    "settlement": (
        (
            "What each client owes or receives in each settlement cycle, netted by instrument. Its"
            " key is (cycle, client_id, instrument)."
        ),
        SETTLEMENT,
        f"from obligations as s {OF.format('s')} {CUT} where s.{GENERATION.format('settlement')}",
    ),
    "settlement_cycles": (
        "The settlement cycles of each shard that has trades or a closing in them.",
        CYCLES,
        f"from settlement_cycles as s {CUT} where s.{GENERATION.format('settlement')}",
    ),
    "progress": (
        (
            "How far the views are. Each read model follows the log by itself, usually within a"
            " fraction of a second; events is never behind."
        ),
        PROGRESS,
        "from live join checkpoints as reached using (projection, generation)",
    ),
}


def upgrade() -> None:
    # A build of before that restored a backup has left it behind, empty.
    op.execute("create schema if not exists analytics")
    op.execute(
        "comment on schema analytics is 'The log and its read models for analysts: amounts exact,"
        " as numeric; times with their zone. docs/analytics.md has examples.'"
    )
    for view, (comment, columns, source) in VIEWS.items():
        selected = ", ".join(f"{expression} as {name}" for name, expression, _ in columns)
        op.execute(f"create view analytics.{view} as select {selected} {source}")
        op.execute(f"comment on view analytics.{view} is '{comment}'")
        for name, _, told in columns:
            told = told.replace("'", "''")
            op.execute(f"comment on column analytics.{view}.{name} is '{told}'")


def downgrade() -> None:
    op.execute("drop schema analytics cascade")
