"""A client learns of an idempotency conflict even if it asks for the outcome later.

The request was answered 202 before the conflict was known, so its ``Location`` carries a hash of
the request. The closing of a settlement cycle has none: its number is its key and its whole
content.
"""

from typing import Any

import httpx
import pytest
from sqlalchemy import text

from exchange.log.identity import command_claim, keyed_command_id
from tests.gateway.conftest import Place, Venue, gateway_at, matching, order, register
from tests.gateway.orders.test_placing import follow
from tests.gateway.stream.test_stream import connected

pytestmark = pytest.mark.anyio

LATER = {"Prefer": "respond-async"}
OTHER_BODY = "0" * 32


async def outcome_of(http: httpx.AsyncClient, response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    return await follow(http, response.headers["Location"])


async def test_an_order_that_was_not_waited_for_learns_that_its_key_was_used_for_another(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    keyed = {"idempotency_key": "k", "client_id": f"later-{instrument}"}
    first = await place(**keyed, quantity=5)

    other = await outcome_of(http, await place(**keyed, quantity=700, headers=LATER))
    same = await outcome_of(http, await place(**keyed, quantity="5.0", headers=LATER))
    at_once = await place(**keyed, quantity=700)

    assert other["status"] == "refused"
    assert other["problem"] == at_once.json()
    assert other["problem"]["code"] == "idempotency.conflict"
    assert (same["status"], same["order"]) == ("accepted", first.json()["order"])


async def test_so_does_a_cancel(http: httpx.AsyncClient, instrument: str, place: Place) -> None:
    keyed = {"idempotency_key": "k", "client_id": f"later-{instrument}"}
    await place(order_id=f"a-{instrument}", client_id=keyed["client_id"])
    await place(order_id=f"b-{instrument}", client_id=keyed["client_id"])
    assert (await http.post(f"/orders/a-{instrument}/cancel", json=keyed)).status_code == 200

    other = await http.post(f"/orders/b-{instrument}/cancel", json=keyed, headers=LATER)
    same = await http.post(f"/orders/a-{instrument}/cancel", json=keyed, headers=LATER)

    assert (await outcome_of(http, other))["problem"]["code"] == "idempotency.conflict"
    assert (await outcome_of(http, same))["order"]["order_id"] == f"a-{instrument}"
    assert (await http.get(f"/orders/b-{instrument}")).json()["order"]["status"] == "open"


async def test_and_the_registration_of_an_instrument(
    http: httpx.AsyncClient, instrument: str
) -> None:
    definition = {
        "instrument": instrument,
        "base": instrument.partition("-")[0],
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": "0.00000001",
    }
    other = {**definition, "tick_size": 0.5}

    refused = await http.post("/instruments", json=other, headers=LATER)
    same = await http.post("/instruments", json=definition, headers=LATER)

    at_once = (await http.post("/instruments", json=other)).json()
    assert (await outcome_of(http, refused))["problem"] == at_once
    assert at_once["code"] == "instrument.exists"
    assert (await outcome_of(http, same))["instrument"]["instrument"] == instrument


async def test_who_waited_in_vain_on_the_stream_learns_it_where_it_is_told_to_ask(
    idle_venue: Venue,
) -> None:
    keyed = {"idempotency_key": "k", "client_id": "alice"}
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
        await http.post("/orders", json=order("BTC-USD", **keyed))
    message = {**order("BTC-USD", **keyed), "type": "order", "order_type": "limit"}
    async with gateway_at(idle_venue, order_wait_ms=100) as http, connected(http) as client:
        other = await client.ask(**message | {"quantity": 2})
        same = await client.ask(**message)
        unkeyed = await client.ask(**message | {"idempotency_key": None})
        async with matching(idle_venue):
            outcomes = [await follow(http, a["location"]) for a in (other, same, unkeyed)]

    assert [answer["type"] for answer in (other, same, unkeyed)] == ["order_pending"] * 3
    assert [outcome["status"] for outcome in outcomes] == ["refused", "accepted", "accepted"]
    assert outcomes[0]["problem"]["code"] == "idempotency.conflict"
    assert "body=" not in unkeyed["location"]


async def test_where_to_ask_without_a_hash_is_as_good_as_ever(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    keyed = {"idempotency_key": "k", "client_id": f"older-{instrument}"}
    first = await place(**keyed)
    response = await place(**keyed, quantity=700, headers=LATER)
    older = response.headers["Location"].partition("&body=")[0]

    decided = await follow(http, older)

    assert older != response.headers["Location"]
    assert (decided["status"], decided["order"]) == ("accepted", first.json()["order"])


async def test_a_claim_that_does_not_know_what_was_asked_is_in_conflict_with_nobody(
    venue: Venue, http: httpx.AsyncClient, place: Place
) -> None:
    response = await place(headers=LATER)
    outcome = await outcome_of(http, response)
    key = keyed_command_id("unknown", outcome["order"]["order_id"])
    async with venue.engine.begin() as connection:
        await connection.execute(
            text(
                "insert into claims (name, shard, kafka_offset, body_hash)"
                " select :name, shard, kafka_offset, '' from events where position = :position"
            ),
            {"name": command_claim(key), "position": outcome["sequence"]},
        )

    found = await http.get(f"/commands/{key}", params={"body": OTHER_BODY})

    assert (found.json()["status"], found.json()["order"]) == ("accepted", outcome["order"])


@pytest.mark.parametrize("body", ["", "0", "0" * 33, "g" * 32, "A" * 32, "0" * 31 + "\n"])
async def test_a_hash_that_is_none_is_refused(http: httpx.AsyncClient, body: str) -> None:
    path = "/commands/01990000-0000-7000-8000-000000000000"

    response = await http.get(path, params={"at": "0:999999999", "body": body})

    assert (response.status_code, response.json()["field"]) == (422, "body")
