"""Trading through the whole system, beyond the seed's examples."""

import asyncio
import itertools
from collections import Counter
from decimal import Decimal
from typing import Any

import asyncpg
import httpx
import pytest

from tests.e2e.conftest import CLIENT_TIMEOUT_S
from tests.running import Exchange

pytestmark = pytest.mark.anyio

COUNT_ACCEPTED = "select count(*) from events where type = 'OrderAccepted' and instrument = $1"

_names = itertools.count(1)


async def new_instrument(http: httpx.AsyncClient, **definition: Any) -> str:
    """Register an instrument that no other test trades."""
    name = f"T{next(_names)}-USD"
    body = {
        "instrument": name,
        "base": "T",
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": 0.00000001,
        **definition,
    }
    response = await http.post("/instruments", json=body)
    assert response.status_code == 201, response.text
    return name


def order(instrument: str, side: str, price: object, quantity: object, **more: Any) -> Any:
    kind = {"type": "market"} if price is None else {"type": "limit", "price": price}
    body = {"client_id": "a", "instrument": instrument, "side": side, "quantity": quantity}
    return {**body, **kind, **more}


async def test_a_market_order_sweeps_and_its_remainder_is_cancelled(
    http: httpx.AsyncClient,
) -> None:
    name = await new_instrument(http)
    for price in (10, 11):
        await http.post("/orders", json=order(name, "sell", price, 1, client_id="maker"))

    response = await http.post("/orders", json=order(name, "buy", None, 5, client_id="taker"))

    answer = response.json()
    assert [(t["price"], t["quantity"]) for t in answer["trades"]] == [(10, 1), (11, 1)]
    assert answer["order"]["status"] == "cancelled"
    assert answer["order"]["reason"] == "market_remainder"
    assert answer["order"]["filled_quantity"] == 2
    assert answer["orderbook"] == {"bids": [], "asks": []}


async def test_amounts_are_exact(http: httpx.AsyncClient) -> None:
    name = await new_instrument(http)
    last: dict[str, Any] = {}
    for quantity in ("0.1", "0.2"):
        body = order(name, "buy", "70150.5", quantity, client_id="exact")
        last = (await http.post("/orders", json=body)).json()
    sold = (await http.post("/orders", json=order(name, "sell", None, 0.3))).json()

    assert last["orderbook"]["bids"][0]["quantity"] == 0.3
    position = await http.get(
        "/market/positions/exact",
        params={"min_sequence": f"{await shard_of(http, name)}:{sold['sequence']}"},
    )
    assert '"net_quantity":0.3,' in position.text
    assert '"total_cost":21045.15,' in position.text
    assert '"avg_price":70150.5' in position.text


async def test_twenty_posts_of_one_key_through_all_gateways_have_one_effect(
    http: httpx.AsyncClient, other: httpx.AsyncClient, exchange: Exchange
) -> None:
    name = await new_instrument(http)
    body = order(name, "buy", 5, 1, client_id="once", idempotency_key="same")

    responses = await asyncio.gather(
        *(client.post("/orders", json=body) for client in (http, other) * 10)
    )

    assert {r.status_code for r in responses} == {201}
    assert len({r.json()["order"]["order_id"] for r in responses}) == 1
    replayed = Counter(r.headers.get("Idempotent-Replayed") for r in responses)
    assert replayed == {None: 1, "true": 19}
    assert await accepted_orders(exchange, name) == 1


async def accepted_orders(exchange: Exchange, instrument: str) -> int:
    connection = await asyncpg.connect(exchange.settings.database_url)
    try:
        return int(await connection.fetchval(COUNT_ACCEPTED, instrument))
    finally:
        await connection.close()


async def test_one_key_counts_on_every_shard(
    http: httpx.AsyncClient, other: httpx.AsyncClient, exchange: Exchange
) -> None:
    shards = exchange.settings.shards
    first = await new_instrument(http, shard=0)
    second = await new_instrument(http, shard=shards - 1)
    key = {"client_id": f"keys-{first}", "idempotency_key": "same"}
    await http.post("/orders", json=order(first, "buy", 5, 1, **key))

    response = await other.post("/orders", json=order(second, "buy", 5, 1, **key))

    assert response.status_code == 409
    assert response.json()["code"] == "idempotency.conflict"


