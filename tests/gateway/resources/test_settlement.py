"""Settlement cycles over HTTP: closed once, netted exactly, and they sum to zero."""

import asyncio
from decimal import Decimal
from typing import Any

import asyncpg
import httpx
import pytest

from exchange.gateway.parts import reading
from exchange.gateway.resources import settlement
from projections.projector.projector import run_projector
from projections.settlement import Obligation, list_obligations
from tests.gateway.conftest import Place, Venue, gateway_at, matching, order, register, running

pytestmark = pytest.mark.anyio


async def get(http: httpx.AsyncClient, path: str, **parameters: Any) -> dict[str, Any]:
    response = await http.get(path, params=parameters)
    assert response.status_code == 200, response.text
    # Exactly as it was written: a sum of binary fractions would not be zero.
    answer: dict[str, Any] = response.json(parse_float=Decimal)
    return answer


async def close(http: httpx.AsyncClient, body: Any = None) -> httpx.Response:
    return await http.post("/settlement/cycles/close", json=body if body is not None else {})


async def test_a_cycle_nets_the_trades_between_two_cuts(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await close(http)
    await place(client_id="netted-a", price=10.01, quantity=3)
    await place(client_id="netted-b", side="sell", price=10.01, quantity=2)
    await place(client_id="netted-a", side="sell", price=11, quantity=1)
    await place(client_id="netted-b", type="market", price=..., quantity=1)

    closed = await close(http)
    number = closed.json()["cycle"]["cycle_id"]
    await place(client_id="netted-b", side="sell", price=1, quantity=1)
    answer = await get(http, f"/settlement/cycles/{number}")

    assert closed.status_code == 201
    assert answer["cycle"] == closed.json()["cycle"]
    assert (answer["cycle"]["state"], answer["cycle"]["trade_count"]) == ("closed", 2)
    base = instrument.partition("-")[0]
    mine = {client["client_id"]: client for client in answer["clients"]}
    assert mine["netted-a"]["obligations"] == [
        {"instrument": instrument, "net_quantity": 1, "net_amount": Decimal("-9.02")}
    ]
    assert mine["netted-a"]["currencies"] == [
        {"currency": base, "net_amount": 1},
        {"currency": "USD", "net_amount": Decimal("-9.02")},
    ]
    for currency in (base, "USD"):
        assert sum(amounts(answer, currency)) == 0


async def test_what_a_cycle_tells_is_of_one_moment(
    http: httpx.AsyncClient, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trade() -> Any:
        await place(client_id="moment-a")
        return (await place(client_id="moment-b", side="sell")).json()["sequence"]

    async def list_late(*asked: Any, **how: Any) -> list[Obligation]:
        await get(http, "/settlement/cycles", min_sequence=await trade())
        return await list_obligations(*asked, **how)

    await close(http)
    seen = {"min_sequence": await trade()}
    number = (await get(http, "/settlement/cycles", **seen))["cycles"][0]["cycle_id"]
    monkeypatch.setattr(reading, "QUERY_WAIT_S", 60.0)  # the trade takes some of it
    monkeypatch.setattr(settlement, "list_obligations", list_late)

    answer = await get(http, f"/settlement/cycles/{number}", client_id="moment-a")

    bought = answer["clients"][0]["obligations"][0]["net_quantity"]
    assert (answer["cycle"]["trade_count"], bought) == (1, 1)


async def test_an_instrument_that_is_not_listed_yet_is_settled(
    http: httpx.AsyncClient, venue: Venue
) -> None:
    name = "UNLISTED-USD"
    blocker = await asyncpg.connect(venue.database_url)
    async with blocker.transaction():
        await blocker.execute("lock table instruments_g1 in exclusive mode")  # it can be read
        await register(http, name)
        await http.post("/orders", json=order(name, client_id="unlisted-a"))
        sold = await http.post("/orders", json=order(name, side="sell", client_id="unlisted-b"))
        seen = {"min_sequence": sold.json()["sequence"]}
        cycles = await get(http, "/settlement/cycles", limit=1, **seen)
        path = f"/settlement/cycles/{cycles['cycles'][0]['cycle_id']}"
        answer = await get(http, path, client_id="unlisted-a")
        listed = (await get(http, "/instruments"))["instruments"]
    await blocker.close()

    assert name not in [instrument["instrument"] for instrument in listed]
    assert [c["currency"] for c in answer["clients"][0]["currencies"]] == ["UNLISTED", "USD"]


def amounts(answer: dict[str, Any], currency: str) -> list[Decimal]:
    return [
        Decimal(line["net_amount"])
        for client in answer["clients"]
        for line in client["currencies"]
        if line["currency"] == currency
    ]


async def test_currencies_of_different_scales_are_added_exactly(http: httpx.AsyncClient) -> None:
    for name, scale in (("FINE-SUM", 6), ("COARSE-SUM", 1)):
        await register(http, name, quote="SUM", price_scale=scale, tick_size="0.1")
        for side, client in (("buy", "sum-a"), ("sell", "sum-b")):
            body = order(name, client_id=client, side=side, price="0.1", quantity="0.00000001")
            assert (await http.post("/orders", json=body)).status_code == 201
    number = (await close(http)).json()["cycle"]["cycle_id"]

    answer = await get(http, f"/settlement/cycles/{number}", client_id="sum-a")

    assert [client["client_id"] for client in answer["clients"]] == ["sum-a"]
    assert amounts(answer, "SUM") == [Decimal("-0.000000002")]


async def test_a_cycle_is_closed_once_however_often_it_is_asked(http: httpx.AsyncClient) -> None:
    number = (await close(http)).json()["cycle"]["cycle_id"]

    again = await close(http, {"cycle": number})

    assert again.status_code == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["cycle"]["cycle_id"] == number
    assert (await close(http)).json()["cycle"]["cycle_id"] == number + 1


async def test_a_close_that_is_sent_again_after_all_began_anew_has_the_first_outcome(
    idle_venue: Venue,
) -> None:
    projector = run_projector(idle_venue.engine, idle_venue.redis, pace_ms=5)
    async with running(projector):
        async with matching(idle_venue), gateway_at(idle_venue) as first:
            async with asyncio.timeout(30):  # for the projector to begin
                while (await first.get("/settlement/cycles")).status_code != 200:
                    await asyncio.sleep(0.05)
            closed = await close(first, {"cycle": 1})
            later = await close(first)
        async with matching(idle_venue), gateway_at(idle_venue) as second:
            again = await close(second, {"cycle": 1})
            cycles = await get(second, "/settlement/cycles")

    assert (closed.status_code, later.status_code, again.status_code) == (201, 201, 200)
    assert again.json() == closed.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [cycle["cycle_id"] for cycle in cycles["cycles"]] == [3, 2, 1]


async def test_a_cycle_that_has_not_begun_cannot_be_closed(http: httpx.AsyncClient) -> None:
    number = (await get(http, "/settlement/cycles"))["cycles"][0]["cycle_id"]

    early = await close(http, {"cycle": number + 5})

    assert (early.status_code, early.json()["code"]) == (409, "settlement.cycle_not_open")
    missing = await http.get(f"/settlement/cycles/{number + 5}")
    assert (missing.status_code, missing.json()["code"]) == (404, "settlement.cycle_not_found")


async def test_the_cycles_are_listed_newest_first_page_by_page(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await close(http)).status_code == 201

    first = await get(http, "/settlement/cycles", limit=2)
    second = await get(http, "/settlement/cycles", limit=2, cursor=first["next_cursor"])

    states = [cycle["state"] for cycle in first["cycles"] + second["cycles"]]
    numbers = [cycle["cycle_id"] for cycle in first["cycles"] + second["cycles"]]
    assert states == ["open", "closed", "closed", "closed"]
    assert numbers == list(range(numbers[0], numbers[0] - 4, -1))


async def test_clients_come_page_by_page(http: httpx.AsyncClient, place: Place) -> None:
    await close(http)
    for client in ("paged-a", "paged-b", "paged-c"):
        await place(client_id=client, side="sell", price=7, quantity=1)
    await place(client_id="paged-d", price=7, quantity=3)
    number = (await close(http)).json()["cycle"]["cycle_id"]

    first = await get(http, f"/settlement/cycles/{number}", limit=3)
    second = await get(http, f"/settlement/cycles/{number}", limit=3, cursor=first["next_cursor"])

    full = await get(http, f"/settlement/cycles/{number}", limit=4)

    found = [client["client_id"] for client in first["clients"] + second["clients"]]
    assert (full["count"], full["next_cursor"]) == (4, None)
    assert found == ["paged-a", "paged-b", "paged-c", "paged-d"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("body", [{"cycle": 0}, {"cycle": "1"}, {"cycle": 2**31}, {"x": 1}, []])
async def test_a_body_of_another_shape_is_refused(http: httpx.AsyncClient, body: Any) -> None:
    assert (await close(http, body)).status_code == 422


async def test_the_header_is_not_taken_for_a_key(http: httpx.AsyncClient) -> None:
    response = await http.post("/settlement/cycles/close", headers={"Idempotency-Key": "a"})

    assert (response.status_code, response.json()["field"]) == (422, "Idempotency-Key")
