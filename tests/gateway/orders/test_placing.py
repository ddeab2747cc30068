"""Placing and cancelling: the answers, the refusals, and what a resend gets."""

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from exchange.domain import engine
from tests.gateway.conftest import PATIENCE_S, Place, Venue, gateway_at, order, register

pytestmark = pytest.mark.anyio

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_an_order_that_rests_is_open_and_on_the_book(instrument: str, place: Place) -> None:
    response = await place(order_id=f"rests-{instrument}", price=70150.5, quantity=0.25)

    assert response.status_code == 201
    assert response.headers["Location"] == f"/orders/rests-{instrument}"
    answer = response.json()
    placed = answer["order"]
    assert TIME.fullmatch(placed["created_at"])
    assert placed == {
        "order_id": f"rests-{instrument}",
        "client_id": "alice",
        "instrument": instrument,
        "side": "buy",
        "type": "limit",
        "price": 70150.5,
        "quantity": 0.25,
        "filled_quantity": 0,
        "status": "open",
        "created_at": placed["created_at"],
        "updated_at": placed["created_at"],
    }
    assert answer["trades"] == []
    assert answer["orderbook"] == {
        "bids": [{"price": 70150.5, "quantity": 0.25, "cumulative": 0.25}],
        "asks": [],
    }
    assert '"price":70150.5,"quantity":0.25' in response.text


async def test_an_order_that_crosses_answers_with_its_trades(instrument: str, place: Place) -> None:
    made = await place(order_id=f"maker-{instrument}", side="sell", quantity=2)

    response = await place(order_id=f"taker-{instrument}", client_id="bob", quantity="0.5")

    answer = response.json()
    assert (answer["order"]["status"], answer["order"]["filled_quantity"]) == ("filled", 0.5)
    (trade,) = answer["trades"]
    assert TIME.fullmatch(trade.pop("timestamp"))
    assert trade == {
        "trade_id": f"0-{answer['sequence']}",
        "buy_order_id": f"taker-{instrument}",
        "sell_order_id": f"maker-{instrument}",
        "price": 10,
        "quantity": 0.5,
        "taker_side": "buy",
        "sequence": answer["sequence"],
    }
    assert answer["orderbook"]["asks"] == [{"price": 10, "quantity": 1.5, "cumulative": 1.5}]
    assert made.json()["sequence"] < answer["sequence"]


async def test_levels_add_up(place: Place) -> None:
    last: dict[str, Any] = {}
    for price, quantity in ((9, "0.1"), (10, "0.2"), (8, "0.3")):
        last = (await place(price=price, quantity=quantity)).json()

    assert last["orderbook"]["bids"] == [
        {"price": 10, "quantity": 0.2, "cumulative": 0.2},
        {"price": 9, "quantity": 0.1, "cumulative": 0.3},
        {"price": 8, "quantity": 0.3, "cumulative": 0.6},
    ]


async def test_what_a_market_order_cannot_fill_is_cancelled(place: Place) -> None:
    await place(side="sell", quantity=1)

    response = await place(type="market", price=..., quantity=3, client_id="bob")

    placed = response.json()["order"]
    assert (placed["status"], placed["reason"]) == ("cancelled", "market_remainder")
    assert (placed["price"], placed["filled_quantity"]) == (None, 1)


async def test_an_order_that_trades_with_too_many_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FILLS_MAX", 2)
    for _ in range(3):
        await place(side="sell", quantity=1)

    answer = (await place(quantity=3, client_id="bob")).json()

    placed = answer["order"]
    assert (placed["status"], placed["reason"]) == ("cancelled", "fills_max")
    assert (placed["price"], placed["filled_quantity"], len(answer["trades"])) == (10, 2, 2)
    assert answer["orderbook"]["asks"] == [{"price": 10, "quantity": 1, "cumulative": 1}]