async def test_a_client_chosen_order_id_is_taken_on_every_shard_for_ever(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    shards = exchange.settings.shards
    first = await new_instrument(http, shard=0)
    second = await new_instrument(http, shard=shards - 1)
    chosen = f"mine-{first}"
    await http.post("/orders", json=order(first, "buy", 5, 1, order_id=chosen))
    await http.post(f"/orders/{chosen}/cancel")

    response = await http.post("/orders", json=order(second, "buy", 5, 1, order_id=chosen))

    assert response.status_code == 409
    assert (await http.get(f"/orders/{chosen}")).json()["order"]["instrument"] == first


async def test_an_order_can_be_followed_from_202_to_its_outcome(http: httpx.AsyncClient) -> None:
    name = await new_instrument(http)

    accepted = await http.post(
        "/orders", json=order(name, "buy", 5, 1), headers={"Prefer": "respond-async"}
    )

    assert accepted.status_code == 202
    assert accepted.json()["status"] == "pending"
    async with asyncio.timeout(CLIENT_TIMEOUT_S):
        while True:
            asked = await http.get(accepted.headers["Location"])
            assert asked.status_code == 200
            if asked.json()["status"] != "pending":
                break
    assert asked.json()["order"]["order_id"] == accepted.json()["order_id"]


async def test_a_read_sees_what_it_asks_to_see(
    http: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    name = await new_instrument(http)
    for price in range(1, 6):
        placed = (await http.post("/orders", json=order(name, "buy", price, 1))).json()
        seen = {"instrument": name, "min_sequence": placed["sequence"]}

        book = (await other.get("/market/orderbook", params=seen)).json()

        assert [level["price"] for level in book["bids"]] == list(range(price, 0, -1))


async def test_a_read_of_the_future_is_refused(exchange: Exchange) -> None:
    async with httpx.AsyncClient(base_url=exchange.urls[-1]) as http:  # it comes once
        response = await http.get("/market/orderbook", params={"min_sequence": 10**12})

    assert response.status_code == 503
    assert response.json()["code"] == "read.stale"
    assert int(response.headers["Retry-After"]) > 0


async def test_an_order_has_a_history_and_a_list(http: httpx.AsyncClient) -> None:
    name = await new_instrument(http)
    client = {"client_id": f"lists-{name}"}
    made = [
        (await http.post("/orders", json=order(name, "buy", price, 1, **client))).json()["order"]
        for price in (1, 2, 3)
    ]
    cancelled = await http.post(f"/orders/{made[0]['order_id']}/cancel")
    seen = {"min_sequence": f"{await shard_of(http, name)}:{cancelled.json()['sequence']}"}

    history = await http.get(f"/orders/{made[0]['order_id']}/events", params=seen)
    listed = await http.get("/orders", params={**client, **seen, "limit": 2})
    rest = await http.get("/orders", params={**client, "cursor": listed.json()["next_cursor"]})
    still_open = await http.get("/orders", params={**client, "status": "open"})

    kinds = [event["type"] for event in history.json()["events"]]
    assert kinds == ["OrderAccepted", "OrderRested", "OrderCancelled"]
    ids = [o["order_id"] for o in listed.json()["orders"] + rest.json()["orders"]]
    assert ids == [o["order_id"] for o in reversed(made)]
    assert [o["price"] for o in still_open.json()["orders"]] == [3, 2]


async def test_a_second_cancel_is_a_conflict_and_an_unknown_order_is_not_found(
    http: httpx.AsyncClient,
) -> None:
    name = await new_instrument(http)
    placed = (await http.post("/orders", json=order(name, "buy", 5, 1))).json()
    path = f"/orders/{placed['order']['order_id']}/cancel"

    statuses = [(await http.post(p)).status_code for p in (path, path, "/orders/nobody/cancel")]

    assert statuses == [200, 409, 404]


async def test_instruments_have_scales_of_their_own(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/instruments")).json()["instruments"]

    by_name = {instrument["instrument"]: instrument for instrument in listed}
    assert Decimal(str(by_name["ETH-EUR"]["tick_size"])) == Decimal("0.05")
    off_tick = await http.post("/orders", json=order("ETH-EUR", "buy", 10.01, 1))
    off_lot = await http.post("/orders", json=order("ETH-EUR", "buy", 10.05, 0.005))
    assert off_tick.json()["code"] == "order.off_tick"
    assert off_lot.json()["code"] == "order.off_lot"


async def test_one_key_for_an_instrument_is_its_name(http: httpx.AsyncClient) -> None:
    name = await new_instrument(http)
    same = {
        "instrument": name,
        "base": "T",
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": 0.00000001,
    }

    again = await http.post("/instruments", json=same)
    other = await http.post("/instruments", json={**same, "price_scale": 3})

    assert again.status_code == 200
    assert (other.status_code, other.json()["code"]) == (409, "instrument.exists")


async def shard_of(http: httpx.AsyncClient, instrument: str) -> int:
    listed = (await http.get("/instruments")).json()["instruments"]
    return next(int(i["shard"]) for i in listed if i["instrument"] == instrument)
