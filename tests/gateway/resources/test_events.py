"""``GET /events`` of the analysts' process: pages, filters, waiting, and lines."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from exchange.analyst import event_lines, event_pages
from exchange.analyst.app import ROUTES
from exchange.analyst.asking import UNDER_WAY_MAX, WAITING_MAX
from exchange.analyst.event_log import STREAMS_MAX, ranges_of
from exchange.analyst.events import Document, Span, replayed
from exchange.gateway.parts.limits import Limit, Limits
from tests.gateway.conftest import Place, Venue
from tests.gateway.resources.test_past import analyst_at

pytestmark = pytest.mark.anyio

LINES_ALONE = {"Accept": "application/x-ndjson"}


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


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.02)


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
    caused = await every(events, command_id=one[0]["command_id"], limit=1)

    assert places(whole) == list(range(1, head + 1))
    assert mine == [event for event in whole if event["instrument"] == instrument]
    assert trades == [event for event in mine if event["type"] == "TradeExecuted"]
    assert len(trades) == 2
    assert {event["type"] for event in sold} == {"OrderAccepted", "OrderRested", "TradeExecuted"}
    assert places(one)[-2:] == places(trades)
    assert caused == [event for event in whole if event["command_id"] == one[0]["command_id"]]
    since, until = mine[0]["time"], mine[-1]["time"]
    await asyncio.sleep(0.01)
    await place()  # so that the log has passed the last of them
    between = await every(events, after_time=since, up_to_time=until, instrument=instrument)
    assert between == [event for event in mine if event["time"] > since]
    early = await every(events, up_to_time=since)
    assert early == [event for event in whole if event["time"] <= since]


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


async def test_all_who_wait_get_the_next_event_and_look_at_nothing_twice(
    events: httpx.AsyncClient, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more of them than turns, and they wait for longer than between two looks."""
    looked: list[Span] = []

    def noted(
        connection: asyncpg.Connection, spans: Mapping[int, Span], *arguments: Any
    ) -> AsyncGenerator[Document, None]:
        looked.append(spans[0])
        return replayed(connection, spans, *arguments)

    await place()
    head = (await get(events, limit=1))["sequence"]
    monkeypatch.setattr(event_pages, "LOOK_S", 0.2)
    asked = {"after": head, "wait_s": 30, "client_id": "late"}
    waiting = []
    for _ in range(2 * (UNDER_WAY_MAX + WAITING_MAX)):
        waiting.append(asyncio.create_task(get(events, **asked)))
        await asyncio.sleep(0.02)  # for its first look it needs a turn as others do
    monkeypatch.setattr(event_pages, "replayed", noted)
    await asyncio.sleep(0.5)
    for price in (1, 2):
        await place(client_id="early", price=price)
        await asyncio.sleep(0.5)
    placed = await place(client_id="late")

    pages = await asyncio.gather(*waiting)
    assert [places(page["events"])[-1] for page in pages] == [placed.json()["sequence"]] * len(
        waiting
    )
    came = max(up_to for _, up_to in looked) - int(head.partition(":")[2])
    assert sum(up_to - after for after, up_to in looked) <= len(waiting) * came


