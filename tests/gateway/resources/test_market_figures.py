"""Ticker, analytics, and a position's marks and profit, as trades make them."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import Place

pytestmark = pytest.mark.anyio


async def get(http: httpx.AsyncClient, path: str, **parameters: Any) -> dict[str, Any]:
    response = await http.get(path, params=parameters)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json(parse_float=Decimal)
    return answer


async def trade(place: Place, price: Any, quantity: Any) -> int:
    """Trade between two clients and return the sequence."""
    await place(client_id="maker", side="sell", price=price, quantity=quantity)
    answer = await place(client_id="taker", type="market", price=..., quantity=quantity)
    assert len(answer.json()["trades"]) == 1, answer.text
    sequence: int = answer.json()["sequence"]
    return sequence


async def test_analytics_are_exact(http: httpx.AsyncClient, instrument: str, place: Place) -> None:
    for price, quantity in ((10, 1), (12, 3), ("10.01", "0.5")):
        sequence = await trade(place, price, quantity)

    answer = await get(
        http, "/market/analytics", instrument=instrument, interval=60, min_sequence=sequence
    )

    assert (answer["instrument"], answer["interval_minutes"]) == (instrument, 60)
    # Around the turn of an hour the trades are in two intervals.
    assert sum(bucket["trade_count"] for bucket in answer["aggregates"]) == 3
    assert sum(bucket["total_quantity"] for bucket in answer["aggregates"]) == Decimal("4.5")
    assert sum(bucket["total_volume"] for bucket in answer["aggregates"]) == Decimal("51.005")
    assert answer["overall_vwap"] == Decimal("11.3344444444")
    if len(answer["aggregates"]) == 1:
        (bucket,) = answer["aggregates"]
        assert (bucket["min_price"], bucket["max_price"]) == (10, 12)
        assert (bucket["open_price"], bucket["close_price"]) == (10, Decimal("10.01"))
        assert bucket["avg_price"] == Decimal("10.67")
        assert bucket["vwap"] == answer["overall_vwap"]


async def test_analytics_of_a_time_without_trades_are_empty(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    sequence = await trade(place, 10, 1)

    answer = await get(
        http,
        "/market/analytics",
        instrument=instrument,
        start_time="2024-01-01T00:00:00.000Z",
        end_time="2024-01-01T23:59:59.999Z",
        min_sequence=sequence,
    )

    assert answer["start_time"] == "2024-01-01T00:00:00.000Z"
    assert answer["end_time"] == "2024-01-01T23:59:59.999Z"
    assert (answer["aggregates"], answer["overall_vwap"]) == ([], None)


async def test_whole_minutes_count(http: httpx.AsyncClient, instrument: str, place: Place) -> None:
    sequence = await trade(place, 10, 1)
    trades = await get(http, "/market/trades", instrument=instrument, min_sequence=sequence)
    traded = trades["trades"][0]["timestamp"]
    minute = traded[:16]
    at_its_end = {"start_time": f"{minute}:59Z", "end_time": f"{minute}:59Z"}
    until_then = {
        "start_time": "1970-01-01",
        "end_time": minute_before(traded),
        "interval": 527_040,
    }
    parameters = {"instrument": instrument, "min_sequence": sequence}

    inside = await get(http, "/market/analytics", **at_its_end, **parameters)
    before = await get(http, "/market/analytics", **until_then, **parameters)

    assert [bucket["time_bucket"] for bucket in inside["aggregates"]] == [f"{minute}:00.000Z"]
    assert before["aggregates"] == []


def minute_before(moment: str) -> str:
    seconds = datetime.fromisoformat(moment).timestamp() - 60
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": "x"}, "interval"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"start_time": "1900-01-01"}, "start_time"),
        ({"end_time": "1969-12-31T23:59:59Z"}, "end_time"),
        ({"start_time": "2024-01-02", "end_time": "2024-01-01"}, "end_time"),
        ({"start_time": "2024-01-01", "end_time": "2025-01-01"}, "interval"),
        ({"bucket": 5}, "bucket"),
    ],
    ids=str,
)
async def test_parameters_out_of_range_are_named(
    http: httpx.AsyncClient, instrument: str, parameters: dict[str, Any], field: str
) -> None:
    response = await http.get("/market/analytics", params={"instrument": instrument, **parameters})

    assert (response.status_code, response.json()["field"]) == (422, field), response.text


async def test_the_ticker_has_the_last_trade_the_touch_and_the_day(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await trade(place, 10, 1)
    await trade(place, 8, 2)
    await place(client_id="bidder", price=7, quantity=4)
    latest = await place(client_id="asker", side="sell", price=9.5, quantity=0.25)

    answer = await get(
        http, "/market/ticker", instrument=instrument, min_sequence=latest.json()["sequence"]
    )

    assert (answer["last_price"], answer["last_quantity"], answer["last_side"]) == (8, 2, "buy")
    assert (answer["best_bid"], answer["best_bid_quantity"]) == (7, 4)
    assert (answer["best_ask"], answer["best_ask_quantity"]) == (
        Decimal("9.5"),
        Decimal("0.25"),
    )
    day = answer["day"]
    assert [day[name] for name in ("open", "high", "low", "close")] == [10, 10, 8, 8]
    assert (day["change"], day["change_percent"]) == (-2, -20)
    assert (day["quantity"], day["volume"], day["trade_count"]) == (3, 26, 2)
    assert day["vwap"] == Decimal("8.6666666667")
    assert answer["sequence"] >= latest.json()["sequence"]


async def test_the_ticker_of_an_instrument_that_never_traded(
    http: httpx.AsyncClient, instrument: str
) -> None:
    answer = await get(http, "/market/ticker", instrument=instrument)

    empty = ("last_price", "last_side", "last_time", "best_bid", "best_ask", "best_ask_quantity")
    assert [answer[name] for name in empty] == [None] * len(empty)
    assert answer["day"]["trade_count"] == 0
    assert answer["day"]["vwap"] is None


async def test_a_position_that_flips_has_the_price_of_what_opened_it(
    http: httpx.AsyncClient, place: Place
) -> None:
    client = f"flip-{time.monotonic_ns()}"
    await place(client_id=client, price=10, quantity=2)
    await place(side="sell", price=10, quantity=2, client_id="other")
    await place(side="buy", price=13, quantity=5, client_id="other")
    sold = await place(side="sell", price=13, quantity=5, client_id=client)

    answer = await get(http, f"/market/positions/{client}", min_sequence=sold.json()["sequence"])

    (position,) = answer["positions"]
    assert (position["net_quantity"], position["avg_price"]) == (-3, 13)
    assert (position["realised_pnl"], position["total_cost"]) == (6, -39)
    assert (position["mark_price"], position["unrealised_pnl"]) == (13, 0)

    await place(side="sell", price=11, quantity=1, client_id="other")
    last = await place(type="market", price=..., quantity=1, client_id="third")
    answer = await get(http, f"/market/positions/{client}", min_sequence=last.json()["sequence"])

    assert answer["positions"][0]["mark_price"] == 11
    assert answer["positions"][0]["unrealised_pnl"] == 6
