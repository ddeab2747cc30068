"""Many orders in one request: each entry gets what it would have got alone."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from exchange.gateway.http.declaration import BODY_BYTES_MAX
from exchange.gateway.orders.batches import BATCH_BYTES_MAX, ENTRIES_MAX
from exchange.gateway.parts import submission
from exchange.gateway.parts.limits import Limit, Limits
from exchange.gateway.server import edge
from exchange.transport.commands import CommandProducer, NotProduced
from tests.gateway.conftest import PATIENCE_S, Venue, gateway_at, matching, order, register

pytestmark = pytest.mark.anyio

CLIENT = "of-batches"


def placing(instrument: str, **changes: Any) -> dict[str, Any]:
    return {"action": "place", **order(instrument, client_id=CLIENT, **changes)}


def cancelling(order_id: str, **changes: Any) -> dict[str, Any]:
    return {"action": "cancel", "order_id": order_id, "client_id": CLIENT, **changes}


async def entered(http: httpx.AsyncClient, *entries: dict[str, Any]) -> dict[str, Any]:
    response = await http.post("/orders/batch", json={"entries": entries})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert len(answer["entries"]) == len(entries)
    return answer


def statuses(answer: dict[str, Any]) -> list[int]:
    return [entry["status"] for entry in answer["entries"]]


def codes(answer: dict[str, Any]) -> list[str | None]:
    return [entry["body"].get("code") for entry in answer["entries"]]


async def test_each_entry_has_the_status_and_body_that_it_would_have_had_alone(
    http: httpx.AsyncClient, instrument: str
) -> None:
    mine = f"mine-{instrument}"
    alone = [
        await http.post("/orders", json=order(instrument, client_id=CLIENT, order_id=f"{mine}-a")),
        await http.post("/orders", json=order(instrument, client_id=CLIENT, price=10.005)),
        await http.post("/orders", json=order("NO-SUCH", client_id=CLIENT)),
        await http.post("/orders/nobody/cancel", json={"client_id": CLIENT}),
        await http.post("/orders", json={**order(instrument), "quantity": "many"}),
    ]
    answer = await entered(
        http,
        placing(instrument, order_id=f"{mine}-b"),
        placing(instrument, price=10.005),
        placing("NO-SUCH"),
        cancelling("nobody"),
        {**placing(instrument), "quantity": "many"},
        {"action": "dance"},
        {"order_id": "x"},
    )

    assert statuses(answer)[:5] == [response.status_code for response in alone]
    assert codes(answer)[1:5] == [response.json()["code"] for response in alone[1:]]
    assert codes(answer)[5:] == ["request.invalid"] * 2
    placed, told = alone[0].json(), answer["entries"][0]["body"]
    assert told.keys() == placed.keys() - {"orderbook"}
    assert told["order"].keys() == placed["order"].keys()
    assert told["order"]["status"] == "open"
    assert answer["books"].keys() == {instrument}
    assert answer["books"][instrument]["bids"][0]["quantity"] == 2 * placed["order"]["quantity"]


async def test_entries_of_a_shard_are_decided_in_their_order(
    http: httpx.AsyncClient, instrument: str
) -> None:
    first, second = f"first-{instrument}", f"second-{instrument}"
    answer = await entered(
        http,
        placing(instrument, order_id=first, price=10, quantity=1),
        placing(instrument, order_id=second, side="sell", price=10, quantity=2),
        cancelling(second),
        cancelling(first),
        placing(instrument, order_id=first, price=9),
    )

    assert statuses(answer) == [201, 201, 200, 409, 409]
    assert codes(answer)[3:] == ["order.not_open", "order.id_taken"]
    bodies = [entry["body"] for entry in answer["entries"]]
    assert [trade["sell_order_id"] for trade in bodies[1]["trades"]] == [second]
    assert bodies[2]["order"]["status"] == "cancelled"
    assert bodies[2]["order"]["filled_quantity"] == 1
    assert answer["books"][instrument] == {"bids": [], "asks": []}


async def test_a_batch_that_is_sent_again_is_answered_as_before(
    http: httpx.AsyncClient, instrument: str
) -> None:
    entries = [
        placing(instrument, idempotency_key=f"{instrument}-{number}", price=number)
        for number in (5, 6, 7)
    ]
    twice = await entered(http, *entries, {**entries[0], "price": 8}, entries[1])
    again = await entered(http, *entries)

    assert statuses(twice) == [201, 201, 201, 409, 201]
    assert codes(twice)[3] == "idempotency.conflict"
    assert [entry.get("replayed") for entry in twice["entries"]] == [None] * 4 + [True]
    assert all(entry["replayed"] for entry in again["entries"])
    for before, after in zip(twice["entries"], again["entries"], strict=False):
        assert after["body"] == before["body"]
    listed = (
        await http.get("/orders", params={"client_id": CLIENT, "instrument": instrument})
    ).json()
    assert listed["count"] == len(entries)


async def test_who_does_not_wait_is_told_where_to_ask(
    http: httpx.AsyncClient, instrument: str
) -> None:
    response = await http.post(
        "/orders/batch",
        json={"entries": [placing(instrument), placing(instrument)]},
        headers={"Prefer": "respond-async"},
    )

    for entry in response.json()["entries"]:
        assert entry["status"] == 202
        outcome = (await http.get(entry["location"])).json()
        assert outcome["command_id"] == entry["body"]["command_id"]
    assert response.json()["books"] == {}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"entries": []}, {}, 422),
        ({"entries": [{}] * (ENTRIES_MAX + 1)}, {}, 422),
        ({"entries": {}}, {}, 422),
        ([], {}, 422),
        ({"entries": [{}], "atomic": True}, {}, 422),
        ({"entries": [{}]}, {"Idempotency-Key": "one"}, 422),
        ({"entries": ["x" * BATCH_BYTES_MAX]}, {}, 413),
    ],
)
async def test_a_batch_that_is_none_is_refused_whole(
    http: httpx.AsyncClient, body: Any, headers: dict[str, str], status: int
) -> None:
    response = await http.post("/orders/batch", json=body, headers=headers)

    assert response.status_code == status, response.text


async def test_the_same_name_twice_in_an_entry_is_refused_whole(http: httpx.AsyncClient) -> None:
    text = b'{"entries": [{"action": "cancel", "order_id": "a", "order_id": "b"}]}'
    response = await http.post(
        "/orders/batch", content=text, headers={"Content-Type": "application/json"}
    )

    assert (response.status_code, response.json()["code"]) == (400, "request.malformed")


async def test_a_batch_may_be_larger_than_any_other_body(
    http: httpx.AsyncClient, instrument: str
) -> None:
    entries = [placing(instrument, price=1 + number) for number in range(ENTRIES_MAX)]
    assert len(json.dumps(entries)) > 3 * BODY_BYTES_MAX
    answer = await entered(http, *entries)

    assert set(statuses(answer)) == {201}
    sequences = [entry["body"]["sequence"] for entry in answer["entries"]]
    assert sequences == sorted(sequences)
    assert answer["books"][instrument]["bids"][0]["price"] == ENTRIES_MAX


async def test_large_bodies_are_read_a_few_at_a_time(
    http: httpx.AsyncClient, instrument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "LARGE_AT_ONCE", 0)
    response = await http.post("/orders/batch", json={"entries": [placing(instrument)]})
    alone = await http.post("/orders", json=order(instrument))

    assert (response.status_code, response.json()["code"]) == (503, "gateway.busy")
    assert response.json()["outcome"] == "none"
    assert alone.status_code == 201


async def test_what_finds_no_budget_is_refused_alone(venue: Venue) -> None:
    limits = Limits(orders=Limit(1, 3), cancels=Limit(1, 10))
    async with gateway_at(venue, limits=limits) as http:
        await register(http, "BUDGET-USD")
        mine = {"client_id": "of-budget"}
        keyed = {**placing("BUDGET-USD", idempotency_key="first"), **mine}
        await http.post("/orders", json={k: v for k, v in keyed.items() if k != "action"})
        more = [{**placing("BUDGET-USD"), **mine} for _ in range(4)]
        answer = await entered(http, *more, keyed, {**cancelling("nobody"), **mine})

    assert statuses(answer).count(201) == 3  # two had budget, and one was sent before
    assert statuses(answer)[4:] == [201, 404]
    assert answer["entries"][4]["replayed"] is True
    refused = [entry["body"] for entry in answer["entries"] if entry["status"] == 429]
    assert {body["code"] for body in refused} == {"rate.limited"}
    assert all(body["retry_after"] >= 1 and body["outcome"] == "none" for body in refused)


async def test_there_are_places_for_all_entries_or_for_none(
    venue: Venue, instrument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "WAITERS_MAX", 3)
    entries = [placing(instrument) for _ in range(4)]
    async with gateway_at(venue) as http:
        refused = await http.post("/orders/batch", json={"entries": entries})
        taken = await entered(http, *entries[:3])
        again = await entered(http, *entries[:3])

    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (503, "gateway.busy")
    assert problem["outcome"] == "none"
    assert set(statuses(taken) + statuses(again)) == {201}


class Reluctant(CommandProducer):
    """Takes a few commands, then one no more, then all."""

    def __init__(self, venue: Venue, takes: int) -> None:
        super().__init__(
            venue.services.kafka_bootstrap_servers, venue.topic, loop=asyncio.get_running_loop()
        )
        self.takes = takes
        self.asked = 0

    def produce(self, shard: int, **command: Any) -> None:
        self.asked += 1
        if self.asked == self.takes + 1:
            raise NotProduced("the queue is full")
        super().produce(shard, **command)


async def test_after_the_first_that_kafka_does_not_take_none_of_its_shard_is_sent(
    venue: Venue, instrument: str
) -> None:
    producer = Reluctant(venue, takes=2)
    mine = f"late-{instrument}"
    async with gateway_at(venue, producer) as http:
        answer = await entered(
            http,
            placing(instrument),
            placing(instrument),
            placing(instrument, order_id=mine),
            cancelling(mine),
            placing(instrument),
        )
        found = await http.get(f"/orders/{mine}")

    assert statuses(answer) == [201, 201, 503, 503, 503]
    assert [entry["body"]["outcome"] for entry in answer["entries"][2:]] == ["none"] * 3
    assert producer.asked == 3
    assert found.status_code == 404


async def test_a_client_that_leaves_half_way_leaves_no_waiter_behind(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "LEFT-USD")
    monkeypatch.setattr(submission, "WAITERS_MAX", 2)
    batch = {"entries": [placing("LEFT-USD")] * 2}
    async with gateway_at(idle_venue, order_wait_ms=500) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/orders/batch", json=batch, timeout=0.1)
        busy = await http.post("/orders/batch", json=batch)
        async with asyncio.timeout(PATIENCE_S):
            while (later := await http.post("/orders/batch", json=batch)).status_code == 503:
                await asyncio.sleep(0.05)

    assert busy.status_code == 503
    assert [entry["status"] for entry in later.json()["entries"]] == [202, 202]