async def test_ids_made_by_the_exchange_name_the_instrument_and_are_reserved(
    instrument: str, place: Place
) -> None:
    made = (await place()).json()["order"]["order_id"]
    other = f"{'0' * 32}-{instrument}"

    response = await place(order_id=other)

    assert re.fullmatch(rf"[0-9a-f]{{32}}-{instrument}", made)
    assert response.status_code == 422
    assert (response.json()["code"], response.json()["field"]) == ("order.id_reserved", "order_id")


async def test_an_order_id_that_is_taken_is_a_conflict(instrument: str, place: Place) -> None:
    await place(order_id=f"taken-{instrument}")

    response = await place(order_id=f"taken-{instrument}", client_id="bob")

    assert response.status_code == 409
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["reason"]) == ("order.id_taken", "duplicate_order_id")
    assert problem["order_id"] == f"taken-{instrument}"
    assert problem["sequence"] > 0
    assert problem["command_id"]


async def test_the_refusal_that_the_page_for_analysts_makes_is_one(
    instrument: str, place: Place
) -> None:
    page = (Path(__file__).parents[3] / "docs/analytics.md").read_text()
    told = re.findall(
        r"/orders -H 'content-type: application/json' -d '(\{.*?\})'", page, re.DOTALL
    )
    bodies = [msgspec.json.decode(text) for text in told]
    here = {"instrument": instrument, "order_id": f"mine-{instrument}"}

    placed, refused = [await place(**body | here) for body in bodies]

    assert placed.status_code == 201
    assert (refused.status_code, refused.json()["code"]) == (409, "order.id_taken")
    assert refused.json()["reason"] == "duplicate_order_id"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"type": "market"}, 422, "order.price_not_allowed"),
        ({"price": ...}, 422, "order.price_required"),
        ({"price": None}, 422, "order.price_required"),
        ({"instrument": "NONE-USD"}, 404, "instrument.not_found"),
    ],
)
async def test_what_the_gateway_refuses_by_itself(
    place: Place, changes: dict[str, Any], status: int, code: str
) -> None:
    response = await place(**changes)

    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_resend_gets_the_first_answer_again(instrument: str, place: Place) -> None:
    keyed = {"idempotency_key": "k", "client_id": f"resends-{instrument}"}
    first = await place(**keyed)
    await place(side="sell", client_id="bob")  # fills it in the meantime

    again = await place(**keyed)

    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.status_code == 201
    before, after = first.json(), again.json()
    assert after["orderbook"] == {"bids": [], "asks": []}  # the book is the current one
    for answer in (before, after):
        del answer["orderbook"]
    assert after == before


async def test_a_resend_of_a_refused_order_is_refused_alike(instrument: str, place: Place) -> None:
    keyed = {"idempotency_key": "k", "client_id": f"refused-{instrument}", "order_id": instrument}
    await place(order_id=instrument)

    first, again = await place(**keyed), await place(**keyed)

    assert (first.status_code, again.status_code) == (409, 409)
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_a_key_with_another_body_is_a_conflict(instrument: str, place: Place) -> None:
    keyed = {"idempotency_key": "k", "client_id": f"conflicts-{instrument}"}
    await place(**keyed)

    response = await place(**keyed, price=11)

    assert (response.status_code, response.json()["code"]) == (409, "idempotency.conflict")
    assert "Choose a new key" in response.json()["detail"]


async def test_the_key_may_be_a_header(instrument: str, place: Place) -> None:
    client = {"client_id": f"header-{instrument}"}
    first = await place(**client, headers={"Idempotency-Key": "k"})

    same = await place(**client, idempotency_key="k")
    quoted = await place(**client, headers={"Idempotency-Key": '"k"'})
    both = await place(**client, idempotency_key="k", headers={"Idempotency-Key": "other"})

    ids = {r.json()["order"]["order_id"] for r in (first, same, quoted)}
    assert len(ids) == 1
    assert (both.status_code, both.json()["field"]) == (422, "Idempotency-Key")


