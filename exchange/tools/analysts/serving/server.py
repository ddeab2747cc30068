"""A replay on a port of this machine, and how far it is in the terminal."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

import asyncpg
import typer
from msgspec import Struct
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from exchange.analyst.events import Span
from exchange.config import LOOPBACK, Settings
from exchange.gateway.http.addresses import Network
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import Freshness, loaded, log_connection
from exchange.gateway.server.edge import Edge
from exchange.gateway.server.refusals import exception_handlers
from exchange.gateway.server.server import Caps, Server
from exchange.gateway.stream.endpoint import Stream, refuse_plain_request
from exchange.gateway.stream.protocol.messages import SPEED_MAX
from exchange.log.reader import read_registrations
from exchange.ports import LogCorrupt
from exchange.processes.pool import engine_of
from exchange.processes.running import serve_until_stopped
from exchange.tools.analysts.replay_page import spans_of
from exchange.tools.analysts.serving.desk import ReplayDesk, ReplayHub, read_only
from exchange.tools.analysts.serving.past import Past
from exchange.tools.analysts.serving.timeline import MaxSpeed, Timeline
from exchange.tools.analysts.serving.trades import get_trades
from exchange.tools.telling import EVENTS, Display, Far
from exchange.tools.terminal import ToolError, connect
from exchange.waiting import any_set

POOL_MAX: Final = 8  # the time line, a fold, orders, two readers of history, a seek, and two more
GRACE_S: Final = 1.0  # for what is under way when it is told to stop
SHOW_EVERY_S: Final = 0.5
STEP: Final = "step"
PLAIN: Final = (
    Route("/market/trades", get_trades, methods=["GET"]),
    Route("/stream", refuse_plain_request, methods=["GET"]),
)
HANDLERS: Final = exception_handlers(PLAIN)
READS: Final = ("GET", "HEAD", "OPTIONS")
NUMBER: Final = re.compile(r"[1-9][0-9]{0,6}")


class Host(Struct, frozen=True):
    """What connections need of this process."""

    listings: Listings
    metrics: Metrics
    proxies: Sequence[Network] = ()


class Replay:
    """A replay of ``spans`` to whoever connects to its ``app``."""

    def __init__(
        self,
        engine: AsyncEngine,
        spans: Mapping[int, Span],
        *,
        speed: int | MaxSpeed,
        paused: bool,
        origins: Sequence[str] = (),
    ) -> None:
        begins = {shard: begin for shard, (begin, _) in spans.items()}
        ends = {shard: end for shard, (_, end) in spans.items()}
        self.timeline = Timeline(engine, begins, ends, speed=speed, paused=paused)
        past, freshness = Past(engine, self.timeline), Freshness(engine)
        hub = ReplayHub(engine, freshness, past, self.timeline)
        desk = ReplayDesk(engine, self.timeline, hub, lambda: self.stream.sessions)
        self.timeline.connect(lambda: hub.is_followed, desk.settled, desk.end)
        self._engine, self._listings = engine, Listings(engine)
        host = Host(self._listings, Metrics())
        self.stream = Stream(host, hub, desk, origins)
        app = Starlette(
            routes=[*PLAIN, WebSocketRoute("/stream", self.stream.connect)],
            exception_handlers={**HANDLERS, HTTPException: _nothing_there},
        )
        app.router.redirect_slashes = False
        app.state.listings, app.state.past, app.state.freshness = self._listings, past, freshness
        self.app = Edge(app, host.metrics, {one.endpoint: one.path for one in PLAIN}, origins)

    @asynccontextmanager
    async def served(self, port: int) -> AsyncIterator[asyncio.Task[None]]:
        """Serve on ``port`` until the context ends; lend the task of the time line.

        Raises:
            OSError: The port is taken.
            Problem: 503, the log cannot be read.
        """
        for shard, end in self.timeline.ends.items():
            async with log_connection(self._engine) as connection:
                self._listings.learn(loaded(await read_registrations(connection, shard, up_to=end)))
        server = Server(self.app, LOOPBACK, port, GRACE_S, Caps())
        tasks = [
            asyncio.create_task(self.timeline.run(), name="time line"),
            asyncio.create_task(self.stream.beat(), name="heartbeats"),
        ]
        try:
            async with server.serving():
                try:
                    yield tasks[0]
                finally:
                    await self.stream.close(GRACE_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _nothing_there(request: Request, error: Exception) -> Response:
    """Answer orders, whatever their path is, as the stream does."""
    assert isinstance(error, HTTPException)
    if error.status_code == Code.ROUTE_NOT_FOUND.status and request.method not in READS:
        return read_only().response()
    return await HANDLERS[HTTPException](request, error)


def show_serving(begin: str, to: str, shard: int | None, port: int, told_speed: str) -> None:
    """Serve the events after one moment up to another, until interrupted.

    Raises:
        ToolError: A moment is not there, the port is taken, or the log cannot be read.
    """
    speed, paused = _speed_of(told_speed), told_speed == STEP
    settings = Settings.load()
    database = replace(settings, database_url=settings.analytics_database_url)

    starting = f"Starting a replay at ws://{LOOPBACK}:{port}/stream; it answers once it says so."
    Console(stderr=True).print(starting, highlight=False, soft_wrap=True)
    spans = asyncio.run(_spans(database, begin, to, shard))

    async def work(stopping: asyncio.Event) -> None:
        async with engine_of(database, POOL_MAX) as engine:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
            origins = settings.stream_origins
            replay = Replay(engine, spans, speed=speed, paused=paused, origins=origins)
            await _serve(replay, port, stopping)

    serve_until_stopped(work)


def _speed_of(text: str) -> int | MaxSpeed:
    if text == "max":
        return "max"
    if text == STEP:
        return 1
    if not NUMBER.fullmatch(text) or int(text) > SPEED_MAX:
        known = f"a whole number from 1 to {SPEED_MAX:,}, max or {STEP}"
        raise typer.BadParameter(f"--speed {text} is not {known}.")
    return int(text)


async def _spans(settings: Settings, begin: str, to: str, shard: int | None) -> dict[int, Span]:
    connection = await connect(settings.database_url)
    try:
        return await spans_of(connection, begin, to, shard)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ToolError(f"The log cannot be read: {error}") from error
    finally:
        await connection.close()


async def _serve(replay: Replay, port: int, stopping: asyncio.Event) -> None:
    console = Console(stderr=True)
    try:
        async with replay.served(port) as running:
            console.print(f"Replaying at ws://{LOOPBACK}:{port}/stream, until Ctrl-C.")
            failed = asyncio.Event()
            running.add_done_callback(lambda _: failed.set())
            with Display(console, EVENTS) as display:
                showing = asyncio.create_task(_show(replay.timeline, display))
                await any_set(stopping, failed)
                showing.cancel()
                with suppress(asyncio.CancelledError):
                    await showing
            if running.done():
                running.result()
    except (Problem, LogCorrupt) as error:
        raise ToolError(f"The replay ends here: {error}") from error
    except OSError as error:
        raise ToolError(f"Port {port} cannot be listened on: {error}.") from error


async def _show(timeline: Timeline, display: Display) -> None:
    """Show how far a replay is; its rate is that of the last ``SHOW_EVERY_S``."""
    told, at_s = timeline.told, time.monotonic()
    while True:
        await asyncio.sleep(SHOW_EVERY_S)
        now_s = time.monotonic()
        rate = max(0, timeline.told - told) / (now_s - at_s)
        told, at_s = timeline.told, now_s
        display.show(_far(timeline, rate))


def _far(timeline: Timeline, rate: float) -> Far:
    """Return how far a replay is; of one that does not play nobody knows when it ends."""
    told, whole = timeline.told, timeline.whole
    if timeline.state != "playing" or not rate:
        return Far(_state(timeline), told, whole)
    return Far(_state(timeline), told, whole, rate, (whole - told) / rate)


def _state(timeline: Timeline) -> str:
    match timeline.state:
        case "waiting":
            return "Waiting for a subscriber"
        case "playing":
            speed = timeline.speed
            return "Replaying" if speed == "max" else f"Replaying at {speed}x"
        case "paused":
            return "Paused"
        case "ended":
            return "Ended"
