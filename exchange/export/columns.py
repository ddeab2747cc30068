"""What a row of each data set has, and how stored events become rows.

An amount is in two columns: ``price`` as a decimal with 12 places, the same type for every
instrument and file, and ``price_units`` as the integer that the log has. A reader that joins files
whose decimals had different places might round without a word. A column is null where a type of
event has no such field.

Rows are made without a loop over events in Python: Arrow reads their JSON and computes the
decimals.
"""

import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from exchange.domain.values import SCALE_MAX, RejectReason
from exchange.log.documents.document import PRICES, QUANTITIES, RENAMED, Scales
from exchange.log.events import lift_event_data
from exchange.ports import StoredEvent

TIME: Final = pa.timestamp("ms", tz="UTC")
# Units are below 2^53 and scales at most 12, so that no amount has more than 28 digits.
AMOUNT: Final = pa.decimal128(28, SCALE_MAX)
NOTIONAL: Final = pa.decimal128(38, 0)
_INTEGER: Final = pa.decimal128(19, 0)  # Arrow wants room for any 64 bits at first
_UNITS: Final = pa.decimal128(16, 0)
_FACTOR: Final = pa.decimal128(13, 0)

TEXTS: Final = (
    "order_id",
    "client_id",
    "side",
    "order_type",
    "reason",
    "asked_by",
    "taker_side",
    "taker_order_id",
    "taker_client_id",
    "maker_order_id",
    "maker_client_id",
    "base",
    "quote",
    "sha256",
    "body_hash",
)
NUMBERS: Final = (
    "price_scale",
    "quantity_scale",
    "cycle",
    "open_orders_max",
    "size_bytes",
    "crashes",
)
# Columns that later builds added stand at the end: files of earlier builds end before them.
_LISTED: Final = pa.list_(pa.string())
LATER: Final[dict[str, pa.DataType]] = {
    "up_to": pa.int64(),
    "cancelled_orders": pa.int64(),
    "remaining_orders": pa.int64(),
    "key_id": pa.string(),
    "algorithm": pa.string(),
    "public_key": pa.string(),
    "master": pa.int64(),
    "scopes": _LISTED,
    "addresses": _LISTED,
    "expires_ms": pa.int64(),
    "label": pa.string(),
    "rotated_from": pa.string(),
    "overlap_ms": pa.int64(),
    "ends_ms": pa.int64(),
    "signed_by": pa.string(),
}

# What the JSON of an event may have; a field that is not here is of a newer build.
_JSON: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("type", "instrument", *TEXTS)),
        *((name, pa.int64()) for name in ("time_ms", *PRICES, *QUANTITIES, *NUMBERS, *RENAMED)),
        *LATER.items(),
    ]
)
_BLOCK_BYTES: Final = 1 << 26  # more than a group of events has: Arrow ends where a line is longer

EVENTS: Final = pa.schema(
    [
        ("shard", pa.int16()),
        ("position", pa.int64()),
        ("time", TIME),
        ("instrument", pa.string()),
        ("type", pa.string()),
        ("version", pa.int16()),
        ("command_id", pa.string()),
        ("kafka_offset", pa.int64()),
        *((name, pa.string()) for name in TEXTS),
        *(column for name in PRICES for column in ((name, AMOUNT), (f"{name}_units", pa.int64()))),
        *(
            column
            for name in QUANTITIES
            for column in ((name, AMOUNT), (f"{name}_units", pa.int64()))
        ),
        *((name, pa.int64()) for name in (*NUMBERS, *RENAMED.values())),
        ("data", pa.string()),
        *LATER.items(),
    ]
)
"""``data`` is the event's text, byte for byte what the hash chain is computed over."""

