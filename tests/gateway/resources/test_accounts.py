"""Accounts over HTTP: created once, suspended and resumed on every shard."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from exchange.domain.values import Shard
from projections.projector.projector import run_projector
from projections.projector.snapshotter import SnapshotPace
from tests.conftest import new_topic
from tests.gateway.conftest import Place, Venue, gateway_at, matching, order, register, running
from tests.gateway.orders.test_placing import follow

pytestmark = pytest.mark.anyio

SHARDS = 2


async def test_an_account_is_created_once_and_listed(http: httpx.AsyncClient) -> None:
    first = await http.post("/accounts", json={"client_id": "acme-1"})
    second = await http.post("/accounts", json={"client_id": "acme-1"})
    listed = await http.get("/accounts", params={"client_id": "acme-1"})
    told = await http.get(f"/commands/{first.json()['command_id']}")

    assert (first.status_code, second.status_code) == (201, 200), first.text
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    (account,) = listed.json()["accounts"]
    created = {"client_id": "acme-1", "created_at": first.json()["created_at"]}
    assert account == {**created, "suspended": []}
    assert told.json() == {**first.json(), "status": "accepted"}


async def test_accounts_are_listed_page_by_page(http: httpx.AsyncClient) -> None:
    for name in ("page-a", "page-b", "page-c"):
        assert (await http.post("/accounts", json={"client_id": name})).status_code == 201

    whole = (await http.get("/accounts", params={"limit": 1_000})).json()
    names: list[str] = []
    parameters: dict[str, str] = {"limit": "1"}
    while True:
        page = (await http.get("/accounts", params=parameters)).json()
        names += [account["client_id"] for account in page["accounts"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]

    assert names == [account["client_id"] for account in whole["accounts"]]
    assert {"page-a", "page-b", "page-c"} <= set(names)
    assert (await http.get("/accounts", params={"client_id": "nobody"})).json()["accounts"] == []


async def test_a_suspended_client_places_nothing_and_cancels_what_it_has(
    http: httpx.AsyncClient, place: Place
) -> None:
    resting = (await place(client_id="sue", price=1)).json()["order"]

    suspended = await http.post("/accounts/sue/suspend")
    refused = await place(client_id="sue")
    cancelled = await http.post(f"/orders/{resting['order_id']}/cancel", json={"client_id": "sue"})
    listed = (await http.get("/accounts", params={"client_id": "sue"})).json()["accounts"]
    again = await http.post("/accounts/sue/suspend")
    resumed = await http.post("/accounts/sue/resume")
    placed = await place(client_id="sue")
    told = await http.get(f"/commands/{suspended.json()['shards'][0]['command_id']}")

    assert suspended.status_code == 200, suspended.text
    assert suspended.json()["pending"] == []
    assert [one["suspended"] for one in suspended.json()["shards"]] == [True]
    assert (refused.status_code, refused.json()["code"]) == (403, "client.suspended")
    assert refused.json()["reason"] == "client_suspended"
    assert cancelled.status_code == 200, cancelled.text
    assert [(one["created_at"], len(one["suspended"])) for one in listed] == [(None, 1)]
    assert (again.status_code, again.json()["suspended"]) == (200, True)
    assert (resumed.status_code, resumed.json()["suspended"]) == (200, False)
    assert placed.status_code == 201, placed.text
    assert told.json() == {**suspended.json()["shards"][0], "status": "accepted"}


async def test_a_retry_of_a_suspension_does_not_undo_what_came_after_it(
    http: httpx.AsyncClient, place: Place
) -> None:
    key = {"Idempotency-Key": "s-1"}
    first = await http.post("/accounts/ray/suspend", headers=key)
    await http.post("/accounts/ray/resume")

    retried = await http.post("/accounts/ray/suspend", headers=key)

    assert retried.json() == first.json()
    assert (await place(client_id="ray")).status_code == 201


@pytest.fixture
async def two_shards(idle_venue: Venue) -> AsyncIterator[Venue]:
    """A venue of two shards, of which the matchers are the test's."""
    venue = replace(idle_venue, topic=new_topic(idle_venue.services, SHARDS))
    pace = SnapshotPace(events=1_000_000, seconds=3_600)
    async with running(run_projector(venue.engine, venue.redis, pace_ms=5, snapshots=pace)):
        yield venue


async def test_a_shard_without_a_matcher_is_pending_and_suspends_when_one_comes(
    two_shards: Venue,
) -> None:
    venue = two_shards
    async with gateway_at(venue, shards=SHARDS, order_wait_ms=3_000) as http, matching(venue):
        async with matching(venue, Shard(1)):
            registered = await register(http, "TWO-USD", shard=1)
            assert registered.status_code == 201, registered.text
        first = await http.post("/accounts/sue/suspend")
        async with asyncio.timeout(60):
            while first.json()["pending"] != [1]:  # on a busy machine shard 0 may take longer
                first = await http.post("/accounts/sue/suspend")
        body = order("TWO-USD", client_id="sue")
        sent = await http.post("/orders", json=body, headers={"Prefer": "respond-async"})
        async with matching(venue, Shard(1)):
            outcome = await follow(http, sent.headers["location"])
            second = await http.post("/accounts/sue/suspend")
            async with asyncio.timeout(30):
                while sum(len(one["suspended"]) for one in await listed(http, "sue")) < SHARDS:
                    await asyncio.sleep(0.05)

    assert (first.status_code, first.json()["pending"]) == (202, [1]), first.text
    assert outcome["problem"]["code"] == "client.suspended", outcome
    assert (second.status_code, second.json()["pending"]) == (200, [])
    assert [one["shard"] for one in second.json()["shards"]] == [0, 1]


async def listed(http: httpx.AsyncClient, client_id: str) -> list[dict[str, list[object]]]:
    answer = await http.get("/accounts", params={"client_id": client_id})
    accounts: list[dict[str, list[object]]] = answer.json()["accounts"]
    return accounts


@pytest.mark.parametrize("body", [{}, {"client_id": ""}, {"client_id": "a/b"}, {"client_id": 7}])
async def test_what_is_no_client_gets_no_account(
    body: dict[str, object], http: httpx.AsyncClient
) -> None:
    answer = await http.post("/accounts", json=body)

    assert (answer.status_code, answer.json()["field"]) == (422, "client_id"), answer.text
