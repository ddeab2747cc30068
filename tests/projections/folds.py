"""What the read models must hold, folded from stored events in the plainest way.

No code is shared with the projections or the engine: an event is its JSON text, a model
a dict. The book is folded order by order, costs with fractions.
"""

import json
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from exchange.ports import StoredEvent

Row = dict[str, Any]


def fold_instruments(events: Iterable[StoredEvent]) -> dict[str, Row]:
    """Return each instrument's row by its name."""
    rows: dict[str, Row] = {}
    for stored, event in _decoded(events):
        if stored.type == "InstrumentRegistered":
            names = ("instrument", "base", "quote", "price_scale", "quantity_scale")
            row = {name: event[name] for name in (*names, "tick_size", "lot_size", "time_ms")}
            place = {"shard": stored.shard, "position": stored.position}
            rows[event["instrument"]] = {**row, **place, "state": "open"}
    return rows


def fold_orders(events: Iterable[StoredEvent]) -> dict[str, Row]:
    """Return each order's row by its id."""
    orders: dict[str, Row] = {}
    for stored, event in _decoded(events):
        if stored.type in ("OrderAccepted", "OrderRejected") and _has_its_id(event):
            orders[event["order_id"]] = _new_order(stored, event)
        for order_id in _orders_changed(stored, event):
            order = orders[order_id]
            order["updated_ms"], order["last_position"] = event["time_ms"], stored.position
        if stored.type == "TradeExecuted":
            for role in ("maker", "taker"):
                order = orders[event[f"{role}_order_id"]]
                order["filled_quantity"] += event["quantity"]
                full = order["filled_quantity"] == order["quantity"]
                order["status"] = "filled" if full else "partially_filled"
        if stored.type == "OrderCancelled":
            orders[event["order_id"]] |= {"status": "cancelled", "reason": event["reason"]}
    return orders


def fold_histories(events: Iterable[StoredEvent]) -> dict[str, list[tuple[int, int]]]:
    """Return the places (shard and position) of the events that changed each order."""
    histories: dict[str, list[tuple[int, int]]] = {}
    for stored, event in _decoded(events):
        for order_id in _orders_changed(stored, event):
            histories.setdefault(order_id, []).append((stored.shard, stored.position))
    return histories


def fold_trades(events: Iterable[StoredEvent]) -> dict[tuple[int, int], Row]:
    """Return each trade's row by its shard and position."""
    trades: dict[tuple[int, int], Row] = {}
    for stored, event in _decoded(events):
        if stored.type == "TradeExecuted":
            buyer, seller = ("taker", "maker")
            if event["taker_side"] == "sell":
                buyer, seller = seller, buyer
            trades[stored.shard, stored.position] = {
                "shard": stored.shard,
                "position": stored.position,
                "instrument": event["instrument"],
                "price": event["price"],
                "quantity": event["quantity"],
                "taker_side": event["taker_side"],
                "buy_order_id": event[f"{buyer}_order_id"],
                "sell_order_id": event[f"{seller}_order_id"],
                "buyer_client_id": event[f"{buyer}_client_id"],
                "seller_client_id": event[f"{seller}_client_id"],
                "time_ms": event["time_ms"],
            }
    return trades


def fold_positions(events: Iterable[StoredEvent]) -> dict[tuple[str, str], Row]:
    """Return each position's row by client and instrument."""
    positions: dict[tuple[str, str], Row] = {}
    for trade in fold_trades(events).values():
        for client, sign in ((trade["buyer_client_id"], 1), (trade["seller_client_id"], -1)):
            empty = {"net_quantity": 0, "total_cost": 0, "realised_pnl": 0}
            row = positions.setdefault((client, trade["instrument"]), empty)
            for quantity in _split_at_zero(row["net_quantity"], sign * trade["quantity"]):
                _trade_position(row, quantity, trade["price"])
            row |= {"client_id": client, "instrument": trade["instrument"]}
            row |= {"shard": trade["shard"], "position": trade["position"]}
            row["updated_ms"] = trade["time_ms"]
    return positions