TRADES: Final = pa.schema(
    [
        ("trade_id", pa.string()),
        ("shard", pa.int16()),
        ("position", pa.int64()),
        ("time", TIME),
        ("instrument", pa.string()),
        ("price", AMOUNT),
        ("price_units", pa.int64()),
        ("quantity", AMOUNT),
        ("quantity_units", pa.int64()),
        ("notional_units", NOTIONAL),
        ("taker_side", pa.string()),
        ("taker_order_id", pa.string()),
        ("taker_client_id", pa.string()),
        ("maker_order_id", pa.string()),
        ("maker_client_id", pa.string()),
        ("buyer_client_id", pa.string()),
        ("seller_client_id", pa.string()),
    ]
)
"""``notional_units`` is price × quantity, in 10^-(price_scale + quantity_scale) of the quote."""

INSTRUMENTS: Final = pa.schema(
    [
        ("instrument", pa.string()),
        ("base", pa.string()),
        ("quote", pa.string()),
        ("price_scale", pa.int64()),
        ("quantity_scale", pa.int64()),
        ("tick_size", AMOUNT),
        ("lot_size", AMOUNT),
        ("shard", pa.int16()),
        ("position", pa.int64()),
    ]
)

# Few values, or many that come again: kept once in each group of rows.
REPEATED: Final = frozenset(
    (
        "instrument",
        "type",
        "side",
        "order_type",
        "reason",
        "client_id",
        "taker_side",
        "taker_client_id",
        "maker_client_id",
        "buyer_client_id",
        "seller_client_id",
    )
)


class Unreadable(Exception):
    """An event cannot be exported; the message names it."""


def event_rows(events: Sequence[StoredEvent], scales: Scales) -> pa.Table:
    """Return events as rows of ``EVENTS``; add the instruments that they register to ``scales``.

    Raises:
        Unreadable: One was written by another version of the software.
    """
    fields = _fields(events)
    _note_scales(fields, scales)
    columns: dict[str, pa.Array] = {
        "shard": pa.array([event.shard for event in events], pa.int16()),
        "position": pa.array([event.position for event in events], pa.int64()),
        "time": fields["time_ms"].cast(TIME),
        "instrument": fields["instrument"],
        "type": fields["type"],
        "version": pa.array([event.version for event in events], pa.int16()),
        "command_id": pa.array([str(event.command_id) for event in events], pa.string()),
        "kafka_offset": pa.array([event.kafka_offset for event in events], pa.int64()),
        "data": pa.array([event.data for event in events], pa.string()),
    }
    columns |= {name: fields[name] for name in (*TEXTS, *NUMBERS, *LATER)}
    columns |= {column: fields[name] for name, column in RENAMED.items()}
    price_factors, quantity_factors = _factors(fields, scales)
    for names, factors in ((PRICES, price_factors), (QUANTITIES, quantity_factors)):
        for name in names:
            columns[name] = _amounts(fields[name], factors)
            columns[f"{name}_units"] = fields[name]
    return pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)


def is_of_events(schema: pa.Schema) -> bool:
    """Tell whether columns are those of ``EVENTS``, now or in an earlier build."""
    least = len(EVENTS) - len(LATER)
    return len(schema) >= least and bool(schema.equals(pa.schema([*EVENTS][: len(schema)])))


def with_later(rows: pa.Table) -> pa.Table:
    """Return events of a file with the columns that it lacks, if an earlier build wrote it."""
    for field in [*EVENTS][rows.num_columns :]:
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def stored_events(rows: pa.Table) -> list[StoredEvent]:
    """Return the events that rows of ``EVENTS`` were made of."""
    names = ("shard", "position", "instrument", "type", "version", "data", "command_id")
    columns = [rows[name].to_pylist() for name in (*names, "kafka_offset")]
    columns[6] = [UUID(text) for text in columns[6]]
    return [StoredEvent(*row) for row in zip(*columns, strict=True)]


