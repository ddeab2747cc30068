"""Cancelling all orders of a client: on every shard, in parts, and once for each key."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from exchange.domain import engine
from exchange.domain.values import Shard
from exchange.gateway.orders import cancelling
from exchange.gateway.parts.limits import Limit, Limits
from tests.conftest import Services, new_topic
from tests.gateway.conftest import (
    PATIENCE_S,
    Venue,
    gateway_at,
    matching,
    order,
    register,
)
from tests.gateway.stream.test_stream import connected

pytestmark = pytest.mark.anyio

CLIENT = "anna"
SHORT_MS = 300
LONG_MS = 3_000  # what a shard that is well needs at most on a busy machine
LATER = {"Prefer": "respond-async"}


async def taken(http: httpx.AsyncClient, path: str, body: Any, **how: Any) -> httpx.Response:
    """Post until something is sent: a gateway asks once a second what the matcher reads."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await http.post(path, json=body, **how)
            if response.json().get("code") not in ("matcher.older", "gateway.busy"):
                return response
            await asyncio.sleep(0.05)


async def asked(http: httpx.AsyncClient, body: dict[str, Any], **how: Any) -> httpx.Response:
    return await taken(http, "/orders/cancel-all", body, **how)


async def cancel_all(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """Cancel, and ask again with the same key until nothing remains."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await asked(http, {"client_id": CLIENT, **body})
            answer: dict[str, Any] = response.json()
            if response.status_code == 200:
                assert answer["pending"] == []
                return answer
            assert response.status_code == 202, response.text
            body["idempotency_key"] = answer["idempotency_key"]


async def rest(http: httpx.AsyncClient, instrument: str, *names: str, **changes: Any) -> None:
    for name in names:
        body = order(instrument, client_id=CLIENT, order_id=f"{instrument}-{name}", **changes)
        response = await taken(http, "/orders", body)
        assert response.status_code == 201, response.text


async def resting(venue: Venue) -> list[str]:
    """Return the orders on the books by the log alone, oldest first."""
    async with venue.engine.connect() as connection:
        rows = await connection.execute(
            text(
                "select data->>'order_id' from events where type = 'OrderRested'"
                " and data->>'order_id' not in (select data->>'order_id' from events"
                " where type = 'OrderCancelled') order by shard, position"
            )
        )
        return [name for (name,) in rows]


async def until_gone(venue: Venue) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await resting(venue):
            await asyncio.sleep(0.02)


@pytest.fixture
async def traded(idle_venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway of a venue with two instruments, on which CLIENT has two orders each."""
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        for name in ("A-USD", "B-USD"):
            await register(http, name)
            await rest(http, name, "buy")
            await rest(http, name, "sell", side="sell", price=20)
        yield http


@pytest.fixture
async def deserted(idle_venue: Venue) -> Venue:
    """A venue where CLIENT has three orders, and with nobody who decides any more."""
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "A-USD")
        await rest(http, "A-USD", "1", "2", "3")
    return idle_venue


@pytest.fixture
async def two_shards(
    idle_venue: Venue, services: Services
) -> AsyncIterator[tuple[Venue, httpx.AsyncClient]]:
    """A venue of two shards, each with an instrument and an order of CLIENT."""
    venue = replace(idle_venue, topic=new_topic(services, 2))
    async with matching(venue):
        async with matching(venue, Shard(1)), gateway_at(venue, shards=2) as http:
            for shard, name in enumerate(("A-USD", "B-USD")):
                assert (await register(http, name, shard=shard)).status_code == 201
                await rest(http, name, "1")
        async with gateway_at(venue, shards=2, order_wait_ms=LONG_MS) as http:
            yield venue, http


async def test_all_orders_of_a_client_are_cancelled_and_nobody_elses(
    traded: httpx.AsyncClient, idle_venue: Venue
) -> None:
    other = order("A-USD", client_id="ben", order_id="ben-1")
    await traded.post("/orders", json=other)

    answer = await cancel_all(traded)
    again = await cancel_all(traded)

    (shard,) = answer["shards"]
    assert (answer["client_id"], answer["instrument"], answer["side"]) == (CLIENT, None, None)
    assert (answer["cancelled_orders"], shard["cancelled_orders"]) == (4, 4)
    assert (shard["shard"], shard["remaining_orders"]) == (0, 0)
    assert again["cancelled_orders"] == 0
    assert again["shards"][0]["sequence"] == shard["sequence"] + 1
    assert await resting(idle_venue) == ["ben-1"]