def fold_minutes(events: Iterable[StoredEvent]) -> dict[tuple[str, int], Row]:
    """Return each one-minute bucket's row by instrument and minute."""
    trades: dict[tuple[str, int], list[Row]] = {}
    for trade in fold_trades(events).values():
        trades.setdefault((trade["instrument"], trade["time_ms"] // 60_000), []).append(trade)
    return {
        (instrument, minute): {
            "instrument": instrument,
            "minute": minute,
            "shard": bucket[0]["shard"],
            "trade_count": len(bucket),
            "quantity": sum(trade["quantity"] for trade in bucket),
            "volume": sum(trade["price"] * trade["quantity"] for trade in bucket),
            "price_sum": sum(trade["price"] for trade in bucket),
            "open": bucket[0]["price"],
            "high": max(trade["price"] for trade in bucket),
            "low": min(trade["price"] for trade in bucket),
            "close": bucket[-1]["price"],
            "position": bucket[-1]["position"],
        }
        for (instrument, minute), bucket in trades.items()
    }


def fold_obligations(events: Iterable[StoredEvent]) -> dict[tuple[int, str, str], Row]:
    """Return each obligation's row by cycle, client and instrument."""
    open_cycles: dict[int, int] = {}
    owed: dict[tuple[int, str, str], Row] = {}
    for stored, event in _decoded(events):
        cycle = open_cycles.get(stored.shard, 1)
        if stored.type == "SettlementCycleClosed":
            open_cycles[stored.shard] = event["cycle"] + 1
        if stored.type == "TradeExecuted":
            for role in ("maker", "taker"):
                buys = (role == "taker") == (event["taker_side"] == "buy")
                key = (cycle, event[f"{role}_client_id"], event["instrument"])
                names = dict(zip(("cycle", "client_id", "instrument"), key, strict=True))
                empty = {**names, "shard": stored.shard, "net_quantity": 0, "net_amount": 0}
                row = owed.setdefault(key, empty)
                row["net_quantity"] += event["quantity"] if buys else -event["quantity"]
                cost = event["price"] * event["quantity"]
                row["net_amount"] += -cost if buys else cost
    return owed


def fold_cycles(events: Iterable[StoredEvent]) -> dict[tuple[int, int], Row]:
    """Return the row of each cycle that has trades or a cut, by shard and cycle."""
    rows: dict[tuple[int, int], Row] = {}
    open_cycles: dict[int, int] = {}

    def row_of(shard: int, cycle: int) -> Row:
        empty = {"trade_count": 0, "closed_ms": None, "closed_position": None}
        return rows.setdefault((shard, cycle), {"shard": shard, "cycle": cycle, **empty})

    for stored, event in _decoded(events):
        if stored.type == "TradeExecuted":
            row_of(stored.shard, open_cycles.get(stored.shard, 1))["trade_count"] += 1
        if stored.type == "SettlementCycleClosed":
            open_cycles[stored.shard] = event["cycle"] + 1
            row = row_of(stored.shard, event["cycle"])
            row["closed_ms"], row["closed_position"] = event["time_ms"], stored.position
    return rows


def fold_settlement_positions(
    events: Iterable[StoredEvent],
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, str, str], int]]:
    """Return the position of the last event that changed each cycle's, and each obligation's, row.

    The keys are those of ``fold_cycles`` and ``fold_obligations``.
    """
    cycles: dict[tuple[int, int], int] = {}
    owed: dict[tuple[int, str, str], int] = {}
    open_cycles: dict[int, int] = {}
    for stored, event in _decoded(events):
        cycle = open_cycles.get(stored.shard, 1)
        if stored.type == "SettlementCycleClosed":
            cycles[stored.shard, event["cycle"]] = stored.position
            open_cycles[stored.shard] = event["cycle"] + 1
        if stored.type == "TradeExecuted":
            cycles[stored.shard, cycle] = stored.position
            for role in ("maker", "taker"):
                owed[cycle, event[f"{role}_client_id"], event["instrument"]] = stored.position
    return cycles, owed


def fold_accounts(events: Iterable[StoredEvent]) -> dict[tuple[str, int], Row]:
    """Return the row of each client that has an account or was suspended, by client and shard."""
    rows: dict[tuple[str, int], Row] = {}
    for stored, event in _decoded(events):
        shard, now_ms = stored.shard, event["time_ms"]
        change: Row = {
            "AccountCreated": {"created_ms": now_ms} if shard == 0 else {},
            "ClientSuspended": {"suspended_ms": now_ms},
            "ClientResumed": {"suspended_ms": None},
        }.get(stored.type, {})
        if change:
            key = {"client_id": event["client_id"], "shard": shard}
            empty = {**key, "created_ms": None, "suspended_ms": None}
            row = rows.setdefault((event["client_id"], shard), empty)
            row |= {**change, "position": stored.position}
    return rows