def trade_rows(events: pa.Table) -> pa.Table:
    """Return the trades among rows of ``EVENTS``, as rows of ``TRADES``."""
    trades = events.filter(pc.equal(events["type"], "TradeExecuted"))
    buys = pc.equal(trades["taker_side"], "buy")
    taker, maker = trades["taker_client_id"], trades["maker_client_id"]
    units = (trades[f"{name}_units"].cast(_INTEGER).cast(_UNITS) for name in ("price", "quantity"))
    shard, position = (trades[name].cast(pa.string()) for name in ("shard", "position"))
    made = {
        "trade_id": pc.binary_join_element_wise(shard, position, "-"),
        "notional_units": pc.multiply(*units).cast(NOTIONAL),
        "buyer_client_id": pc.if_else(buys, taker, maker),
        "seller_client_id": pc.if_else(buys, maker, taker),
    }
    columns = {name: trades[name] for name in TRADES.names if name not in made} | made
    return pa.table([columns[name] for name in TRADES.names], schema=TRADES)


def instrument_rows(events: pa.Table) -> pa.Table:
    """Return what rows of ``EVENTS`` register, as rows of ``INSTRUMENTS``."""
    found = events.filter(pc.equal(events["type"], "InstrumentRegistered"))
    return found.select(INSTRUMENTS.names).cast(INSTRUMENTS)


def _fields(events: Sequence[StoredEvent]) -> dict[str, pa.Array]:
    """Return the fields of events' JSON, each as an array."""
    lines = "\n".join([_present(event) for event in events]).encode()
    try:
        table = json.read_json(
            io.BytesIO(lines),
            read_options=json.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=json.ParseOptions(
                explicit_schema=_JSON, unexpected_field_behavior="error"
            ),
        )
    except pa.ArrowInvalid as error:
        raise Unreadable(
            f"an event from position {events[0].position} to {events[-1].position} of shard"
            f" {events[0].shard} was written by a newer build: {error}"
        ) from error
    return {name: table[name].combine_chunks() for name in _JSON.names}


def _present(event: StoredEvent) -> str:
    data = lift_event_data(event.type, event.version, event.data)
    if data is None:
        raise Unreadable(
            f"the event at position {event.position} of shard {event.shard} is a {event.type} of"
            f" version {event.version}, which this build does not know"
        )
    return data


def _note_scales(fields: dict[str, pa.Array], scales: Scales) -> None:
    registered = pc.equal(fields["type"], "InstrumentRegistered")
    if not pc.any(registered).as_py():
        return
    columns = ("instrument", "price_scale", "quantity_scale")
    names, *both = (fields[name].filter(registered).to_pylist() for name in columns)
    for name, price_scale, quantity_scale in zip(names, *both, strict=True):
        scales[name] = (price_scale, quantity_scale)


def _factors(fields: dict[str, pa.Array], scales: Scales) -> tuple[pa.Array, pa.Array]:
    """Return what turns each row's units into 10^-12: of prices, and of quantities.

    An order of an instrument that was not registered at the time has none, whatever came later.
    """
    names = pa.array(scales, pa.string())
    known = pc.index_in(fields["instrument"], value_set=names)
    unknown = pc.equal(fields["reason"], RejectReason.UNKNOWN_INSTRUMENT.value)
    known = pc.if_else(pc.fill_null(unknown, False), pa.scalar(None, pa.int32()), known)
    prices, quantities = zip(*scales.values(), strict=True) if scales else ((), ())
    return _powers(prices).take(known), _powers(quantities).take(known)


def _powers(scales: Sequence[int]) -> pa.Array:
    return pa.array([Decimal(10 ** (SCALE_MAX - scale)) for scale in scales], _FACTOR)


def _amounts(units: pa.Array, factors: pa.Array) -> pa.Array:
    """Return units as amounts: units × factor is the same number of 10^-12."""
    whole = pc.multiply(units.cast(_INTEGER).cast(_UNITS), factors).cast(pa.decimal128(28, 0))
    return pa.Array.from_buffers(AMOUNT, len(whole), whole.buffers(), offset=whole.offset)