async def test_a_time_that_the_log_has_not_passed_is_refused(
    events: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    """An answer up to it would say that all was told, and events of it may still come."""
    await place()
    last = (await every(events, instrument=instrument))[-1]
    times = ("2100-01-01T00:00:00Z", last["time"])

    answers = [
        await events.get("/events", params={"up_to_time": time}, headers=headers)
        for time in times
        for headers in ({}, LINES_ALONE)
    ]

    assert [(one.status_code, one.json()["code"]) for one in answers] == [
        (409, "past.not_reached")
    ] * len(answers)
    assert "has not passed 2100-01-01" in answers[0].json()["detail"]


async def test_lines_take_nothing_that_only_pages_have(events: httpx.AsyncClient) -> None:
    for name in ("limit", "wait_s"):
        told = await events.get("/events", params={name: 5}, headers=LINES_ALONE)

        assert told.status_code == 422, told.text
        assert told.json()["detail"].startswith(f"{name}: is of pages"), told.text


async def test_nobody_waits_for_what_cannot_come(
    events: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await place()
    past = (await every(events, instrument=instrument))[0]["time"]
    await asyncio.sleep(0.01)
    await place()

    asked = {"up_to_time": past, "client_id": "nobody", "wait_s": 30}
    async with asyncio.timeout(10):
        page = await get(events, **asked)
    assert page["next"] == page["sequence"]


async def test_lines_are_the_events_of_all_pages(
    events: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await place()
    asked = {"instrument": instrument}

    told = await events.get("/events", params=asked, headers=LINES_ALONE)

    assert told.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in told.text.splitlines()] == await every(events, **asked)


async def test_lines_have_so_many_places_even_if_all_ask_at_once_and_give_them_back(
    events: httpx.AsyncClient, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that do not come show that the answer goes on; who leaves gives the place back."""
    await place()
    go_on = asyncio.Event()

    async def slow(*arguments: Any) -> AsyncGenerator[Document, None]:
        await go_on.wait()
        async for document in replayed(*arguments):
            yield document

    monkeypatch.setattr(event_lines, "replayed", slow)
    monkeypatch.setattr(event_lines, "SIGN_S", 0.05)
    left = asyncio.Event()
    statuses: list[int] = []

    async def take() -> None:
        async with events.stream("GET", "/events", headers=LINES_ALONE) as answer:
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                async for blank in answer.aiter_bytes():
                    assert set(blank) == {ord("\n")}
                    await left.wait()
                    return

    taking = [asyncio.create_task(take()) for _ in range(3 * STREAMS_MAX)]
    await until(lambda: len(statuses) == len(taking))
    assert sorted(statuses) == [200] * STREAMS_MAX + [503] * (len(taking) - STREAMS_MAX)
    assert (await events.get("/healthz")).json()["streams"] == STREAMS_MAX
    left.set()
    await asyncio.gather(*taking)
    while (await events.get("/healthz")).json()["streams"]:
        await asyncio.sleep(0.02)

    whole = asyncio.create_task(events.get("/events", headers=LINES_ALONE))
    await asyncio.sleep(0.2)
    go_on.set()
    lines = (await whole).text.splitlines()
    assert lines[0] == ""
    assert [json.loads(line) for line in lines if line] == await every(events, limit=1_000)


async def test_a_head_of_lines_reads_nothing(
    events: httpx.AsyncClient, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[Mapping[int, Span]] = []

    def noted(_: Any, some: Mapping[int, Span], *arguments: Any) -> AsyncGenerator[Document, None]:
        spans.append(some)
        return replayed(_, some, *arguments)

    monkeypatch.setattr(event_lines, "replayed", noted)
    await place()

    told = await events.head("/events", headers=LINES_ALONE)

    assert (told.status_code, spans) == (200, [{}])


async def test_questions_about_events_have_a_budget(venue: Venue) -> None:
    limits = Limits(history=Limit(1, 2))
    async with (
        analyst_at(venue, limits) as analyst,
        httpx.AsyncClient(base_url=analyst.url) as client,
    ):
        answers = [
            await client.get("/events", headers=headers) for headers in ({}, LINES_ALONE, {}, {})
        ]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert answers[-1].json()["code"] == "rate.limited"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[0].headers["ratelimit-limit"] == "2"


async def test_health_and_a_description_are_told(events: httpx.AsyncClient, place: Place) -> None:
    sequence = (await place()).json()["sequence"]

    health = await events.get("/healthz")
    described = (await events.get("/openapi.json")).json()

    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert health.json()["checks"] == {"postgres": "healthy"}
    assert int(health.json()["sequence"].partition(":")[2]) >= sequence
    assert {route.path for route in ROUTES} == described["paths"].keys()
    page = described["paths"]["/events"]["get"]["responses"]["200"]["content"]
    schema = {**page["application/json"]["schema"], "components": described["components"]}
    Draft202012Validator(schema).validate(await get(events, limit=2))
    names = [item["get"]["operationId"] for item in described["paths"].values()]
    assert len(set(names)) == len(names)
    shown = await events.get("/docs")
    assert shown.headers["content-type"].startswith("text/html")
    assert "unsafe" not in shown.headers["content-security-policy"]


async def test_a_log_without_an_event_can_be_asked(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        ranges = await ranges_of(connection, {}, 2)
    finally:
        await connection.close()
    assert (ranges.spans, ranges.growing) == ({0: (0, 0), 1: (0, 0)}, {0, 1})


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
        {"command_id": "1"},
        {"from": "0:1"},
    ],
)
async def test_what_cannot_be_asked_is_refused(
    events: httpx.AsyncClient, asked: dict[str, str]
) -> None:
    refused = await events.get("/events", params=asked)

    assert (refused.status_code, refused.json()["code"]) == (422, "request.invalid")