async def test_twenty_posts_of_one_key_at_once_have_one_effect(
    http: httpx.AsyncClient, instrument: str
) -> None:
    body = order(instrument, idempotency_key="k", client_id=f"twenty-{instrument}")

    responses = await asyncio.gather(*(http.post("/orders", json=body) for _ in range(20)))

    replayed = Counter(r.headers.get("Idempotent-Replayed", "false") for r in responses)
    assert replayed == {"false": 1, "true": 19}
    answers = [r.json() for r in responses]
    books = [answer.pop("orderbook") for answer in answers]
    assert all(answer == answers[0] for answer in answers)
    bids = [book["bids"] for book in books if book is not None]  # null where it was late
    assert bids == [[{"price": 10, "quantity": 1, "cumulative": 1}]] * len(bids)


async def test_a_cancelled_order_is_answered_in_full(http: httpx.AsyncClient, place: Place) -> None:
    placed = (await place(quantity=2)).json()["order"]
    await place(side="sell", quantity=0.5, client_id="bob")

    response = await http.post(f"/orders/{placed['order_id']}/cancel")

    assert response.status_code == 200
    cancelled = response.json()["order"]
    assert cancelled["updated_at"] >= placed["created_at"]
    assert cancelled == {
        **placed,
        "filled_quantity": 0.5,
        "status": "cancelled",
        "reason": "requested",
        "updated_at": cancelled["updated_at"],
    }


