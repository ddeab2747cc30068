"""A slow matcher, plain enough to be trusted, to compare the engine with.

It shares nothing with the product: commands come in and events go out as dictionaries,
as JSON has them, and every question is answered by looking at every resting order.

``resting`` holds the orders of all instruments in the order in which they came to rest,
so time priority needs no more than a strict comparison of prices.
"""

from typing import Any

from tests.domain.account_oracle import ABOUT_ACCOUNTS, AccountOracle

Message = dict[str, Any]


class Oracle:
    """All instruments, and all resting orders, oldest first."""

    def __init__(
        self, fills_max: int = 10_000, cancel_all_max: int = 1_000, keys_max: int = 100
    ) -> None:
        self.fills_max = fills_max
        self.cancel_all_max = cancel_all_max
        self.accounts = AccountOracle(keys_max)
        self.position = 0
        self.rested_at: dict[tuple[str, str], int] = {}  # by instrument and order
        self.open_orders_max = 100_000
        self.instruments: dict[str, Message] = {}
        self.resting: list[Message] = []
        self.time_ms = 0
        self.open_cycle = 1

    def execute(
        self,
        command: Message,
        time_ms: int,
        order_id_taken: bool,
        key_id: str | None = None,
    ) -> list[Message]:
        """Carry ``command`` out and tell what happened."""
        if time_ms > self.time_ms:
            self.time_ms = time_ms
        if command["type"] in ABOUT_ACCOUNTS:
            events = self.accounts.execute(command, self.time_ms)
        else:
            events = self._of_orders(command, order_id_taken)
        self._note(events)
        told = [{**event, "time_ms": self.time_ms} for event in events]
        if key_id is not None:
            told[0]["signed_by"] = key_id
        return told

    def depth(self, instrument: str, side: str) -> list[tuple[int, int]]:
        """Return each price with the quantity that rests at it, best first."""
        orders = [
            order
            for order in self.resting
            if order["instrument"] == instrument and order["side"] == side
        ]
        prices = sorted({order["price"] for order in orders}, reverse=side == "buy")
        return [
            (price, sum(order["quantity"] for order in orders if order["price"] == price))
            for price in prices
        ]

    def _of_orders(self, command: Message, order_id_taken: bool) -> list[Message]:
        if command["type"] == "PlaceOrder":
            events = self._place(command, order_id_taken)
        elif command["type"] == "CancelOrder":
            events = [self._cancel(command)]
        elif command["type"] == "CancelAllOrders":
            events = self._cancel_all(command)
        elif command["type"] == "RegisterInstrument":
            events = [self._register(command)]
        elif command["type"] == "CloseSettlementCycle":
            events = [self._close_cycle(command)]
        elif command["type"] == "LimitOpenOrders":
            self.open_orders_max = command["open_orders_max"]
            events = [{**command, "type": "OpenOrdersLimited"}]
        elif command["type"] == "PlaceShard":
            events = [{**command, "type": "ShardPlaced", "cycle": self.open_cycle}]
        else:
            quarantined = command["type"] == "QuarantinedRecord"
            kind = "CommandQuarantined" if quarantined else "RecordRejected"
            events = [{**command, "type": kind}]
        return events

    def _note(self, events: list[Message]) -> None:
        for event in events:
            self.position += 1
            if event["type"] == "OrderRested":
                self.rested_at[event["instrument"], event["order_id"]] = self.position

    def _place(self, order: Message, order_id_taken: bool) -> list[Message]:
        reason = self._why_not(order, order_id_taken)
        if reason:
            return [{**order, "type": "OrderRejected", "reason": reason}]
        events = [{**order, "type": "OrderAccepted"}]
        left = order["quantity"]
        fills = 0
        while left > 0:
            if fills == self.fills_max:
                events.append(self._cancel_rest(order, left, "fills_max"))
                break
            maker = self._best_maker(order)
            if maker is None:
                events.append(self._leave(order, left))
                break
            quantity = min(left, maker["quantity"])
            left -= quantity
            maker["quantity"] -= quantity
            events.append(trade(order, left, maker, quantity))
            fills += 1
            if maker["quantity"] == 0:
                self.resting.remove(maker)
        return events

    def _why_not(self, order: Message, order_id_taken: bool) -> str | None:
        if order_id_taken:
            return "duplicate_order_id"
        if order["client_id"] in self.accounts.suspended:
            return "client_suspended"
        if order["instrument"] not in self.instruments:
            return "unknown_instrument"
        if self._find(order["instrument"], order["order_id"]) is not None:
            return "duplicate_order_id"
        if order["order_type"] == "limit" and order["price"] is None:
            return "price_required"
        if order["order_type"] == "market" and order["price"] is not None:
            return "price_not_allowed"
        instrument = self.instruments[order["instrument"]]
        if order["price"] is not None and order["price"] % instrument["tick_size"] != 0:
            return "off_tick"
        if order["quantity"] % instrument["lot_size"] != 0:
            return "off_lot"
        open_orders = [one for one in self.resting if one["client_id"] == order["client_id"]]
        if order["order_type"] == "limit" and len(open_orders) >= self.open_orders_max:
            return "too_many_open_orders"
        return None

    def _best_maker(self, taker: Message) -> Message | None:
        best = None
        for maker in self.resting:
            if maker["instrument"] != taker["instrument"] or maker["side"] == taker["side"]:
                continue
            if taker["price"] is not None and is_better(taker, taker["price"], maker["price"]):
                continue
            if best is None or is_better(taker, maker["price"], best["price"]):
                best = maker
        return best

    def _leave(self, order: Message, left: int) -> Message:
        names = {key: order[key] for key in ("order_id", "client_id", "instrument", "side")}
        if order["order_type"] == "market":
            return self._cancel_rest(order, left, "market_remainder")
        self.resting.append({**names, "price": order["price"], "quantity": left})
        return {"type": "OrderRested", **names, "price": order["price"], "quantity": left}

    def _cancel_rest(self, order: Message, left: int, reason: str) -> Message:
        names = {key: order[key] for key in ("order_id", "client_id", "instrument", "side")}
        rest = {"price": None, "quantity": left, "reason": reason}
        return {"type": "OrderCancelled", **names, **rest}

    def _cancel(self, command: Message) -> Message:
        refused = {
            "type": "CancelRejected",
            "order_id": command["order_id"],
            "instrument": command["instrument"],
            "asked_by": command["client_id"],
        }
        if command["instrument"] not in self.instruments:
            return {**refused, "reason": "unknown_instrument"}
        order = self._find(command["instrument"], command["order_id"])
        if order is None:
            return {**refused, "reason": "order_not_open"}
        if command["client_id"] not in (None, order["client_id"]):
            return {**refused, "reason": "not_owner"}
        self.resting.remove(order)
        asked_by = command["client_id"]
        return {"type": "OrderCancelled", **order, "reason": "requested", "asked_by": asked_by}

    def _cancel_all(self, command: Message) -> list[Message]:
        asked = {name: command.get(name) for name in ("client_id", "instrument", "side", "up_to")}
        found = [order for order in self.resting if self._is_asked(order, asked)]
        gone = found[: self.cancel_all_max]
        for order in gone:
            self.resting.remove(order)
        counts = {"cancelled_orders": len(gone), "remaining_orders": len(found) - len(gone)}
        how = {"reason": "requested", "asked_by": command["client_id"]}
        return [
            {"type": "CancelAllAccepted", **asked, **counts},
            *({"type": "OrderCancelled", **order, **how} for order in gone),
        ]

    def _is_asked(self, order: Message, asked: Message) -> bool:
        for name in ("client_id", "instrument", "side"):
            if asked[name] is not None and order[name] != asked[name]:
                return False
        rested_at = self.rested_at[order["instrument"], order["order_id"]]
        return asked["up_to"] is None or rested_at <= asked["up_to"]

    def _register(self, command: Message) -> Message:
        if command["instrument"] in self.instruments:
            return {
                "type": "InstrumentRejected",
                "instrument": command["instrument"],
                "reason": "instrument_already_registered",
            }
        self.instruments[command["instrument"]] = command
        return {**command, "type": "InstrumentRegistered"}

    def _close_cycle(self, command: Message) -> Message:
        if command["cycle"] < self.open_cycle:
            return {
                "type": "SettlementCycleRejected",
                "cycle": command["cycle"],
                "reason": "cycle_closed",
            }
        self.open_cycle = command["cycle"] + 1
        return {"type": "SettlementCycleClosed", "cycle": command["cycle"]}

    def _find(self, instrument: str, order_id: str) -> Message | None:
        for order in self.resting:
            if order["instrument"] == instrument and order["order_id"] == order_id:
                return order
        return None


def is_better(taker: Message, price: int, other: int) -> bool:
    """Tell whether a taker would sooner trade at ``price`` than at ``other``."""
    return price < other if taker["side"] == "buy" else price > other


def trade(taker: Message, taker_left: int, maker: Message, quantity: int) -> Message:
    """Tell of a trade, after ``maker`` was reduced by it."""
    return {
        "type": "TradeExecuted",
        "instrument": taker["instrument"],
        "price": maker["price"],
        "quantity": quantity,
        "taker_side": taker["side"],
        "taker_order_id": taker["order_id"],
        "taker_client_id": taker["client_id"],
        "taker_remaining": taker_left,
        "maker_order_id": maker["order_id"],
        "maker_client_id": maker["client_id"],
        "maker_remaining": maker["quantity"],
    }
