"""Requests as they are sent, and answers that have what the exchange says they have."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from exchange.client import answers, messages, requests
from exchange.gateway.http.responses import DepthView, OrderView, TradeView
from exchange.gateway.orders.cancelling import AllCancelledView
from exchange.gateway.orders.entry import CancelledOrderView, CancelledView, PlacedView
from exchange.gateway.resources.analytics import AggregateView, AnalyticsView
from exchange.gateway.resources.fills import FillsView, FillView
from exchange.gateway.resources.instruments import InstrumentsView, InstrumentView
from exchange.gateway.resources.market import OrderbookView, TradesView
from exchange.gateway.resources.positions import PositionsView, PositionView
from exchange.gateway.resources.settlement import (
    ClientObligationsView,
    CurrencyView,
    CycleObligationsView,
    CyclesView,
    CycleView,
    ObligationView,
)
from exchange.gateway.resources.snapshots import SnapshotView, TakenView
from exchange.gateway.resources.ticker import DayView, TickerView
from exchange.gateway.stream.protocol import frames

OWN = {"replayed"}  # said by a header
SAME: tuple[tuple[Any, Any], ...] = (
    (answers.Order, OrderView),
    (answers.Order, CancelledOrderView),
    (answers.Trade, TradeView),
    (answers.Level, DepthView),
    (answers.Placed, PlacedView),
    (answers.Cancelled, CancelledView),
    (answers.AllCancelled, AllCancelledView),
    (answers.Orderbook, OrderbookView),
    (answers.Trades, TradesView),
    (answers.Fill, FillView),
    (answers.Fills, FillsView),
    (answers.Position, PositionView),
    (answers.Positions, PositionsView),
    (answers.Day, DayView),
    (answers.Ticker, TickerView),
    (answers.Aggregate, AggregateView),
    (answers.Analytics, AnalyticsView),
    (answers.Instrument, InstrumentView),
    (answers.Instruments, InstrumentsView),
    (answers.Snapshot, SnapshotView),
    (answers.Taken, TakenView),
    (answers.Cycle, CycleView),
    (answers.Cycles, CyclesView),
    (answers.Obligation, ObligationView),
    (answers.CurrencyAmount, CurrencyView),
    (answers.Obligations, ClientObligationsView),
    (answers.CycleRead, CycleObligationsView),
    (messages.Subscribed, frames.Subscribed),
    (messages.TradesTold, frames.Trades),
    (messages.OrderUpdate, frames.OrderUpdate),
    (messages.OrdersTold, frames.Orders),
    (messages.Heartbeat, frames.Heartbeat),
)


def fields_of(struct: Any) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize(("mine", "theirs"), SAME, ids=lambda one: one.__name__)
def test_an_answer_has_the_fields_that_the_exchange_sends(mine: Any, theirs: Any) -> None:
    assert fields_of(mine) - OWN - fields_of(theirs) == set()
    needed = {f.encode_name for f in msgspec.structs.fields(mine) if f.required}
    assert needed <= {f.encode_name for f in msgspec.structs.fields(theirs) if f.required}
    assert fields_of(theirs) - fields_of(mine) <= {"id"}


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Decimal("1E-8"), "0.00000001"),
        (Decimal("70150.50"), "70150.50"),
        (5, "5"),
        ("0.1", "0.1"),
    ],
)
def test_amounts_are_sent_digit_by_digit(amount: requests.Amount, text: str) -> None:
    order = requests.limit_order("BTC-USD", "buy", amount, amount, client_id="ann")

    assert order.body is not None
    assert (order.body["quantity"], order.body["price"]) == (text, text)


@pytest.mark.parametrize("amount", [0.1, True, None, b"1"])
def test_a_float_is_no_amount(amount: Any) -> None:
    with pytest.raises(TypeError, match="never a float"):
        requests.market_order("BTC-USD", "buy", amount)


def test_a_command_has_a_key_from_when_it_is_made_and_another_has_another() -> None:
    one, other = (requests.market_order("BTC-USD", "buy", 1) for _ in range(2))

    assert one.content == one.content != other.content
    assert requests.market_order("BTC-USD", "buy", 1, key="k").body == {
        "instrument": "BTC-USD",
        "side": "buy",
        "type": "market",
        "quantity": "1",
        "idempotency_key": "k",
    }


def test_ids_and_times_stand_in_a_url_as_they_are() -> None:
    cancel = requests.cancel("a b/ü?", client_id="ann", key="k")
    read = requests.orderbook("BTC-USD", as_of_time="2024-01-01T00:00:00+01:00")

    assert cancel.target == "/orders/a%20b%2F%C3%BC%3F/cancel"
    assert read.target == (
        "/market/orderbook?instrument=BTC-USD&as_of_time=2024-01-01T00%3A00%3A00%2B01%3A00"
    )


def test_a_batch_has_orders_and_cancels_alone_and_not_too_many() -> None:
    order, cancel = requests.market_order("I", "buy", 1), requests.cancel("o", client_id="ann")

    body = requests.batch([order, cancel]).body
    assert body is not None
    assert [entry["action"] for entry in body["entries"]] == ["place", "cancel"]
    for wrong in ([], [requests.cancel_all(client_id="ann")], [order] * 501):
        with pytest.raises(ValueError, match="batch"):
            requests.batch(wrong)
