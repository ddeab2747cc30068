"""``GET /events``: the log's events in pages, as lines, and as they come.

Read ``get_events``. A page ends at ``next``, with which the next one is asked for; it is the same
page whenever it is asked for again. A question that finds nothing may wait for what comes. Who
wants much takes lines, which are sent as fast as they are read, of the log as it was then.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from exchange.analyst.asking import Analyst, answering_all, check_one
from exchange.analyst.events import TYPES, Document, Span, Wanted, replayed
from exchange.domain.values import Id
from exchange.gateway.http.declaration import PAGING, Operation, operation
from exchange.gateway.http.parameters import Parameter, Sequences, Time, WholeNumber
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import check_id, header_lines, integer, moment_ms, query
from exchange.gateway.http.responses import encoder, json_response, sequence_text
from exchange.gateway.parts.reading import positions_of
from exchange.log.moments import position_at
from exchange.log.reader import read_heads
from exchange.waiting import is_set_within
from projections.stores.postgres import driver_connection

LINES: Final = "application/x-ndjson"
READ_MAX: Final = 50_000  # events of a page that are looked at: some 0.2 s of a processor
WAITING_MAX: Final = 200  # each is a connection and a task
STREAMS_MAX: Final = 2  # each holds a connection to the database as long as its client reads
LOOK_S: Final = 1.0  # a notification may be lost
CHUNK_LINES: Final = 100

LIMIT: Final = limit_of(100, 1_000, "events")
WAIT: Final = WholeNumber(
    name="wait_s", meaning="how long to wait for an event", default=0, least=0, most=30
)
SHARD: Final = Parameter("shard", int, "only events of this shard")
AFTER: Final = Parameter("after", Sequences, "only events after these positions: next of a page")
AFTER_TIME: Final = Parameter("after_time", Time, "only events after this time")
UP_TO_TIME: Final = Parameter("up_to_time", Time, "only events at or before this time")
INSTRUMENT: Final = Parameter("instrument", Id, "only events of this instrument")
TYPE: Final = Parameter("type", str, "only events of this type", example="TradeExecuted")
CLIENT: Final = Parameter("client_id", Id, "only events that name this client")
ORDER: Final = Parameter("order_id", Id, "only events that name this order")
NAMES: Final = (INSTRUMENT, CLIENT, ORDER)


class EventsView(Struct, frozen=True):
    """What ``GET /events`` answers; ``sequence`` has the heads, so there is more if they differ."""

    events: list[Document]
    count: int
    next: str
    sequence: str


class News:
    """Wakes the questions that wait for the next event."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def wake(self, _shard: int) -> None:
        """Let all look again."""
        for one in self._waiting:
            one.set()

    @asynccontextmanager
    async def awaited(self) -> AsyncIterator[asyncio.Event]:
        """Lend an event that is set when there may be something new.

        Raises:
            Problem: 503, too many others wait.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Problem(Code.BUSY, "Too many wait for events here; try again.")
        news = asyncio.Event()
        self._waiting.add(news)
        try:
            yield news
        finally:
            self._waiting.discard(news)


class EventLog:
    """What the questions about events share."""

    def __init__(self, engine: AsyncEngine, analyst: Analyst) -> None:
        self.engine, self.analyst = engine, analyst
        self.news = News()
        self.streams = 0


@operation(
    Operation(
        tag="analysts",
        query=(LIMIT, WAIT, SHARD, AFTER, AFTER_TIME, UP_TO_TIME, TYPE, *NAMES),
        answers={200: (EventsView,)},
        problems=PAGING,
    )
)
async def get_events(request: Request) -> Response:
    """``GET /events``: by shard and position; lines if ``application/x-ndjson`` is accepted."""
    log: EventLog = request.app.state.events
    asked = query(request)
    limit, wait_s, wanted = integer(asked, LIMIT), integer(asked, WAIT), _wanted(asked)
    if LINES in ",".join(header_lines(request, b"accept")):
        return await _lines(log, asked, wanted)
    async with log.news.awaited() as news:
        page = await _page(log, asked, wanted, limit)
        end_s = asyncio.get_running_loop().time() + wait_s
        while not page.events and page.next == page.sequence:
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            await is_set_within(news, min(left_s, LOOK_S))
            news.clear()
            page = await _page(log, asked, wanted, limit)
    return json_response(page)


async def _page(log: EventLog, asked: Mapping[str, str], wanted: Wanted, limit: int) -> EventsView:
    async with log.analyst.turn(), _connection(log) as connection:
        heads = await read_heads(connection)
        spans = await _spans(connection, asked, heads)
        part = READ_MAX // max(1, len(spans))
        spans = {s: (after, min(end, after + part)) for s, (after, end) in spans.items()}
        found: list[Document] = []
        reached = {shard: end for shard, (_, end) in spans.items()}
        async for document in replayed(connection, spans, wanted, lambda _: None):
            if len(found) == limit:
                reached = _reached(spans, found)
                break
            found.append(document)
    shown = {shard: heads[shard] for shard in spans}
    return EventsView(found, len(found), sequence_text(reached), sequence_text(shown))


def _reached(spans: Mapping[int, Span], found: list[Document]) -> dict[int, int]:
    """Return up to where each shard's events are on a page that is full."""
    reached = {shard: after for shard, (after, _) in spans.items()}
    return reached | {document["shard"]: document["position"] for document in found}


