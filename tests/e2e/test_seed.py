"""The HTTP examples of the system that this one replaces, sent as they are written there."""

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

ORDER = """{
  "idempotency_key": "abc-123",
  "order_id": "order-1",
  "client_id": "client-A",
  "instrument": "BTC-USD",
  "side": "buy",
  "type": "limit",
  "price": 70150.5,
  "quantity": 0.25
}"""

JSON = {"Content-Type": "application/json"}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


async def place(http: httpx.AsyncClient, **order: Any) -> dict[str, Any]:
    body = {"client_id": "client-A", "instrument": "BTC-USD", "type": "limit", **order}
    response = await http.post("/orders", json=body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_post_orders(http: httpx.AsyncClient) -> None:
    response = await http.post("/orders", content=ORDER, headers=JSON)

    assert response.status_code == 201
    answer = response.json()
    order = answer["order"]
    times = {order.pop("created_at"), order.pop("updated_at")}
    assert order == {
        "order_id": "order-1",
        "client_id": "client-A",
        "instrument": "BTC-USD",
        "side": "buy",
        "type": "limit",
        "price": 70150.5,
        "quantity": 0.25,
        "filled_quantity": 0,
        "status": "open",
    }
    assert len(times) == 1
    assert answer["trades"] == []
    assert answer["orderbook"]["asks"] == []
    assert answer["orderbook"]["bids"] == [{"price": 70150.5, "quantity": 0.25, "cumulative": 0.25}]
    assert '"price":70150.5,"quantity":0.25' in response.text


async def test_get_order(http: httpx.AsyncClient) -> None:
    response = await http.get("/orders/order-1")

    assert response.status_code == 200
    order = response.json()["order"]
    assert (order["order_id"], order["client_id"]) == ("order-1", "client-A")
    assert order["status"] == "open"


async def test_market_trades(http: httpx.AsyncClient) -> None:
    sold = await place(
        http, order_id="order-2", client_id="client-B", side="sell", price=70150.5, quantity=0.05
    )

    response = await http.get(
        "/market/trades",
        params={"instrument": "BTC-USD", "limit": 50, "min_sequence": sold["sequence"]},
    )

    assert response.status_code == 200
    answer = response.json()
    assert (answer["instrument"], answer["count"]) == ("BTC-USD", 1)
    (trade,) = answer["trades"]
    assert trade["trade_id"] == sold["trades"][0]["trade_id"]
    assert (trade["buy_order_id"], trade["sell_order_id"]) == ("order-1", "order-2")
    assert (trade["price"], trade["quantity"]) == (70150.5, 0.05)
    assert trade["timestamp"] == sold["trades"][0]["timestamp"]


async def test_market_orderbook(http: httpx.AsyncClient) -> None:
    latest = await place(http, client_id="client-C", side="sell", price=71000, quantity=2.0)

    response = await http.get(
        "/market/orderbook",
        params={"instrument": "BTC-USD", "levels": 20, "min_sequence": latest["sequence"]},
    )

    assert response.status_code == 200
    book = response.json()
    assert book["instrument"] == "BTC-USD"
    assert book["bids"] == [{"price": 70150.5, "quantity": 0.2, "cumulative": 0.2}]
    assert book["asks"] == [{"price": 71000, "quantity": 2, "cumulative": 2}]
    assert set(book) >= {"timestamp"}


async def test_market_positions(http: httpx.AsyncClient) -> None:
    response = await http.get("/market/positions/client-A")

    assert response.status_code == 200
    answer = response.json()
    assert answer["client_id"] == "client-A"
    (position,) = answer["positions"]
    assert position["instrument"] == "BTC-USD"
    assert position["net_quantity"] == 0.05
    assert position["total_cost"] == 3507.525
    assert position["avg_price"] == 70150.5
    assert "last_updated" in position


async def test_cancel(http: httpx.AsyncClient) -> None:
    response = await http.post("/orders/order-1/cancel")

    assert response.status_code == 200
    order = response.json()["order"]
    assert (order["order_id"], order["status"]) == ("order-1", "cancelled")
    assert order["filled_quantity"] == 0.05


async def test_healthz(http: httpx.AsyncClient) -> None:
    response = await http.get("/healthz")

    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "healthy"
    assert answer["checks"] == {"postgres": "healthy", "redis": "healthy", "kafka": "healthy"}
    assert "timestamp" in answer


async def test_metrics(http: httpx.AsyncClient) -> None:
    response = await http.get("/metrics")

    assert response.status_code == 200
    assert "# TYPE" in response.text


async def test_livez(http: httpx.AsyncClient) -> None:
    assert (await http.get("/livez")).status_code == 200