@pytest.mark.parametrize(
    ("narrowed", "left"),
    [
        ({"instrument": "A-USD"}, ["B-USD-buy", "B-USD-sell"]),
        ({"side": "sell"}, ["A-USD-buy", "B-USD-buy"]),
        ({"instrument": "B-USD", "side": "buy"}, ["A-USD-buy", "A-USD-sell", "B-USD-sell"]),
    ],
    ids=str,
)
async def test_a_cancel_of_all_may_be_of_an_instrument_and_of_a_side(
    traded: httpx.AsyncClient, idle_venue: Venue, narrowed: dict[str, str], left: list[str]
) -> None:
    answer = await cancel_all(traded, **narrowed)

    assert {name: answer[name] for name in narrowed} == narrowed
    assert answer["cancelled_orders"] == 4 - len(left)
    assert await resting(idle_venue) == left


async def test_parts_follow_until_no_order_remains(
    traded: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", 1)

    answer = await cancel_all(traded, idempotency_key="parts")
    told = await traded.get(f"/commands/{answer['shards'][0]['command_id']}")

    assert answer["cancelled_orders"] == 4
    last = told.json()
    assert (last["status"], last["cancelled_orders"], last["remaining_orders"]) == (
        "accepted",
        1,
        0,
    )
    assert last["sequence"] == answer["shards"][0]["sequence"]


async def test_the_same_key_gives_the_same_answer_and_leaves_later_orders(
    traded: httpx.AsyncClient, idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", 3)
    body = {"client_id": CLIENT, "side": "buy", "idempotency_key": "k"}
    first = await asked(traded, body)
    await rest(traded, "A-USD", "later")

    header = {"Idempotency-Key": "k"}
    bare = {"client_id": CLIENT, "side": "buy"}
    again = await asked(traded, bare, headers=header)
    other = await asked(traded, {**body, "side": "sell"})

    assert (again.status_code, again.json()) == (200, first.json())
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in (first, again)]
    assert replayed == [None, "true"]
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")
    assert await resting(idle_venue) == ["A-USD-sell", "B-USD-sell", "A-USD-later"]


async def test_orders_that_came_after_the_first_part_stay(
    deserted: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that goes on placing orders would never be done."""
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", 2)
    async with gateway_at(deserted) as http:
        waiting = asyncio.create_task(cancel_all(http))
        await asyncio.sleep(0.3)
        late = order("A-USD", client_id=CLIENT, order_id="late")
        placing = asyncio.create_task(http.post("/orders", json=late))
        await asyncio.sleep(0.3)
        async with matching(deserted):
            answer = await waiting
            await placing

    assert answer["cancelled_orders"] == 3
    assert await resting(deserted) == ["late"]


async def test_done_is_not_said_before_it_is_and_the_gateway_goes_on(
    deserted: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", 1)
    async with gateway_at(deserted, order_wait_ms=SHORT_MS) as http:
        pending = await asked(http, {"client_id": CLIENT})
        told = pending.json()
        async with matching(deserted):
            await until_gone(deserted)
            answer = await cancel_all(http, idempotency_key=told["idempotency_key"])

    assert pending.status_code == 202
    assert (told["cancelled_orders"], told["shards"], told["pending"]) == (0, [], [0])
    assert answer["cancelled_orders"] == 3


async def test_another_gateway_goes_on_where_one_ended(
    deserted: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", 1)
    monkeypatch.setattr(cancelling, "GO_ON_S", 0.0)
    body = {"client_id": CLIENT, "idempotency_key": "k"}
    async with gateway_at(deserted, order_wait_ms=SHORT_MS) as http:
        told = await asked(http, body)
        async with matching(deserted):
            async with asyncio.timeout(PATIENCE_S):
                while len(await resting(deserted)) == 3:
                    await asyncio.sleep(0.02)
    async with matching(deserted), gateway_at(deserted) as http:
        answer = await cancel_all(http, idempotency_key="k")

    assert (told.status_code, told.json()["pending"]) == (202, [0])
    assert answer["cancelled_orders"] == 3
    assert await resting(deserted) == []


async def test_who_does_not_wait_is_told_its_key(traded: httpx.AsyncClient) -> None:
    later = await asked(traded, {"client_id": CLIENT}, headers=LATER)
    answer = await cancel_all(traded, idempotency_key=later.json()["idempotency_key"])

    assert (later.status_code, later.headers["Preference-Applied"]) == (202, "respond-async")
    assert (later.json()["pending"], answer["cancelled_orders"]) == ([0], 4)


async def test_each_shard_names_its_sequence_and_one_that_is_away_is_pending(
    two_shards: tuple[Venue, httpx.AsyncClient],
) -> None:
    venue, http = two_shards
    body = {"client_id": CLIENT, "idempotency_key": "k"}

    part = await asked(http, body)
    async with matching(venue, Shard(1)):
        await until_gone(venue)
        whole = await cancel_all(http, idempotency_key="k")

    assert (part.status_code, part.json()["pending"]) == (202, [1])
    assert [shard["shard"] for shard in part.json()["shards"]] == [0]
    assert [shard["shard"] for shard in whole["shards"]] == [0, 1]
    assert [shard["sequence"] for shard in whole["shards"]] == [5, 5]
    assert part.json()["shards"][0] == whole["shards"][0]


async def test_a_key_of_another_shard_is_known_too(
    two_shards: tuple[Venue, httpx.AsyncClient],
) -> None:
    venue, http = two_shards
    body = {"client_id": CLIENT, "idempotency_key": "k"}
    await cancel_all(http, idempotency_key="k", instrument="A-USD")

    other = await asked(http, {**body, "instrument": "B-USD"})

    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")
    assert await resting(venue) == ["B-USD-1"]


async def test_the_stream_cancels_all_behind_the_orders_before(traded: httpx.AsyncClient) -> None:
    await cancel_all(traded, client_id="nobody")  # the matcher reads such commands
    async with connected(traded) as client:
        placed = order("A-USD", client_id=CLIENT, order_id="streamed")
        await client.send(**{**placed, "type": "limit"})
        await client.send(type="cancel_all", client_id=CLIENT, idempotency_key="k", id="all")
        answers = [await client.next() for _ in range(2)]
        refused = await client.ask(type="cancel_all", instrument="A-USD")

    told = next(answer for answer in answers if answer["type"] == "all_cancelled")
    assert (told["id"], told["idempotency_key"], told["replayed"]) == ("all", "k", False)
    refused_orders = sum(answer["type"] == "error" for answer in answers)  # on a busy machine
    assert (told["cancelled_orders"], told["pending"]) == (5 - refused_orders, [])
    assert (refused["code"], refused["field"]) == ("request.invalid", "client_id")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "request.invalid"),
        ({"client_id": CLIENT, "side": "both"}, 422, "request.invalid"),
        ({"client_id": CLIENT, "instrument": "NO-SUCH"}, 404, "instrument.not_found"),
        ({"client_id": CLIENT, "order_id": "x"}, 422, "request.invalid"),
    ],
    ids=str,
)
async def test_what_cannot_be_cancelled_is_refused(
    http: httpx.AsyncClient, body: dict[str, str], status: int, code: str
) -> None:
    response = await asked(http, body)

    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_it_costs_a_cancel_and_its_known_key_a_retry(idle_venue: Venue) -> None:
    limits = Limits(cancels=Limit(1, 1), retries=Limit(100, 100))
    body = {"client_id": CLIENT, "idempotency_key": "k"}
    async with matching(idle_venue), gateway_at(idle_venue, limits=limits) as http:
        await register(http, "A-USD")
        first = await asked(http, body)
        fresh = [http.post("/orders/cancel-all", json={"client_id": CLIENT}) for _ in range(5)]
        known = [http.post("/orders/cancel-all", json=body) for _ in range(5)]
        answers = await asyncio.gather(*fresh, *known)

    refused = [answer.json()["outcome"] for answer in answers[:5] if answer.status_code == 429]
    assert refused
    assert set(refused) == {"none"}
    assert [answer.json() for answer in answers[5:]] == [first.json()] * 5


async def test_an_older_matcher_is_sent_nothing(deserted: Venue) -> None:
    async with deserted.engine.begin() as connection:
        await connection.execute(text("update head set reads = 2, reads_epoch = epoch"))
    async with gateway_at(deserted) as http:
        response = await http.post("/orders/cancel-all", json={"client_id": CLIENT})

    assert (response.status_code, response.json()["code"]) == (503, "matcher.older")
    assert response.json()["outcome"] == "none"