def fold_keys(events: Iterable[StoredEvent]) -> dict[str, Row]:
    """Return each key's row by its id."""
    names = ("key_id", "client_id", "algorithm", "public_key", "master", "scopes", "addresses")
    rows: dict[str, Row] = {}
    for stored, event in _decoded(events):
        if stored.shard == 0 and stored.type == "KeyIssued":
            row = {name: event[name] for name in (*names, "expires_ms", "label")}
            row["scopes"], row["addresses"] = " ".join(row["scopes"]), " ".join(row["addresses"])
            row |= {"shard": 0, "issued_ms": event["time_ms"], "ends_ms": None}
            row |= {"rotated_from": event["rotated_from"], "position": stored.position}
            rows[event["key_id"]] = row
        if stored.shard == 0 and stored.type == "KeyRevoked":
            rows[event["key_id"]] |= {"ends_ms": event["ends_ms"], "position": stored.position}
    return rows


def fold_last_trades(events: Iterable[StoredEvent]) -> dict[str, Row]:
    """Return each instrument's newest trade."""
    names = ("price", "quantity", "taker_side", "position", "time_ms")
    return {
        trade["instrument"]: {name: trade[name] for name in names}
        for trade in fold_trades(events).values()
    }


def fold_book(events: Iterable[StoredEvent]) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Return each instrument's bids and asks as pairs of price and quantity, best first.

    An instrument on whose book nothing rests is left out.
    """
    resting: dict[str, Row] = {}
    for stored, event in _decoded(events):
        if stored.type == "OrderRested":
            resting[event["order_id"]] = event
        if stored.type == "TradeExecuted":
            resting[event["maker_order_id"]]["quantity"] -= event["quantity"]
            assert resting[event["maker_order_id"]]["quantity"] == event["maker_remaining"]
        if stored.type == "OrderCancelled" and event["price"] is not None:
            resting[event["order_id"]]["quantity"] -= event["quantity"]
    books: dict[str, dict[str, dict[int, int]]] = {}
    for order in resting.values():
        if order["quantity"]:
            book = books.setdefault(order["instrument"], {"buy": {}, "sell": {}})
            side = book[order["side"]]
            side[order["price"]] = side.get(order["price"], 0) + order["quantity"]
    return {
        instrument: {
            "bids": sorted(book["buy"].items(), reverse=True),
            "asks": sorted(book["sell"].items()),
        }
        for instrument, book in books.items()
    }


def _decoded(events: Iterable[StoredEvent]) -> Iterable[tuple[StoredEvent, Row]]:
    return ((stored, json.loads(stored.data)) for stored in events)


def _orders_changed(stored: StoredEvent, event: Row) -> list[str]:
    match stored.type:
        case "TradeExecuted":
            return [event["maker_order_id"], event["taker_order_id"]]
        case "OrderAccepted" | "OrderRested" | "OrderCancelled":
            return [event["order_id"]]
        case "OrderRejected" if _has_its_id(event):
            return [event["order_id"]]
    return []


def _has_its_id(event: Row) -> bool:
    return event.get("reason") != "duplicate_order_id"


def _new_order(stored: StoredEvent, event: Row) -> Row:
    names = ("order_id", "client_id", "instrument", "side", "order_type", "price", "quantity")
    return {
        **{name: event[name] for name in names},
        "shard": stored.shard,
        "filled_quantity": 0,
        "status": "open" if stored.type == "OrderAccepted" else "rejected",
        "reason": event.get("reason"),
        "command_id": stored.command_id,
        "created_ms": event["time_ms"],
        "updated_ms": event["time_ms"],
        "position": stored.position,
        "last_position": stored.position,
    }


def _split_at_zero(net: int, quantity: int) -> list[int]:
    """Split a trade that flips a position into what closes it and what opens the next one."""
    flips = net != 0 and (net > 0) != (net + quantity > 0) and net + quantity != 0
    return [-net, quantity + net] if flips else [quantity]


def _trade_position(row: Row, quantity: int, price: int) -> None:
    net = row["net_quantity"]
    if net == 0 or (net > 0) == (quantity > 0):
        row["total_cost"] += quantity * price
    else:
        removed = math.trunc(Fraction(row["total_cost"] * -quantity, net))
        row["total_cost"] -= removed
        row["realised_pnl"] += -quantity * price - removed
    row["net_quantity"] = net + quantity