async def test_a_cancel_is_resent_safely_with_a_key(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    client_id = f"cancels-{instrument}"
    placed = (await place(client_id=client_id, order_id=f"c-{instrument}")).json()["order"]
    path, body = (
        f"/orders/{placed['order_id']}/cancel",
        {"client_id": client_id, "idempotency_key": "c"},
    )

    first, again = await http.post(path, json=body), await http.post(path, json=body)

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_an_order_that_is_no_longer_open_cannot_be_cancelled(
    http: httpx.AsyncClient, place: Place
) -> None:
    placed = (await place()).json()["order"]
    await place(side="sell", client_id="bob")

    response = await http.post(f"/orders/{placed['order_id']}/cancel")

    problem = response.json()
    assert response.status_code == 409
    assert (problem["code"], problem["order_status"]) == ("order.not_open", "filled")


async def test_others_orders_and_unknown_ones_are_not_found(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    placed = (await place()).json()["order"]["order_id"]
    made_up = f"{'0' * 32}-{instrument}"
    bodies = [
        (placed, {"client_id": "mallory"}),
        ("nobodys", None),
        (made_up, None),
        (f"{'0' * 32}-NONE", None),
    ]

    responses = [await http.post(f"/orders/{i}/cancel", json=b) for i, b in bodies]

    assert [(r.status_code, r.json()["code"]) for r in responses] == [(404, "order.not_found")] * 4
    told = [str(r.json()).replace(i, "ID") for (i, _), r in zip(bodies, responses, strict=True)]
    assert len(set(told)) == 1, "what is somebody else's differs from what is not there"
    assert (await http.get(f"/orders/{placed}")).json()["order"]["status"] == "open"


async def test_a_key_for_a_cancel_needs_a_client(http: httpx.AsyncClient, place: Place) -> None:
    placed = (await place()).json()["order"]["order_id"]

    response = await http.post(f"/orders/{placed}/cancel", json={"idempotency_key": "k"})

    assert (response.status_code, response.json()["field"]) == (422, "client_id")


async def test_who_does_not_wait_is_told_where_to_ask(
    http: httpx.AsyncClient, place: Place
) -> None:
    response = await place(headers={"Prefer": "respond-async"})

    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    pending = response.json()
    assert set(pending) == {"command_id", "order_id", "status"}
    decided = await follow(http, response.headers["Location"])
    assert decided["status"] == "accepted"
    assert decided["order"]["order_id"] == pending["order_id"]
    found = await http.get(f"/commands/{pending['command_id']}")
    assert found.json()["sequence"] == decided["sequence"]


@pytest.mark.parametrize(
    ("preferences", "waits"),
    [
        (["return=minimal", "respond-async"], False),
        (["return=minimal, Respond-Async; urgent"], False),
        (["respond-async", "respond-async"], False),
        (['note="a, respond-async, b"'], True),
        (['note="' + '\\"' * 7_000], True),
        (["respond-async=no"], True),
    ],
)
async def test_preferences_of_several_lines_add_up(
    http: httpx.AsyncClient, instrument: str, preferences: list[str], waits: bool
) -> None:
    headers = [("Prefer", preference) for preference in preferences]

    response = await http.post("/orders", json=order(instrument), headers=headers)

    assert response.status_code == (201 if waits else 202)


async def test_an_order_that_is_on_its_way_can_be_cancelled(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    for number in range(10):
        order_id = f"hasty-{instrument}-{number}"
        await place(order_id=order_id, headers={"Prefer": "respond-async"})

        response = await http.post(f"/orders/{order_id}/cancel")

        assert response.status_code == 200, response.text
        assert response.json()["order"]["status"] == "cancelled"


async def test_a_refused_command_tells_its_problem(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await place(order_id=f"first-{instrument}")
    response = await place(
        order_id=f"first-{instrument}", quantity=2, headers={"Prefer": "respond-async"}
    )

    decided = await follow(http, response.headers["Location"])

    assert decided["status"] == "refused"
    assert decided["problem"]["code"] == "order.id_taken"


async def test_the_outcome_of_a_cancel_can_be_asked_for(
    http: httpx.AsyncClient, place: Place
) -> None:
    placed = (await place()).json()["order"]["order_id"]
    response = await http.post(f"/orders/{placed}/cancel", headers={"Prefer": "respond-async"})

    decided = await follow(http, response.headers["Location"])

    assert decided["order"]["status"] == "cancelled"


async def test_an_unknown_command_is_not_found(http: httpx.AsyncClient) -> None:
    path = "/commands/01990000-0000-7000-8000-000000000000"
    unknown, decided = await http.get(path), await http.get(path, params={"at": "0:0"})

    assert [r.status_code for r in (unknown, decided)] == [404, 404]


async def follow(http: httpx.AsyncClient, location: str) -> dict[str, Any]:
    """Ask until a command is decided."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer: dict[str, Any] = (await http.get(location)).json()
            if answer["status"] != "pending":
                return answer
            await asyncio.sleep(0.01)


async def test_a_stranger_learns_nothing_of_an_order_that_is_closed(
    http: httpx.AsyncClient, place: Place
) -> None:
    order_id = (await place()).json()["order"]["order_id"]
    path = f"/orders/{order_id}/cancel"
    open_still = await http.post(path, json={"client_id": "mallory"})
    assert (await http.post(path, json={"client_id": "alice"})).status_code == 200
    closed = await http.post(path, json={"client_id": "mallory"})
    owner = await http.post(path, json={"client_id": "alice"})
    wait = {"Prefer": "respond-async"}
    later = await http.post(path, json={"client_id": "mallory"}, headers=wait)
    outcome = await follow(http, later.headers["Location"])

    assert (closed.status_code, closed.json()) == (404, open_still.json())
    assert (owner.status_code, owner.json()["order_status"]) == (409, "cancelled")
    assert outcome["problem"]["code"] == "order.not_found"


async def test_cancels_may_have_to_name_the_owner(venue: Venue) -> None:
    async with gateway_at(venue, cancels_name_owner=True) as http:
        name = "OWNED-USD"
        await register(http, name)
        order_id = (await http.post("/orders", json=order(name))).json()["order"]["order_id"]
        path = f"/orders/{order_id}/cancel"
        nobodys = [await http.post(path), await http.post(path, json={})]
        owners = await http.post(path, json={"client_id": "alice"})

    assert {(a.status_code, a.json()["field"]) for a in nobodys} == {(422, "client_id")}
    assert owners.status_code == 200
