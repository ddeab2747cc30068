"""``GET /events`` of the analysts' process: pages, filters, waiting, and lines."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from exchange.analyst import event_pages
from tests.gateway.conftest import Place, Venue
from tests.gateway.resources.test_past import analyst_at

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def events(venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        analyst_at(venue) as analyst,
        httpx.AsyncClient(base_url=analyst.url, timeout=60.0) as client,
    ):
        yield client


async def get(events: httpx.AsyncClient, **parameters: Any) -> dict[str, Any]:
    response = await events.get("/events", params=parameters)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


async def every(events: httpx.AsyncClient, **parameters: Any) -> list[dict[str, Any]]:
    """Return the events of all pages."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = await get(events, **parameters, **after)
        found += page["events"]
        assert page["count"] == len(page["events"]) <= parameters.get("limit", 100)
        if page["next"] == page["sequence"]:
            return found
        after = {"after": page["next"]}


def places(found: Sequence[dict[str, Any]]) -> list[int]:
    return [one["position"] for one in found]


async def test_pages_have_every_event_once_and_filters_choose_of_them(
    events: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    for _ in range(3):
        await place(client_id="seller", side="sell", price=10, quantity=1)
    last = await place(client_id="buyer", price=10, quantity=2)
    head = last.json()["sequence"]

    whole = await every(events, limit=7)
    mine = await every(events, instrument=instrument, limit=2)
    trades = await every(events, instrument=instrument, type="TradeExecuted")
    sold = await every(events, client_id="seller", instrument=instrument)
    one = await every(events, order_id=last.json()["order"]["order_id"])

    assert places(whole) == list(range(1, head + 1))
    assert mine == [event for event in whole if event["instrument"] == instrument]
    assert trades == [event for event in mine if event["type"] == "TradeExecuted"]
    assert len(trades) == 2
    assert {event["type"] for event in sold} == {"OrderAccepted", "OrderRested", "TradeExecuted"}
    assert places(one)[-2:] == places(trades)
    since, until = mine[0]["time"], mine[-1]["time"]
    between = await every(events, after_time=since, up_to_time=until, instrument=instrument)
    assert between == [event for event in mine if event["time"] > since]


async def test_a_page_ends_where_as_many_events_were_looked_at(
    events: httpx.AsyncClient,
    instrument: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed = await place(client_id="rare", price=1)
    monkeypatch.setattr(event_pages, "READ_MAX", 3)

    assert (await get(events, client_id="rare"))["next"] == "0:3"
    found = await every(events, client_id="rare", instrument=instrument)
    assert places(found)[-1] == placed.json()["sequence"]


async def test_who_waits_gets_the_next_event_when_it_comes(
    events: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    head = (await get(events, limit=1))["sequence"]
    empty = await get(events, after=head, instrument=instrument)
    assert (empty["events"], empty["next"]) == ([], empty["sequence"])

    waiting = asyncio.create_task(get(events, after=head, instrument=instrument, wait_s=30))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    placed = await place()

    assert placed.json()["sequence"] in places((await waiting)["events"])


async def test_lines_are_the_events_of_all_pages(
    events: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await place()
    asked = {"instrument": instrument}
    accept = {"Accept": "application/x-ndjson"}

    told = await events.get("/events", params=asked, headers=accept)

    assert told.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in told.text.splitlines()] == await every(events, **asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "Nothing"},
        {"shard": "1"},
        {"shard": "x"},
        {"after": "1"},
        {"after": "0:999999999"},
        {"limit": "1001"},
        {"wait_s": "31"},
        {"after_time": "noon"},
        {"client_id": ""},
        {"from": "0:1"},
    ],
)
async def test_what_cannot_be_asked_is_refused(
    events: httpx.AsyncClient, asked: dict[str, str]
) -> None:
    refused = await events.get("/events", params=asked)

    assert (refused.status_code, refused.json()["code"]) == (422, "request.invalid")
