"""A checklist of the seed, the system that this one replaces, in the order of its description.

Its examples are sent as they are written there. The first line of a docstring is what it
promises; a name is one of its endpoints, messages or settings. The tests build on each other.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection, connect

from exchange.cli import app
from exchange.config import PROJECT, Settings
from tests.conftest import Services
from tests.e2e.conftest import client_of
from tests.e2e.test_trading import new_instrument, order, shard_of
from tests.running import Exchange

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

SUBSCRIBE = """{
  "type": "subscribe",
  "channels": ["trades", "orders", "orderbook"],
  "instrument": "BTC-USD"
}"""

UNSUBSCRIBE = """{
  "type": "unsubscribe",
  "channels": ["trades"],
  "instrument": "BTC-USD"
}"""

STREAM_ORDER = """{
  "type": "order",
  "client_id": "client-A",
  "instrument": "BTC-USD",
  "side": "buy",
  "type": "limit",
  "price": 70000,
  "quantity": 1.0,
  "idempotency_key": "ws-order-1"
}"""

WAIT_S = 30.0
JSON = {"Content-Type": "application/json"}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


async def place(http: httpx.AsyncClient, **order: Any) -> dict[str, Any]:
    body = {"client_id": "client-A", "instrument": "BTC-USD", "type": "limit", **order}
    response = await http.post("/orders", json=body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


# Order management


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


# Market data


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


@pytest.fixture(scope="module")
async def deep_book(exchange: Exchange) -> tuple[str, int]:
    """An instrument on which 101 bids rest, and the last sequence."""
    async with client_of(exchange.urls[-1]) as http:
        name = await new_instrument(http)
        answers = await asyncio.gather(
            *(http.post("/orders", json=order(name, "buy", price, 1)) for price in range(1, 102))
        )
    return name, max(answer.json()["sequence"] for answer in answers)


LEVELS: tuple[dict[str, int], ...] = ({}, {"levels": 100}, {"levels": 101})
LIMITS: tuple[dict[str, int], ...] = ({}, {"limit": 1000}, {"limit": 1001})


async def test_market_orderbook_levels(http: httpx.AsyncClient, deep_book: tuple[str, int]) -> None:
    """Number of price levels (default: 20, max: 100)."""
    name, seen = deep_book
    parameters: dict[str, Any] = {"instrument": name, "min_sequence": seen}

    answers = [
        await http.get("/market/orderbook", params={**parameters, **levels}) for levels in LEVELS
    ]

    assert [len(answer.json()["bids"]) for answer in answers[:2]] == [20, 100]
    assert [answer.status_code for answer in answers] == [200, 200, 422]


async def test_market_trades_limit(http: httpx.AsyncClient, deep_book: tuple[str, int]) -> None:
    """Number of trades (default: 50, max: 1000)."""
    name, _ = deep_book  # from here on it has fewer bids
    sold = await http.post("/orders", json=order(name, "sell", None, 60))
    parameters = {"instrument": name, "min_sequence": sold.json()["sequence"]}

    answers = [await http.get("/market/trades", params={**parameters, **limit}) for limit in LIMITS]

    assert [answer.json()["count"] for answer in answers[:2]] == [50, 60]
    assert [len(answer.json()["trades"]) for answer in answers[:2]] == [50, 60]
    assert [answer.status_code for answer in answers] == [200, 200, 422]


@pytest.mark.parametrize("path", ["orderbook", "trades", "analytics"])
async def test_market_data_is_of_btc_usd_unless_it_is_told(
    http: httpx.AsyncClient, path: str
) -> None:
    """Trading pair (default: BTC-USD)."""
    assert (await http.get(f"/market/{path}")).json()["instrument"] == "BTC-USD"


async def test_market_analytics_example(http: httpx.AsyncClient) -> None:
    """ISO 8601 timestamps, interval in minutes (default: 1)."""
    times = {"start_time": "2024-01-01T00:00:00.000Z", "end_time": "2024-01-01T23:59:59.999Z"}
    response = await http.get("/market/analytics", params={"instrument": "BTC-USD", **times})

    answer = response.json()
    assert response.status_code == 200
    assert answer.pop("sequence") > 0
    assert answer == {
        "instrument": "BTC-USD",
        **times,
        "interval_minutes": 1,
        "aggregates": [],
        "overall_vwap": None,
    }


async def test_market_analytics_aggregates(http: httpx.AsyncClient) -> None:
    """VWAP, trade aggregates, and time-based analytics."""
    name = await new_instrument(http)
    for price, quantity in ((70000, 1), (71000, 3)):
        await http.post("/orders", json=order(name, "sell", price, quantity))
    bought = await http.post("/orders", json=order(name, "buy", None, 4))
    parameters = {"instrument": name, "interval": 5, "min_sequence": bought.json()["sequence"]}

    answer = (await http.get("/market/analytics", params=parameters)).json()

    (bucket,) = answer["aggregates"]
    assert answer["interval_minutes"] == 5
    assert bucket["time_bucket"].endswith(":00.000Z")
    assert bucket["trade_count"] == 2
    assert (bucket["total_quantity"], bucket["total_volume"]) == (4, 283000)
    assert (bucket["min_price"], bucket["max_price"]) == (70000, 71000)
    assert (bucket["avg_price"], bucket["vwap"]) == (70500, 70750)
    assert answer["overall_vwap"] == 70750


async def test_market_orderbook_snapshot(http: httpx.AsyncClient) -> None:
    """Request an on-demand order book snapshot."""
    response = await http.post("/market/orderbook/snapshot")

    assert response.status_code == 201
    assert response.json()["snapshot"]["instrument"] == "BTC-USD"
    assert response.json()["snapshot"]["position"] >= response.json()["wanted"]


# Admin endpoints


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


# The stream


@asynccontextmanager
async def streaming(exchange: Exchange) -> AsyncIterator[ClientConnection]:
    async with connect(f"{exchange.urls[-1].replace('http', 'ws', 1)}/stream") as socket:
        yield socket


async def until(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a type."""
    async with asyncio.timeout(WAIT_S):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] == kind:
                return message


