"""Queries: shapes, pages, and how fresh a read is."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from redis.asyncio import Redis

from exchange.gateway.parts import health, submission
from exchange.gateway.resources import fills
from projections.projector.projector import run_projector
from tests.gateway.conftest import (
    PATIENCE_S,
    Place,
    Venue,
    gateway_at,
    matching,
    order,
    register,
    running,
)

pytestmark = pytest.mark.anyio


async def test_an_order_is_found_as_soon_as_it_was_answered(
    http: httpx.AsyncClient, place: Place
) -> None:
    placed = (await place()).json()

    response = await http.get(f"/orders/{placed['order']['order_id']}")

    assert response.status_code == 200
    assert response.json()["order"] == placed["order"]
    assert response.json()["sequence"] >= placed["sequence"]


async def test_an_unknown_order_is_not_found(http: httpx.AsyncClient) -> None:
    response = await http.get("/orders/nobodys")

    assert (response.status_code, response.json()["code"]) == (404, "order.not_found")


async def test_a_clients_orders_come_in_pages_newest_first(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    client = {"client_id": f"pages-{instrument}"}
    made = [(await place(**client, price=p)).json() for p in (1, 2, 3, 4, 5)]
    wanted = {**client, "limit": "2", "min_sequence": made[-1]["sequence"]}

    ids, cursor = [], None
    while True:
        page = await http.get(
            "/orders", params={**wanted, **({"cursor": cursor} if cursor else {})}
        )
        ids += [o["order_id"] for o in page.json()["orders"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break

    full = await http.get("/orders", params={**wanted, "limit": "5"})

    assert ids == [m["order"]["order_id"] for m in reversed(made)]
    assert (full.json()["count"], full.json()["next_cursor"]) == (5, None)


async def test_orders_are_filtered_by_status_and_instrument(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    client = {"client_id": f"filters-{instrument}"}
    first = (await place(**client)).json()["order"]["order_id"]
    await place(**client, price=9)
    cancelled = (await http.post(f"/orders/{first}/cancel")).json()
    seen = {**client, "min_sequence": f"0:{cancelled['sequence']}"}

    async def ids(**filters: str) -> list[str]:
        response = await http.get("/orders", params={**seen, **filters})
        return [o["order_id"] for o in response.json()["orders"]]

    assert await ids(status="cancelled") == [first]
    assert len(await ids(instrument=instrument)) == 2
    assert await ids(instrument="BTC-USD") == []


async def test_working_orders_are_one_list_page_by_page(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    client = {"client_id": f"working-{instrument}"}
    cancelled, filled, partly, untouched = [
        (await place(**client, price=price)).json()["order"]["order_id"] for price in (1, 8, 7, 6)
    ]
    await place(side="sell", type="market", price=..., quantity="1.5", client_id="bob")
    last = (await http.post(f"/orders/{cancelled}/cancel")).json()
    wanted = {**client, "status": "working", "min_sequence": f"0:{last['sequence']}"}

    whole = (await http.get("/orders", params=wanted)).json()
    first = (await http.get("/orders", params={**wanted, "limit": "1"})).json()
    rest = await http.get("/orders", params={**wanted, "cursor": first["next_cursor"]})

    told = [(one["order_id"], one["status"]) for one in whole["orders"]]
    assert told == [(untouched, "open"), (partly, "partially_filled")]
    assert [*first["orders"], *rest.json()["orders"]] == whole["orders"]
    assert filled not in {one["order_id"] for one in whole["orders"]}


async def test_the_history_of_an_order_tells_each_event(
    http: httpx.AsyncClient, place: Place
) -> None:
    placed = (await place(price="70150.5", quantity="0.3")).json()["order"]["order_id"]
    await place(side="sell", type="market", price=..., quantity="0.1", client_id="bob")
    cancelled = (await http.post(f"/orders/{placed}/cancel")).json()
    path, seen = f"/orders/{placed}/events", {"min_sequence": f"0:{cancelled['sequence']}"}

    response = await http.get(path, params=seen)
    first = await http.get(path, params={**seen, "limit": 3})
    rest = await http.get(path, params={"cursor": first.json()["next_cursor"]})

    events = response.json()["events"]
    assert [e["type"] for e in events] == [
        "OrderAccepted",
        "OrderRested",
        "TradeExecuted",
        "OrderCancelled",
    ]
    assert (events[2]["price"], events[2]["maker_remaining"]) == (70150.5, 0.2)
    # Who was on the other side, and what is left of it, is not told.
    assert not [name for name in events[2] if name.startswith(("taker_o", "taker_c", "taker_r"))]
    assert events[3]["sequence"] == cancelled["sequence"]
    full = await http.get(path, params={"limit": len(events)})

    assert first.json()["events"] + rest.json()["events"] == events
    assert full.json()["next_cursor"] is None


async def test_trades_come_in_pages_newest_first(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await place(side="sell", quantity=3)
    made = [(await place(client_id="bob")).json() for _ in range(3)]
    wanted = {"instrument": instrument, "min_sequence": made[-1]["sequence"]}

    first = (await http.get("/market/trades", params={**wanted, "limit": 2})).json()
    rest = (
        await http.get("/market/trades", params={**wanted, "cursor": first["next_cursor"]})
    ).json()

    full = (await http.get("/market/trades", params={**wanted, "limit": 3})).json()

    assert (first["count"], rest["count"], rest["next_cursor"]) == (2, 1, None)
    assert (full["count"], full["next_cursor"]) == (3, None)
    assert first["trades"] + rest["trades"] == [m["trades"][0] for m in reversed(made)]


async def test_fills_are_the_clients_own_side_of_its_trades(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    me, other = f"me-{instrument}", f"other-{instrument}"
    resting = (await place(side="sell", quantity=3, client_id=me)).json()["order"]["order_id"]
    await place(client_id=other)
    own = (await place(client_id=me)).json()
    last = (await place(client_id=other)).json()
    wanted = {"client_id": me, "instrument": instrument, "min_sequence": last["sequence"]}

    whole = (await http.get("/market/fills", params=wanted)).json()
    newest = (await http.get("/market/fills", params={**wanted, "limit": 1})).json()
    rest = await http.get("/market/fills", params={**wanted, "cursor": newest["next_cursor"]})
    others = (await http.get("/market/fills", params={**wanted, "client_id": other})).json()

    told = [(one["order_id"], one["side"], one["role"]) for one in whole["fills"]]
    maker = (resting, "sell", "maker")
    assert told == [maker, (own["order"]["order_id"], "buy", "taker"), maker, maker]
    assert (whole["count"], whole["next_cursor"]) == (4, None)
    assert newest["fills"] + rest.json()["fills"] == whole["fills"]
    assert [(one["side"], one["role"]) for one in others["fills"]] == [("buy", "taker")] * 2


async def test_fills_go_on_where_a_page_looked_no_further(
    http: httpx.AsyncClient,
    instrument: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fills, "TRADES_LOOKED_AT", 2)
    me = f"me-{instrument}"
    await place(side="sell", quantity=4)
    mine = (await place(client_id=me)).json()
    last = [(await place(client_id="bob")).json() for _ in range(3)][-1]
    wanted = {"client_id": me, "instrument": instrument, "min_sequence": last["sequence"]}

    first = (await http.get("/market/fills", params=wanted)).json()
    rest = (
        await http.get("/market/fills", params={**wanted, "cursor": first["next_cursor"]})
    ).json()

    assert first["fills"] == []
    assert [one["order_id"] for one in rest["fills"]] == [mine["order"]["order_id"]]
    assert rest["next_cursor"] is None


async def test_the_book_is_cut_to_the_levels_asked_for(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    for price in (7, 9, 8):
        last = (await place(price=price)).json()
    wanted = {"instrument": instrument, "min_sequence": last["sequence"], "levels": 2}

    book = (await http.get("/market/orderbook", params=wanted)).json()

    assert list(book) == ["instrument", "bids", "asks", "timestamp", "sequence"]
    assert book["bids"] == [
        {"price": 9, "quantity": 1, "cumulative": 1},
        {"price": 8, "quantity": 1, "cumulative": 2},
    ]


async def test_positions_are_exact(http: httpx.AsyncClient, instrument: str, place: Place) -> None:
    client = f"holds-{instrument}"
    for price, quantity in (("10", "0.1"), ("20", "0.2")):
        await place(side="sell", price=price, quantity=quantity, client_id="bob")
        bought = (await place(price=price, quantity=quantity, client_id=client)).json()

    response = await http.get(
        f"/market/positions/{client}", params={"min_sequence": bought["sequence"]}
    )

    assert response.json()["client_id"] == client
    assert '"net_quantity":0.3,"total_cost":5,"avg_price":16.6666666667,' in response.text
    (held,) = response.json()["positions"]
    assert held["last_updated"] == bought["order"]["updated_at"]


async def test_a_default_instrument(http: httpx.AsyncClient) -> None:
    for path in ("/market/orderbook", "/market/trades"):
        assert (await http.get(path)).json()["instrument"] == "BTC-USD"


async def test_an_unknown_instrument_is_not_found(http: httpx.AsyncClient) -> None:
    for path in ("/market/orderbook", "/market/trades"):
        response = await http.get(path, params={"instrument": "NONE"})
        assert (response.status_code, response.json()["code"]) == (404, "instrument.not_found")


async def test_instruments_are_listed_with_their_units(
    http: httpx.AsyncClient, instrument: str
) -> None:
    registered = await register(http, instrument)
    wanted = {"min_sequence": f"0:{registered.json()['sequence']}"}

    listed = (await http.get("/instruments", params=wanted)).json()["instruments"]

    assert registered.status_code == 200  # the same again
    assert registered.json()["instrument"] in listed
    assert registered.json()["instrument"] == {
        "instrument": instrument,
        "base": instrument.partition("-")[0],
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": 0.00000001,
        "shard": 0,
        "state": "open",
    }


async def test_a_registration_with_another_definition_is_a_conflict(
    http: httpx.AsyncClient, instrument: str
) -> None:
    response = await register(http, instrument, tick_size=0.05)

    assert (response.status_code, response.json()["code"]) == (409, "instrument.exists")


async def test_off_tick_and_off_lot_are_refused_by_the_exchange(http: httpx.AsyncClient) -> None:
    await register(http, "COARSE", tick_size=0.05, lot_size=0.1)

    tick = await http.post("/orders", json=order("COARSE", price=10.01))
    lot = await http.post("/orders", json=order("COARSE", quantity=0.15))

    assert (tick.status_code, tick.json()["code"]) == (422, "order.off_tick")
    assert (lot.status_code, lot.json()["code"]) == (422, "order.off_lot")
    assert tick.json()["sequence"] < lot.json()["sequence"]


@pytest.mark.usefixtures("hasty")
async def test_a_read_of_the_future_is_stale(http: httpx.AsyncClient) -> None:
    future = {"min_sequence": 10**12}
    paths = ("/market/orderbook", "/market/trades", "/market/positions/a", "/orders/x")

    for path in paths:
        response = await http.get(path, params=future)
        expected = (404, "order.not_found") if path == "/orders/x" else (503, "read.stale")
        assert (response.status_code, response.json()["code"]) == expected
        assert ("Retry-After" in response.headers) == (response.status_code == 503)


@pytest.mark.usefixtures("prompt")
async def test_no_stale_read_waits_for_ever(http: httpx.AsyncClient) -> None:
    future = {"min_sequence": 10**12}

    for _ in range(3):
        reads = [http.get("/market/orderbook", params=future) for _ in range(20)]
        responses = await asyncio.gather(*reads)

        assert {r.status_code for r in responses} == {503}


@pytest.mark.usefixtures("hasty")
async def test_without_a_projector_orders_are_taken_and_reads_say_that_they_cannot(
    idle_venue: Venue,
) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
        placed = (await http.post("/orders", json=order("BTC-USD", quantity=2))).json()["order"]
        await http.post("/orders", json=order("BTC-USD", side="sell", client_id="bob"))

        cancelled = await http.post(f"/orders/{placed['order_id']}/cancel")
        again = await http.post(f"/orders/{placed['order_id']}/cancel")
        await register(http, "LOTS-USD", lot_size=1)
        refused = await http.post(
            "/orders", json=order("LOTS-USD", quantity=0.5, order_id="refused")
        )
        of_refused = await http.post("/orders/refused/cancel")
        reads = [
            await http.get(path)
            for path in (
                f"/orders/{placed['order_id']}",
                "/market/orderbook",
                "/market/trades",
                "/market/positions/alice",
                "/instruments",
            )
        ]

    assert cancelled.status_code == 200
    order_after = cancelled.json()["order"]
    assert (order_after["filled_quantity"], order_after["status"]) == (1, "cancelled")
    assert (again.status_code, again.json()["order_status"]) == (409, "cancelled")
    assert refused.status_code == 422, refused.text
    assert (of_refused.status_code, of_refused.json()["order_status"]) == (409, "rejected")
    assert [(r.status_code, r.json()["code"]) for r in reads] == [(503, "read.unavailable")] * 5


async def test_a_market_that_no_projector_keeps_up_is_refused_and_can_be_traded(
    idle_venue: Venue, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(health, "BEHIND_AFTER_S", 0.5)
    monkeypatch.setattr(submission, "LOOKUP_AFTER_S", PATIENCE_S)  # the log has no book
    redis = Redis.from_url(redis_url)
    venue = replace(idle_venue, redis=redis)
    async with redis, matching(venue), gateway_at(venue) as http:
        async with running(run_projector(venue.engine, redis, pace_ms=5)):
            await register(http, "BTC-USD")
            await http.post("/orders", json=order("BTC-USD", quantity=2))
            traded = await http.post("/orders", json=order("BTC-USD", side="sell"))
            await until_shown(http, traded)
        placed = await http.post("/orders", json=order("BTC-USD", price=9))
        left = await until_behind(http)
        seen = await market(http, traded)
        async with running(run_projector(venue.engine, redis, pace_ms=5)):
            again = await until_shown(http, placed)

    book, ticker, positions = left
    assert (placed.status_code, len(placed.json()["orderbook"]["bids"])) == (201, 2)
    for refused in (book, ticker, *seen[:2]):
        assert (refused.status_code, refused.json()["code"]) == (503, "read.stale")
    assert positions.json()["positions"][0]["mark_price"] is None
    assert again[2].json()["positions"][0]["mark_price"] == 10


async def market(
    http: httpx.AsyncClient, after: httpx.Response | None = None
) -> list[httpx.Response]:
    """Ask for the book, the ticker and a client's positions, as they are or after an answer."""
    parameters = {} if after is None else {"min_sequence": after.json()["sequence"]}
    paths = ("/market/orderbook", "/market/ticker", "/market/positions/alice")
    return [await http.get(path, params=parameters) for path in paths]


