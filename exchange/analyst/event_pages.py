"""``GET /events``: the log's events in pages, and as they come.

Read ``get_events``. A page ends at ``next``, with which the next one is asked for; it is the same
page whenever it is asked for again. A question that finds nothing may wait for what comes: it goes
on where it was, and looks at nothing twice. Who wants much takes lines (``event_lines``).
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.analyst.event_lines import LINES, Lines
from exchange.analyst.event_log import AFTER, CHOOSING, EventLog, ranges_of, wanted_of
from exchange.analyst.events import Document, Span, Wanted, replayed
from exchange.gateway.http.declaration import PAGING, Access, Operation, operation
from exchange.gateway.http.parameters import WholeNumber
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, invalid
from exchange.gateway.http.requests import header_lines, integer, query
from exchange.gateway.http.responses import json_response, sequence_text
from exchange.gateway.parts.admission import charge, origin_of
from exchange.gateway.parts.limits import Kind
from exchange.waiting import is_set_within

READ_MAX: Final = 50_000  # events of a page that are looked at: some 0.2 s of a processor
LOOK_S: Final = 1.0  # a notification may be lost

LIMIT: Final = limit_of(100, 1_000, "events")
WAIT: Final = WholeNumber(
    name="wait_s", meaning="how long to wait for an event", default=0, least=0, most=30
)


class EventsView(Struct, frozen=True):
    """What ``GET /events`` answers.

    ``sequence`` is up to where there are events that are asked for, so there are more if ``next``
    differs from it.
    """

    events: list[Document]
    count: int
    next: str
    sequence: str


class Page(Struct, frozen=True):
    """A page: its events, up to where each shard was looked at, and how far that goes now.

    More may come of the shards ``growing``.
    """

    events: list[Document]
    reached: Mapping[int, int]
    ends: Mapping[int, int]
    growing: frozenset[int]

    @property
    def is_awaited(self) -> bool:
        return not self.events and bool(self.growing) and self.reached == self.ends

    def view(self) -> EventsView:
        reached, ends = sequence_text(self.reached), sequence_text(self.ends)
        return EventsView(self.events, len(self.events), reached, ends)


@operation(
    Operation(
        tag="analysts",
        scope=Access.AUDIT,
        query=(LIMIT, WAIT, *CHOOSING),
        answers={200: (EventsView,)},
        problems=(*PAGING, Code.NOT_REACHED),
    )
)
async def get_events(request: Request) -> Response:
    """``GET /events``: the log by shard and position; lines to who accepts NDJSON."""
    log: EventLog = request.app.state.events
    asked = query(request)
    limit, wait_s, wanted = integer(asked, LIMIT), integer(asked, WAIT), wanted_of(asked)
    takes_lines = LINES in ",".join(header_lines(request, b"accept"))
    if takes_lines:
        _check_of_lines(asked)
    await charge(log, Kind.HISTORY, None, origin_of(request, log.proxies))
    if takes_lines:
        return Lines(log, asked, wanted)
    page = await _page(log, asked, wanted, limit)
    if wait_s and page.is_awaited:
        page = await _awaited(log, asked, wanted, limit, wait_s, page)
    return json_response(page.view())


def _check_of_lines(asked: Mapping[str, str]) -> None:
    """Refuse what only pages have.

    Raises:
        Problem: 422, lines have no limit, or do not wait.
    """
    for one in (LIMIT, WAIT):
        if one.name in asked:
            raise invalid(one.name, f"is of pages: {LINES} has all events that there are")


async def _awaited(
    log: EventLog,
    asked: Mapping[str, str],
    wanted: Wanted,
    limit: int,
    wait_s: int,
    page: Page,
) -> Page:
    """Return the next page with events, or the one that was reached when the time was over.

    Whoever waits looks when there is news of a shard, one after the other.
    """
    end_s = asyncio.get_running_loop().time() + wait_s
    async with log.awaited(page.growing) as news:
        while page.is_awaited:
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            if not await is_set_within(news, min(left_s, LOOK_S)):
                heads = await log.heads()
                if all(heads.get(shard, 0) <= page.reached[shard] for shard in page.growing):
                    continue
            async with log.looking:
                news.clear()
                after = {AFTER.name: sequence_text(page.reached)}
                page = await _page(log, {**asked, **after}, wanted, limit, has_waited=True)
    return page


async def _page(
    log: EventLog,
    asked: Mapping[str, str],
    wanted: Wanted,
    limit: int,
    *,
    has_waited: bool = False,
) -> Page:
    async with log.analyst.turn(has_waited=has_waited), log.connection() as connection:
        ranges = await ranges_of(connection, asked, log.shards)
        part = READ_MAX // max(1, len(ranges.spans))
        spans = {s: (after, min(end, after + part)) for s, (after, end) in ranges.spans.items()}
        found: list[Document] = []
        reached = {shard: end for shard, (_, end) in spans.items()}
        async with aclosing(replayed(connection, spans, wanted, lambda _: None)) as documents:
            async for document in documents:
                if len(found) == limit:
                    reached = _reached(spans, found)
                    break
                found.append(document)
    return Page(found, reached, ranges.ends, frozenset(ranges.growing))


def _reached(spans: Mapping[int, Span], found: list[Document]) -> dict[int, int]:
    """Return up to where each shard's events are on a page that is full."""
    reached = {shard: after for shard, (after, _) in spans.items()}
    return reached | {document["shard"]: document["position"] for document in found}