async def messages(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """Return the next messages that are of a channel, but for a book's snapshot."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            message: dict[str, Any] = json.loads(await socket.recv())
            channel = message["type"] in ("trades", "orders", "orderbook")
            if channel and message.get("kind") != "snapshot":
                found.append(message)
    return found


async def test_connected(exchange: Exchange) -> None:
    """Initial connection confirmation."""
    async with streaming(exchange) as socket:
        assert json.loads(await socket.recv())["type"] == "connected"


async def test_subscribed(exchange: Exchange) -> None:
    """Channel subscription confirmation."""
    async with streaming(exchange) as socket:
        await socket.send(SUBSCRIBE)
        answer = await until(socket, "subscribed")

    assert answer["instrument"] == "BTC-USD"
    assert set(answer["channels"]) == {"trades", "orders", "orderbook"}


async def test_order_accepted(http: httpx.AsyncClient, exchange: Exchange) -> None:
    """Order submission confirmation; the example has the key ``type`` twice."""
    async with streaming(exchange) as socket:
        await socket.send(STREAM_ORDER)
        answer = await until(socket, "order_accepted")
        # The next test begins with the book that has this order.
        seen = {"instrument": "BTC-USD", "min_sequence": answer["sequence"]}
        assert (await http.get("/market/orderbook", params=seen)).status_code == 200

    assert (
        answer["order"].items()
        >= {
            "client_id": "client-A",
            "instrument": "BTC-USD",
            "side": "buy",
            "type": "limit",
            "price": 70000,
            "quantity": 1,
            "status": "open",
        }.items()
    )
    assert (answer["idempotency_key"], answer["replayed"]) == ("ws-order-1", False)


async def test_trades_orders_and_orderbook(http: httpx.AsyncClient, exchange: Exchange) -> None:
    """New trade execution, order state change, order book update."""
    async with streaming(exchange) as socket:
        await socket.send(SUBSCRIBE)
        snapshot = await until(socket, "orderbook")
        sold = await place(http, client_id="client-B", side="sell", price=70000, quantity=0.4)
        told = {message["type"]: message for message in await messages(socket, 3)}

    assert snapshot["bids"][0] == {"price": 70000, "quantity": 1, "cumulative": 1}
    assert told["trades"]["trades"] == sold["trades"]
    assert "partially_filled" in {update["order"]["status"] for update in told["orders"]["orders"]}
    assert told["orderbook"]["bids"] == [{"price": 70000, "quantity": 0.6}]


async def test_unsubscribed(http: httpx.AsyncClient, exchange: Exchange) -> None:
    """Unsubscribe from channels: what is not followed any more does not come."""
    async with streaming(exchange) as socket:
        await socket.send(SUBSCRIBE)
        await socket.send(UNSUBSCRIBE)
        answer = await until(socket, "unsubscribed")
        await place(http, client_id="client-B", side="sell", price=70000, quantity=0.1)
        kinds = {message["type"] for message in await messages(socket, 2)}

    assert answer["channels"] == ["trades"]
    assert kinds == {"orders", "orderbook"}


async def test_error(exchange: Exchange) -> None:
    """Error message; the connection goes on."""
    async with streaming(exchange) as socket:
        await socket.send(STREAM_ORDER.replace("70000", "70001"))
        conflict = await until(socket, "error")
        await socket.send('{"type": "nonsense"}')
        unknown = await until(socket, "error")

    assert conflict["code"] == "idempotency.conflict"
    assert unknown["code"] == "stream.unknown_type"


# Core features


async def test_order_types(http: httpx.AsyncClient) -> None:
    """Support for Limit orders, Market orders, and Cancel operations."""
    name = await new_instrument(http)
    limit = await http.post("/orders", json=order(name, "sell", 10, 2))
    market = await http.post("/orders", json=order(name, "buy", None, 1))
    cancel = await http.post(f"/orders/{limit.json()['order']['order_id']}/cancel")

    states = [answer.json()["order"]["status"] for answer in (limit, market, cancel)]
    assert states == ["open", "filled", "cancelled"]


async def test_price_time_priority_with_partial_fills(http: httpx.AsyncClient) -> None:
    """Price-time priority matching with partial fills."""
    name = await new_instrument(http)
    prices = {"dear": 11, "first": 10, "second": 10}
    for order_id, price in prices.items():
        body = order(name, "sell", price, 1, order_id=f"{order_id}-{name}")
        await http.post("/orders", json=body)

    bought = (await http.post("/orders", json=order(name, "buy", None, 2.5))).json()

    makers = [trade["sell_order_id"] for trade in bought["trades"]]
    assert makers == [f"{order_id}-{name}" for order_id in ("first", "second", "dear")]
    assert [trade["quantity"] for trade in bought["trades"]] == [1, 1, 0.5]


async def test_concurrency(http: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    """Prevents race conditions and double fills."""
    name = await new_instrument(http)
    await http.post("/orders", json=order(name, "sell", 10, 5))

    answers = await asyncio.gather(
        *(client.post("/orders", json=order(name, "buy", None, 1)) for client in (http, other) * 10)
    )

    states = Counter(answer.json()["order"]["status"] for answer in answers)
    assert states == {"filled": 5, "cancelled": 15}


async def test_idempotency_over_http(http: httpx.AsyncClient) -> None:
    """Support for idempotent order submission via idempotency keys."""
    again = await http.post("/orders", content=ORDER, headers=JSON)
    other = await http.post("/orders", content=ORDER.replace("0.25", "0.5"), headers=JSON)

    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json()["order"]["order_id"] == "order-1"
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")


async def test_idempotency_over_the_stream(exchange: Exchange) -> None:
    """The same message again is the same order."""
    async with streaming(exchange) as socket:
        answers = []
        for _ in range(2):
            await socket.send(STREAM_ORDER)
            answers.append(await until(socket, "order_accepted"))

    assert [answer["replayed"] for answer in answers] == [True, True]
    assert len({answer["order"]["order_id"] for answer in answers}) == 1


async def test_recovery(http: httpx.AsyncClient, exchange: Exchange, services: Services) -> None:
    """State reconstruction from persisted orders and snapshots."""
    name = await new_instrument(http, shard=0)
    resting = await http.post("/orders", json=order(name, "sell", 10, 1))
    await http.post("/market/orderbook/snapshot", params={"instrument": name})

    for process in (*exchange.matchers, exchange.projector):
        await asyncio.to_thread(services.portal.call, exchange.kill_and_restart, process)
    key = {"client_id": "after-recovery", "idempotency_key": name}
    body = order(name, "buy", None, 1, **key)
    async with asyncio.timeout(60):
        while (bought := await http.post("/orders", json=body)).status_code != 201:
            await asyncio.sleep(0.1)

    (trade,) = bought.json()["trades"]
    assert trade["sell_order_id"] == resting.json()["order"]["order_id"]
    await asyncio.to_thread(services.portal.call, exchange.until_healthy)


# Bonus features


async def test_event_sourcing(http: httpx.AsyncClient) -> None:
    """Complete order event history in database."""
    history = (await http.get("/orders/order-1/events")).json()["events"]

    kinds = [event["type"] for event in history]
    assert kinds == ["OrderAccepted", "OrderRested", "TradeExecuted", "OrderCancelled"]


async def test_multi_instrument(http: httpx.AsyncClient) -> None:
    """Extensible architecture for multiple trading pairs."""
    first, second = await new_instrument(http), await new_instrument(http)
    await http.post("/orders", json=order(first, "sell", 10, 1))

    bought = await http.post("/orders", json=order(second, "buy", 10, 1))

    assert bought.json()["trades"] == []


async def test_settlement(http: httpx.AsyncClient) -> None:
    """Client position tracking and netting."""
    name = await new_instrument(http)
    client = f"settles-{name}"
    for side, price, quantity in (("buy", 10, 3), ("sell", 12, 1)):
        away = "sell" if side == "buy" else "buy"
        await http.post("/orders", json=order(name, away, price, quantity, client_id="maker"))
        body = order(name, side, price, quantity, client_id=client)
        last = await http.post("/orders", json=body)
    seen = {"min_sequence": f"{await shard_of(http, name)}:{last.json()['sequence']}"}

    listed = (await http.get("/settlement/cycles", params=seen)).json()["cycles"]
    path = f"/settlement/cycles/{listed[0]['cycle_id']}"
    owed = (await http.get(path, params={"client_id": client, **seen})).json()["clients"]

    (one,) = owed[0]["obligations"]
    assert (one["instrument"], one["net_quantity"], one["net_amount"]) == (name, 2, -18)


async def test_rate_limiting(http: httpx.AsyncClient) -> None:
    """Rate limiting in Redis; every answer to an order tells what is left."""
    response = await http.post("/orders", content=ORDER, headers=JSON)
    placed = await http.post("/orders", json=order("BTC-USD", "buy", 1, 1, client_id="limited"))

    assert response.status_code == 201
    limit, left = (placed.headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining"))
    assert (limit, left) == ("500", "499")


# Running it


def test_ports() -> None:
    """HTTP server port (default: 3000)."""
    assert Settings.load({}, dotenv=None).port == 3000
    assert Settings.load({"PORT": "4000"}, dotenv=None).port == 4000


def test_environment_variables() -> None:
    """POSTGRES_*, REDIS_*, KAFKA_*, RATE_LIMIT_*."""
    environment = {
        "POSTGRES_HOST": "db",
        "POSTGRES_PORT": "5433",
        "POSTGRES_USER": "me",
        "POSTGRES_PASSWORD": "secret",
        "POSTGRES_DB": "trades",
        "REDIS_HOST": "cache",
        "REDIS_PORT": "6380",
        "KAFKA_BROKERS": "kafka:9092",
        "RATE_LIMIT_ORDERS_PER_SECOND": "7",
    }
    settings = Settings.load(environment, dotenv=None)

    assert settings.database_url == "postgresql://me:secret@db:5433/trades"
    assert settings.redis_url == "redis://cache:6380/0"
    assert settings.kafka_bootstrap_servers == "kafka:9092"
    assert settings.rate_limit_orders_per_second == 7
    listed = (PROJECT / ".env.example").read_text()
    assert [name for name in (*environment, "PORT") if f"# {name}=" not in listed] == []


def test_generate_fixtures_and_load_test(exchange: Exchange, tmp_path: Path) -> None:
    """Generate test fixtures, run a load test with custom parameters: success rate > 99.9 %."""
    output = str(tmp_path / "orders.jsonl")
    environment = {
        "BASE_URL": exchange.urls[0],
        "CONCURRENT_REQUESTS": "10",
        "TOTAL_REQUESTS": "100",
        "DURATION_SECONDS": "60",
    }
    shell = CliRunner()
    shell.invoke(app, ["fixtures", "--orders", "50", "--output", output])

    runs = [
        shell.invoke(app, ["load", "--json", *more], env=environment)
        for more in ([], ["--file", output])
    ]

    found = [json.loads(run.stdout) for run in runs]
    assert [one["orders"] for one in found] == [100, 50]
    assert [one["success_rate"] for one in found] == [1.0, 1.0]
    assert found[0]["connections"] == 10
    assert found[0]["latency_ms"].keys() >= {"p50", "p95", "p99"}


def test_everything_starts_with_one_command() -> None:
    """docker-compose up -d; migrations; integration and load tests."""
    compose = (PROJECT / "compose.yaml").read_text()
    assert [name for name in ("postgres:", "kafka:", "3000") if name not in compose] == []
    makefile = (PROJECT / "Makefile").read_text()
    targets = ("run:", "test:", "load:", "fixtures:")
    assert [name for name in targets if f"\n{name}" not in makefile] == []
