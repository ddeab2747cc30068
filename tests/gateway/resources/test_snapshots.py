"""Engine snapshots on demand, over HTTP."""

import asyncpg
import httpx
import pytest

from tests.gateway.conftest import Place, Venue

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("where", ["query", "body", "nowhere"])
async def test_a_snapshot_is_taken_of_all_that_was_decided(
    where: str, http: httpx.AsyncClient, place: Place, instrument: str, venue: Venue
) -> None:
    placed = (await place()).json()
    query = {"instrument": instrument} if where == "query" else {}
    body = {"instrument": instrument} if where == "body" else None

    response = await http.post("/market/orderbook/snapshot", params=query, json=body)

    assert response.status_code == 201, response.text
    snapshot = response.json()["snapshot"]
    assert snapshot["instrument"] == (instrument if where != "nowhere" else "BTC-USD")
    assert snapshot["position"] >= response.json()["wanted"] >= placed["sequence"]
    assert response.json()["sequence"] == snapshot["position"]
    assert snapshot["resting_orders"] > 0
    connection = await asyncpg.connect(venue.database_url)
    try:
        query_digest = "select state_digest from batches where position = $1"
        digest = await connection.fetchval(query_digest, snapshot["position"])
        log_id = await connection.fetchval("select id from log")
    finally:
        await connection.close()
    assert (digest.hex(), log_id) == (snapshot["digest"], snapshot["log_id"])


async def test_a_snapshot_that_is_there_is_not_taken_again(http: httpx.AsyncClient) -> None:
    first = await http.post("/market/orderbook/snapshot")
    second = await http.post("/market/orderbook/snapshot")

    assert first.json() == second.json()


async def test_an_instrument_that_is_not_there(http: httpx.AsyncClient) -> None:
    response = await http.post("/market/orderbook/snapshot", params={"instrument": "NONE"})

    assert (response.status_code, response.json()["code"]) == (404, "instrument.not_found")


@pytest.mark.parametrize(("named", "status"), [("NONE", 404), ("\tr", 422)])
async def test_a_query_beside_a_body_is_not_passed_over(
    named: str, status: int, http: httpx.AsyncClient
) -> None:
    response = await http.post(
        "/market/orderbook/snapshot", params={"instrument": named}, json={"instrument": "BTC-USD"}
    )

    assert response.status_code == status, response.text


async def test_query_and_body_have_to_name_one_instrument(
    http: httpx.AsyncClient, instrument: str
) -> None:
    response = await http.post(
        "/market/orderbook/snapshot",
        params={"instrument": instrument},
        json={"instrument": "BTC-USD"},
    )

    assert (response.status_code, response.json()["field"]) == (422, "instrument")