async def until_behind(http: httpx.AsyncClient) -> list[httpx.Response]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answers = await market(http)
            if all(answer.status_code == 503 for answer in answers[:2]):
                return answers
            await asyncio.sleep(0.05)


async def until_shown(http: httpx.AsyncClient, after: httpx.Response) -> list[httpx.Response]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answers = await market(http, after)
            if all(answer.status_code == 200 for answer in answers):
                return answers
            await asyncio.sleep(0.05)


async def test_a_book_that_redis_lost_half_of_is_filled_again(
    http: httpx.AsyncClient, venue: Venue, instrument: str, place: Place
) -> None:
    await place(quantity=3)
    placed = await place(price=9)
    seen = {"instrument": instrument, "min_sequence": placed.json()["sequence"]}
    await http.get("/market/orderbook", params=seen)
    (lost,) = await venue.redis.keys(f"{{book:*:0}}:{instrument}:buy:quantities")
    await venue.redis.delete(lost)

    crossed = await place(side="sell", quantity=1)

    seen["min_sequence"] = crossed.json()["sequence"]
    async with asyncio.timeout(PATIENCE_S):
        while (book := await http.get("/market/orderbook", params=seen)).status_code != 200:
            assert book.json()["code"] in ("read.stale", "read.unavailable")
    assert [(level["price"], level["quantity"]) for level in book.json()["bids"]] == [
        (10, 2),
        (9, 1),
    ]