async def _lines(log: EventLog, asked: Mapping[str, str], wanted: Wanted) -> Response:
    if log.streams >= STREAMS_MAX:
        raise Problem(Code.BUSY, "Too many take lines of events here; try again.")
    async with _connection(log) as connection:
        spans = await _spans(connection, asked, await read_heads(connection))

    async def lines() -> AsyncIterator[bytes]:
        # A client that leaves or does not read ends this; an error cuts the answer off.
        log.streams += 1  # here, as it is never begun for a client that is gone already
        try:
            async with driver_connection(log.engine) as connection:
                some: list[bytes] = []
                async for document in replayed(connection, spans, wanted, lambda _: None):
                    some.append(encoder.encode(document))
                    if len(some) == CHUNK_LINES:
                        yield b"\n".join(some) + b"\n"
                        some.clear()
                if some:
                    yield b"\n".join(some) + b"\n"
        finally:
            log.streams -= 1

    return StreamingResponse(lines(), media_type=LINES)


@asynccontextmanager
async def _connection(log: EventLog) -> AsyncIterator[asyncpg.Connection]:
    with answering_all():
        async with driver_connection(log.engine) as connection:
            yield connection


def _wanted(asked: Mapping[str, str]) -> Wanted:
    for parameter in NAMES:
        if parameter.name in asked:
            check_id(asked[parameter.name], parameter.name)
    check_one(asked, TYPE.name, TYPES)
    return Wanted(*(asked.get(one.name) for one in (INSTRUMENT, CLIENT, ORDER, TYPE)))


async def _spans(
    connection: asyncpg.Connection, asked: Mapping[str, str], heads: Mapping[int, int]
) -> dict[int, Span]:
    """Return which events of each shard are asked for."""
    check_one(asked, SHARD.name, list(map(str, sorted(heads))))
    after = positions_of(asked.get(AFTER.name), max(heads, default=0) + 1, AFTER.name)
    since_ms, until_ms = moment_ms(asked, AFTER_TIME.name), moment_ms(asked, UP_TO_TIME.name)
    spans = {}
    for shard, head in sorted(heads.items()):
        if asked.get(SHARD.name, str(shard)) != str(shard):
            continue
        begin, end = after.get(shard, 0), head
        if begin > head:
            raise invalid(AFTER.name, f"shard {shard} ends at {head}")
        if since_ms is not None:
            begin = max(begin, await position_at(connection, shard, since_ms, head))
        if until_ms is not None:
            end = await position_at(connection, shard, until_ms, head)
        spans[shard] = (min(begin, end), end)
    return spans
