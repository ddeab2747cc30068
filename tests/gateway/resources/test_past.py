"""Questions about the past over HTTP: the answer is the one that was given then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from exchange.analyst import asking
from exchange.analyst.app import ROUTES, create_app
from exchange.analyst.asking import Analyst as Answering
from exchange.analyst.event_log import EventLog
from exchange.gateway.app import serve
from exchange.gateway.http import analyst as gateway_analyst
from exchange.gateway.http.analyst import Analyst
from exchange.gateway.http.declaration import OPERATIONS
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.limits import NO_LIMITS, Limit, Limits
from tests.conftest import free_ports
from tests.gateway.conftest import HOST, Place, Venue, gateway_at

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def analyst_at(
    venue: Venue, limits: Limits = NO_LIMITS, **door: Any
) -> AsyncIterator[Analyst]:
    """Run an analysts' process, and lend how a gateway asks it."""
    (port,) = free_ports(1)
    shutdown = asyncio.Event()
    answering = Answering(venue.engine, 1)
    events = EventLog(venue.engine, answering, 1, limits=limits)
    app = create_app(answering, events, **door)
    serving = asyncio.create_task(serve(app, HOST, port, shutdown))
    analyst = Analyst(f"http://{HOST}:{port}")
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(250):
                if serving.done() or await _answers(client, f"http://{HOST}:{port}/livez"):
                    break
                await asyncio.sleep(0.02)
        yield analyst
    finally:
        await analyst.close()
        shutdown.set()
        await serving


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.fixture(scope="module")
async def past(venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that has an analysts' process."""
    async with analyst_at(venue) as analyst, gateway_at(venue, analyst=analyst) as client:
        yield client


def questions(instrument: str, client: str, order_id: str) -> dict[str, dict[str, Any]]:
    """Return each query that can be asked about the past, by its path, with parameters."""
    return {
        "/market/orderbook": {"instrument": instrument, "levels": 2},
        "/market/ticker": {"instrument": instrument},
        "/market/analytics": {"instrument": instrument, "interval": 60},
        f"/market/positions/{client}": {},
        "/orders": {"client_id": client, "instrument": instrument, "limit": 2},
        f"/orders/{order_id}": {},
        f"/orders/{order_id}/events": {"limit": 1},
        "/settlement/cycles": {},
        "/settlement/cycles/1": {"client_id": client},
    }


async def answers(
    http: httpx.AsyncClient, asked: dict[str, dict[str, Any]], **more: Any
) -> dict[str, dict[str, Any]]:
    found = {}
    for path, parameters in asked.items():
        response = await http.get(path, params={**parameters, **more})
        assert response.status_code == 200, (path, response.text)
        found[path] = response.json()
    return found


def timeless(told: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out what an answer has from the clock: the last day ends when it is asked."""
    return {
        path: {n: v for n, v in answer.items() if n not in ("start_time", "end_time")}
        for path, answer in told.items()
    }


async def traded(place: Place, client: str) -> tuple[str, int]:
    """Place orders that rest and trade; return one of the client's and the last sequence."""
    resting = await place(client_id=client, side="sell", price=12, quantity=2)
    for price in (9, 8, 7):
        await place(client_id=client, price=price, quantity=1)
    last = await place(client_id=f"{client}-other", price=12, quantity=1)
    assert last.status_code == 201, last.text
    return resting.json()["order"]["order_id"], last.json()["sequence"]


async def test_every_answer_is_the_one_that_was_given_then(
    past: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    client = f"of-{instrument}"
    order_id, sequence = await traded(place, client)
    asked = questions(instrument, client, order_id)
    then = await answers(past, asked, min_sequence=sequence)
    _, later = await traded(place, client)
    assert await answers(past, asked, min_sequence=later) != then

    by_sequence = await answers(past, asked, as_of_sequence=sequence)
    by_position = await answers(past, asked, as_of_sequence=f"0:{sequence}")

    assert by_sequence == by_position
    assert timeless(by_sequence) == timeless(then)
    page = by_sequence["/orders"]
    following = {"client_id": client, "cursor": page["next_cursor"], "as_of_sequence": sequence}
    rest = (await past.get("/orders", params=following)).json()
    assert page["count"] + rest["count"] == 4
    assert rest["next_cursor"] is None


async def test_a_time_is_each_shards_last_event_at_or_before_it(
    past: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    order_id, sequence = await traded(place, f"of-{instrument}")
    book = {"instrument": instrument}
    then = (await past.get("/market/orderbook", params={**book, "min_sequence": sequence})).json()
    await asyncio.sleep(0.005)  # so that the next event has a later time
    _, later = await traded(place, f"of-{instrument}")
    now = (await past.get("/market/orderbook", params={**book, "min_sequence": later})).json()

    told = await past.get("/market/orderbook", params={**book, "as_of_time": then["timestamp"]})
    ahead = datetime.fromisoformat(now["timestamp"]) + timedelta(hours=1)
    refused = await past.get("/market/orderbook", params={**book, "as_of_time": ahead.isoformat()})

    assert told.json()["sequence"] == sequence
    assert told.json()["bids"] == then["bids"]
    assert (refused.status_code, refused.json()["code"]) == (409, "past.not_reached")
    assert "has not passed" in refused.json()["detail"]
    early = await past.get(f"/orders/{order_id}", params={"as_of_sequence": 1})
    assert (early.status_code, early.json()["code"]) == (404, "order.not_found")
    unborn = await past.get("/market/ticker", params={**book, "as_of_sequence": 0})
    assert (unborn.status_code, unborn.json()["code"]) == (404, "instrument.not_found")
    assert "was registered later" in unborn.json()["detail"]


async def test_what_is_no_sequence_is_told_that_a_number_is_one(past: httpx.AsyncClient) -> None:
    refused = await past.get("/market/orderbook", params={"as_of_sequence": "x"})

    assert refused.status_code == 422
    assert "must be a whole number" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({"as_of_sequence": "0:1", "as_of_time": "2026-01-01T00:00:00Z"}, 422, "request.invalid"),
        ({"as_of_sequence": "1", "min_sequence": "1"}, 422, "request.invalid"),
        ({"as_of_sequence": "1:5"}, 422, "request.invalid"),
        ({"as_of_sequence": "-1"}, 422, "request.invalid"),
        ({"as_of_sequence": "0:1;drop"}, 422, "request.invalid"),
        ({"as_of_sequence": "9" * 18}, 409, "past.not_reached"),
        ({"as_of_sequence": ["1", "2"]}, 422, "request.invalid"),
        ({"as_of_time": "yesterday"}, 422, "request.invalid"),
        ({"as_of_time": "9999-12-31T23:59:59Z"}, 409, "past.not_reached"),
        ({"as_of_time": "0001-01-01T00:00:00+14:00"}, 404, "instrument.not_found"),
        ({"as_of_moment": "1"}, 422, "request.invalid"),
        ({"as_of_sequence": "1", "levels": "101"}, 422, "request.invalid"),
    ],
)
async def test_a_moment_that_is_none_is_refused(
    past: httpx.AsyncClient, parameters: dict[str, Any], status: int, code: str
) -> None:
    refused = await past.get("/market/orderbook", params=parameters)

    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text


async def test_what_lacks_a_parameter_is_refused_as_it_is_now(
    past: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    placed = (await place()).json()
    moment = {"as_of_sequence": f"0:{placed['sequence']}"}
    for path in questions(instrument, "alice", placed["order"]["order_id"]):
        now, then = await past.get(path), await past.get(path, params=moment)
        assert (then.status_code, then.json().get("code")) == (
            now.status_code,
            now.json().get("code"),
        ), path


async def test_an_order_whose_id_is_dots_is_an_order(past: httpx.AsyncClient, place: Place) -> None:
    """A client of HTTP would take them for a step up, and ask for the log itself."""
    sequence = (await place()).json()["sequence"]
    for path in ("/orders/%2E%2E/events", "/orders/%2E%2E", "/orders/%2E"):
        answer = await past.get(path, params={"as_of_sequence": f"0:{sequence}"})
        assert (answer.status_code, answer.json()["code"]) == (404, "order.not_found"), path


async def test_without_the_process_the_past_cannot_be_asked(
    venue: Venue, http: httpx.AsyncClient
) -> None:
    gone = Analyst(f"http://{HOST}:{free_ports(1)[0]}")
    asked = {"as_of_sequence": "1"}
    unset = await http.get("/market/orderbook", params=asked)
    async with gateway_at(venue, analyst=gone) as client:
        away = await client.get("/market/orderbook", params=asked)
        now = await client.get("/market/orderbook")
    await gone.close()

    for refused, why in ((unset, "no ANALYST_URL is set"), (away, "ConnectError")):
        assert (refused.status_code, refused.json()["code"]) == (503, "past.unavailable")
        assert why in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"
    assert now.status_code == 200


async def test_a_question_that_gets_no_turn_is_not_told_that_nobody_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_analyst, "QUESTIONS_MAX", 1)
    monkeypatch.setattr(gateway_analyst, "TURN_S", 0.1)
    asked, left = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    (port,) = free_ports(1)
    analyst = Analyst(f"http://{HOST}:{port}")
    async with await asyncio.start_server(never_answer, HOST, port):
        first = asyncio.create_task(analyst.ask("/orders", []))
        await asked.wait()
        with pytest.raises(Problem) as refused:
            await analyst.ask("/orders", [])
        first.cancel()
        await asyncio.wait({first})
        await analyst.close()
        await left.wait()
    assert refused.value.code == Code.BUSY


async def test_an_answer_that_is_too_long_is_no_failure_of_the_process(
    past: httpx.AsyncClient, instrument: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = (await place()).json()
    asked = {"instrument": instrument, "as_of_sequence": f"0:{placed['sequence']}"}
    monkeypatch.setattr(gateway_analyst, "ANSWER_BYTES_MAX", 100)

    refused = await past.get("/market/orderbook", params=asked)

    assert (refused.status_code, refused.json()["code"]) == (422, "request.invalid")
    assert refused.json()["detail"] == "The answer has more than 100 bytes: ask for less."


async def test_questions_about_the_past_have_a_budget(venue: Venue) -> None:
    limits = Limits(history=Limit(1, 2))
    asked = {"as_of_sequence": "1"}
    async with (
        analyst_at(venue) as analyst,
        gateway_at(venue, analyst=analyst, limits=limits) as client,
    ):
        answered = [await client.get("/settlement/cycles", params=asked) for _ in range(8)]

    # Other tests may have spent what this address has.
    assert answered[-1].status_code == 429
    assert answered[-1].json()["code"] == "rate.limited"


async def test_more_questions_than_can_wait_are_refused_at_once(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WAITING_MAX", 1)
    asked = {"as_of_sequence": "1"}
    async with analyst_at(venue) as analyst, gateway_at(venue, analyst=analyst) as client:
        every = (client.get("/settlement/cycles", params=asked) for _ in range(8))
        answered = await asyncio.gather(*every)

    told = {one.status_code: one for one in answered}
    assert told.keys() == {200, 503}
    assert told[503].json()["code"] == "gateway.busy"


async def test_no_parameter_makes_the_process_crash(
    venue: Venue, instrument: str, place: Place
) -> None:
    """Each that is declared is given what nobody means, beside others that are right."""
    placed = (await place()).json()
    order_id, fitting = placed["order"]["order_id"], {"instrument": instrument, "client_id": "ann"}
    fitting["as_of_sequence"] = f"0:{placed['sequence']}"
    async with analyst_at(venue) as analyst, httpx.AsyncClient(base_url=analyst.url) as past:
        for route in ROUTES:
            declared = [one.name for one in OPERATIONS[route.endpoint].query]
            usual = {name: value for name, value in fitting.items() if name in declared}
            path = route.path.format(client_id="ann", order_id=order_id, cycle_id="1")
            assert (await past.get(path, params=usual)).status_code == 200, path
            for name in declared:
                for value in ("", "-1", "9" * 40, "0:1,0:2", "é株", "1e3"):
                    answer = await past.get(path, params=usual | {name: value})
                    assert answer.status_code < 500, (path, name, value, answer.text)
