"""Columns of what is folded: the rows of a fold as Arrow, with amounts as decimals.

A sum may be longer than any decimal of fixed places that DuckDB has. So costs are in units alone:
of 10^-(price_scale + quantity_scale), which stand beside them.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from exchange.domain.values import SCALE_MAX
from exchange.export.columns import AMOUNT, NOTIONAL, TIME
from exchange.log.documents.document import Scales
from projections.folding import Row
from projections.orders import ORDERS
from projections.positions import POSITIONS

SUM: Final = pa.decimal128(38, SCALE_MAX)

ORDER_ROWS: Final = pa.schema(
    [
        ("order_id", pa.string()),
        ("shard", pa.int16()),
        ("position", pa.int64()),
        ("last_position", pa.int64()),
        ("instrument", pa.string()),
        ("client_id", pa.string()),
        ("side", pa.string()),
        ("order_type", pa.string()),
        ("price", AMOUNT),
        ("price_units", pa.int64()),
        ("quantity", AMOUNT),
        ("quantity_units", pa.int64()),
        ("filled_quantity", AMOUNT),
        ("filled_quantity_units", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("command_id", pa.string()),
        ("created_at", TIME),
        ("updated_at", TIME),
    ]
)

POSITION_ROWS: Final = pa.schema(
    [
        ("client_id", pa.string()),
        ("instrument", pa.string()),
        ("shard", pa.int16()),
        ("net_quantity", SUM),
        ("net_quantity_units", NOTIONAL),
        ("total_cost_units", NOTIONAL),
        ("realised_pnl_units", NOTIONAL),
        ("price_scale", pa.int16()),
        ("quantity_scale", pa.int16()),
        ("position", pa.int64()),
        ("updated_at", TIME),
    ]
)

AS_OF_ROWS: Final = pa.schema(
    [("day", pa.date32()), ("as_of_position", pa.int64()), *POSITION_ROWS]
)
"""Positions as of a position of their shard, which was the day's last one in the range."""

OBLIGATION_ROWS: Final = pa.schema(
    [
        ("cycle", pa.int64()),
        ("shard", pa.int16()),
        ("client_id", pa.string()),
        ("instrument", pa.string()),
        ("net_quantity", SUM),
        ("net_quantity_units", NOTIONAL),
        ("net_amount_units", NOTIONAL),
        ("price_scale", pa.int16()),
        ("quantity_scale", pa.int16()),
        ("position", pa.int64()),
        ("closed_position", pa.int64()),
        ("closed_at", TIME),
    ]
)
"""What a client receives, or owes if negative; ``closed_position`` is of the cut, if there was."""

LEVEL_ROWS: Final = pa.schema(
    [
        ("time", TIME),
        ("shard", pa.int16()),
        ("position", pa.int64()),
        ("instrument", pa.string()),
        ("side", pa.string()),
        ("level", pa.int32()),
        ("price", AMOUNT),
        ("price_units", pa.int64()),
        ("quantity", SUM),
        ("quantity_units", NOTIONAL),
    ]
)


def order_rows(rows: Iterable[Row], scales: Scales) -> pa.Table:
    """Return rows of ``OrdersFold`` in columns."""
    made = []
    for order in _named(rows, [column.name for column in ORDERS.columns][1:]):
        known = order["reason"] != "unknown_instrument"
        price_scale, quantity_scale = _scales(scales, order["instrument"] if known else None)
        made.append(
            order
            | _amount("price", order["price"], price_scale)
            | _amount("quantity", order["quantity"], quantity_scale)
            | _amount("filled_quantity", order["filled_quantity"], quantity_scale)
            | {"command_id": str(order["command_id"])}
            | {"created_at": order["created_ms"], "updated_at": order["updated_ms"]}
        )
    return _table(made, ORDER_ROWS)


def position_rows(rows: Iterable[Row], scales: Scales) -> pa.Table:
    """Return rows of ``PositionsFold`` in columns, by client and instrument."""
    made = []
    for held in _named(sorted(rows), [column.name for column in POSITIONS.columns][1:]):
        price_scale, quantity_scale = _scales(scales, held["instrument"])
        made.append(
            held
            | _amount("net_quantity", held["net_quantity"], quantity_scale)
            | {f"{name}_units": held[name] for name in ("total_cost", "realised_pnl")}
            | {"price_scale": price_scale, "quantity_scale": quantity_scale}
            | {"updated_at": held["updated_ms"]}
        )
    return _table(made, POSITION_ROWS)


def obligation_rows(rows: Iterable[Row], cycles: Iterable[Row], scales: Scales) -> pa.Table:
    """Return obligations of ``SettlementFold`` in columns, by cycle, client and instrument.

    ``cycles`` has the cut of each cycle that is closed: its own, or that of a later one.
    """
    names = ("cycle", "client_id", "instrument", "shard", "net_quantity", "net_amount", "position")
    cuts = sorted((row[1], row[3], row[4]) for row in cycles if row[3] is not None)
    made = []
    for owed in _named(sorted(rows), names):
        price_scale, quantity_scale = _scales(scales, owed["instrument"])
        at_ms, position = next((cut[1:] for cut in cuts if cut[0] >= owed["cycle"]), (None, None))
        made.append(
            owed
            | _amount("net_quantity", owed["net_quantity"], quantity_scale)
            | {"net_amount_units": owed["net_amount"]}
            | {"price_scale": price_scale, "quantity_scale": quantity_scale}
            | {"closed_position": position, "closed_at": at_ms}
        )
    return _table(made, OBLIGATION_ROWS)


def level_rows(
    bids: Sequence[tuple[int | None, int | None]],
    asks: Sequence[tuple[int | None, int | None]],
    instrument: str,
    scales: Scales,
    of: dict[str, Any],
) -> pa.Table:
    """Return the levels of a book in columns; ``of`` says of when it is."""
    price_scale, quantity_scale = _scales(scales, instrument)
    made = [
        {**of, "instrument": instrument, "side": side, "level": number}
        | _amount("price", price, price_scale)
        | _amount("quantity", quantity, quantity_scale)
        for side, levels in (("buy", bids), ("sell", asks))
        for number, (price, quantity) in enumerate(levels, 1)
    ]
    return _table(made, LEVEL_ROWS)


def _named(rows: Iterable[Row], names: Sequence[str]) -> Iterable[dict[str, Any]]:
    return (dict(zip(names, row, strict=True)) for row in rows)


def _scales(scales: Scales, instrument: str | None) -> tuple[int | None, int | None]:
    return (None, None) if instrument is None else scales.get(instrument, (None, None))


def _amount(name: str, units: int | None, scale: int | None) -> dict[str, object]:
    exact = None if units is None or scale is None else Decimal(f"{units}e-{scale}")
    return {name: exact, f"{name}_units": units}


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_decimal(field.type):
            values = [Decimal(value) if isinstance(value, int) else value for value in values]
        columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)
