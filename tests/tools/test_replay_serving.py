"""``exchange replay --serve``: clients of the live stream follow history, and steer it."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection

from exchange.analyst.events import Span
from exchange.cli import app
from exchange.client import AsyncClient, Book, Following, Replayed, connected
from exchange.client.messages import BookTold
from exchange.gateway.http.problems import Problem
from exchange.gateway.stream import outbox
from exchange.gateway.stream.protocol.messages import CONTROLS, decode_message
from exchange.log.documents.text import timestamp
from exchange.ports import StoredEvent
from exchange.tools.analysts.serving import server, timeline
from exchange.tools.analysts.serving.server import Replay
from exchange.tools.analysts.serving.timeline import MaxSpeed
from exchange.tools.market.tape import show_following
from exchange.tools.telling import told
from exchange.tools.terminal import ToolError
from tests.conftest import free_ports
from tests.projections.folds import fold_book
from tests.projections.logs import OFFSET_MS, START_MS, LogWriter, registrations
from tests.subscribers import FollowerOfAll

pytestmark = pytest.mark.anyio

INSTRUMENT = "SMALL-0"  # with a price scale of 2 and a quantity scale of 3
WAIT_S = 60.0  # a busy machine may take long
Message = dict[str, Any]


class Client:
    """A connection that reads messages one by one."""

    def __init__(self, socket: ClientConnection, hello: Message) -> None:
        self.socket = socket
        self.hello = hello
        self.passed: list[Message] = []  # messages that were read while another was awaited

    async def next(self) -> Message:
        async with asyncio.timeout(WAIT_S):
            return read(await self.socket.recv(decode=False))

    async def until(self, kind: str) -> Message:
        """Return the next message of a type; keep those before it."""
        while (message := await self.next())["type"] != kind:
            assert message["type"] != "error", message
            self.passed.append(message)
        return message

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def ask(self, answer: str, **message: Any) -> Message:
        await self.send(**message)
        return await self.until(answer)

    async def subscribe(self, *channels: str) -> Message:
        return await self.ask(
            "subscribed", type="subscribe", channels=channels, instrument=INSTRUMENT
        )


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    async with connected(url.replace("http", "ws") + "/stream", compression=None) as socket:
        yield Client(socket, read(await socket.recv(decode=False)))


def read(text: bytes) -> Message:
    """Read a message without rounding its numbers."""
    message: Message = json.loads(text, parse_float=Decimal)
    return message


def book_told(
    messages: Sequence[Message], book: Book | None = None, *, instrument: str = INSTRUMENT
) -> Book:
    """Return the book that some messages tell, after those that it was told already."""
    book = book or Book(instrument)
    for message in messages:
        if (message["type"], message.get("instrument")) == ("orderbook", instrument):
            book.take(msgspec.convert(message, BookTold))
    return book


async def follow_to_the_end(url: str) -> Book:
    """Return the book when all of a replay was told."""
    following = Following(INSTRUMENT, "orderbook")
    async with AsyncClient(url) as client, client.follow(following) as updates:
        async for update in updates:
            if isinstance(update, Replayed):
                break
    return following.book


@asynccontextmanager
async def served(
    database_url: str, spans: dict[int, Span], speed: int | MaxSpeed, *, paused: bool = False
) -> AsyncIterator[str]:
    """Serve a replay; yield its address."""
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", connect_args={"ssl": False})
    (port,) = free_ports(1)
    try:
        async with Replay(engine, spans, speed=speed, paused=paused).served(port):
            yield f"http://127.0.0.1:{port}"
    finally:
        await engine.dispose()


@pytest.fixture
async def events(database_url: str, monkeypatch: pytest.MonkeyPatch) -> list[StoredEvent]:
    """Write a log of one shard."""
    monkeypatch.setenv("ANALYTICS_DATABASE_URL", database_url)
    async with LogWriter.open(database_url) as writer:
        return [
            *await writer.append(registrations(0)),
            *await writer.append_random(random.Random(7), 120),
        ]


def recorded_book(events: Sequence[StoredEvent]) -> dict[str, dict[Decimal, Decimal]]:
    sides = fold_book(events).get(INSTRUMENT, {"bids": [], "asks": []})
    return {
        side: {Decimal(p).scaleb(-2): Decimal(q).scaleb(-3) for p, q in levels}
        for side, levels in sides.items()
    }


def recorded_trades(events: Sequence[StoredEvent]) -> list[int]:
    return [e.position for e in events if (e.type, e.instrument) == ("TradeExecuted", INSTRUMENT)]


def time_of(event: StoredEvent) -> int:
    time_ms: int = json.loads(event.data)["time_ms"]
    return time_ms


async def test_clients_of_the_live_stream_follow_history_at_ten_times_its_pace(
    database_url: str, events: list[StoredEvent]
) -> None:
    end = len(events)
    begin = next(e.position for e in events if time_of(e) > time_of(events[-1]) - 10_000)
    shown: list[int] = []
    tape = Following(INSTRUMENT, "trades", after=begin)
    async with served(database_url, {0: (begin, end)}, 10) as url, client_of(url) as client:
        replay = client.hello["replay"]
        assert (replay["state"], replay["speed"]) == ("waiting", 10)
        assert (replay["from"], replay["to"]) == ({"0": begin}, {"0": end})

        following = asyncio.create_task(follow_to_the_end(url))
        printing = asyncio.create_task(
            show_following(url, tape, lambda one: shown.append(one.sequence), lambda _: None)
        )
        began_s = time.monotonic()
        await client.subscribe("orderbook", "trades", "ticker")
        ended = await client.until("replayed")
        book = await asyncio.wait_for(following, WAIT_S)
        printing.cancel()

    history_s = (time_of(events[-1]) - time_of(events[begin])) / 1000
    assert time.monotonic() - began_s >= history_s / 10
    assert ended["replay"]["state"] == "ended"
    assert ended["replay"]["positions"] == {"0": end}
    assert ended["replay"]["time"] == timestamp(time_of(events[-1]))
    assert book_told(client.passed).sides == book.sides == recorded_book(events)
    assert shown == recorded_trades(events[begin:])
    told = [t["sequence"] for m in client.passed if m["type"] == "trades" for t in m["trades"]]
    assert told == shown


async def test_a_paused_and_resumed_subscriber_misses_nothing(
    database_url: str, events: list[StoredEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it too slow at the highest speed, however small its queue is: the replay waits."""
    monkeypatch.setattr(timeline, "CHUNK_EVENTS", 1)
    monkeypatch.setattr(outbox, "ROOM_FRAMES", 2)
    monkeypatch.setattr(outbox, "QUEUE_FRAMES_MAX", 12)
    follower = FollowerOfAll(0, [], INSTRUMENT)
    begin = len(registrations(0))
    async with served(database_url, {0: (begin, len(events))}, 20) as url, client_of(url) as client:
        await follower._subscribe(client.socket)
        while len(follower.trades) < 3:
            follower.take(await client.next())

        client.passed.clear()
        halted = (await client.ask("replay", type="pause", id="p"))["replay"]
        assert halted["state"] == "paused"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await client.until("trades")
        assert {
            m["type"] for m in client.passed if m.get("sequence", 0) > halted["positions"]["0"]
        } == set()
        await client.send(type="speed", speed="max")
        await client.send(type="resume")
        await client.until("replayed")

    for message in client.passed:
        follower.take(message)
    assert [t["sequence"] for t in follower.trades] == recorded_trades(events)
    of_orders = ("OrderAccepted", "OrderRejected", "OrderRested", "TradeExecuted", "OrderCancelled")
    assert sorted(set(follower.orders)) == [
        e.position for e in events if e.instrument == INSTRUMENT and e.type in of_orders
    ]
    exact = {side: dict(levels) for side, levels in follower.book.items()}
    assert exact == recorded_book(events)


async def test_a_replay_steps_and_seeks_and_begins_again_with_a_snapshot(
    database_url: str, events: list[StoredEvent]
) -> None:
    end = len(events)
    spans = {0: (0, end)}
    async with served(database_url, spans, 1, paused=True) as url, client_of(url) as client:
        await client.subscribe("orderbook", "ticker")
        stepped = await client.ask("replay", type="step", events=50, id="s")
        assert stepped["id"] == "s"
        assert stepped["replay"]["positions"] == {"0": 50}
        assert book_told(client.passed).sides == recorded_book(events[:50])

        for to, position in (
            ("0:20", 20),
            (f"0:{end - 5}", end - 5),
            (timestamp(START_MS + 30 * OFFSET_MS), None),
        ):
            client.passed.clear()
            moved = (await client.ask("replay", type="seek", to=to))["replay"]
            at = moved["positions"]["0"]
            assert position in (None, at)
            assert moved["state"] == "paused"
            kinds = [m["type"] for m in client.passed if m["type"] != "heartbeat"]
            assert kinds == ["subscribed", "orderbook", "ticker"]
            assert [m["sequence"] for m in client.passed if "sequence" in m] == [at, at, at]
            book = book_told(client.passed)
            assert book.sides == recorded_book(events[:at])

        await client.send(type="step", events=10_000)
        client.passed.clear()
        await client.until("replayed")
        assert book_told(client.passed, book).sides == recorded_book(events)


async def test_a_replay_takes_no_orders_and_says_what_is_wrong_with_a_message(
    database_url: str, events: list[StoredEvent]
) -> None:
    order = {"client_id": "ann", "instrument": INSTRUMENT, "side": "buy", "quantity": 1, "price": 1}
    refused: list[tuple[Message, str]] = [
        ({"type": "limit", **order}, "replay.read_only"),
        ({"type": "cancel", "order_id": "x"}, "replay.read_only"),
        ({"type": "batch", "entries": [{}]}, "replay.read_only"),
        ({"type": "step", "events": 0}, "request.invalid"),
        ({"type": "speed", "speed": 0}, "request.invalid"),
        ({"type": "speed", "speed": "fast"}, "request.invalid"),
        ({"type": "seek", "to": "yesterday"}, "request.invalid"),
        ({"type": "seek", "to": f"0:{len(events) + 1}"}, "request.invalid"),
        ({"type": "seek", "to": "0:3"}, "request.invalid"),
        ({"type": "rewind"}, "stream.unknown_type"),
    ]
    async with served(database_url, {0: (10, len(events))}, 1) as url, client_of(url) as client:
        for message, code in refused:
            answer = await client.ask("error", **message, id="1")
            assert (answer["code"], answer["id"]) == (code, "1"), message
        lost = await client.ask("error", type="seek", to="nonsense", id="1")
        assert lost["detail"].startswith("to: nonsense is no ISO 8601 time with a date, such")
        for asked, told in (
            ({"type": "speed", "speed": 0}, "speed: must be a whole number, at least 1"),
            ({"type": "step", "events": 10_001}, "events: must be a whole number, at most 10,000"),
        ):
            assert (await client.ask("error", **asked, id="1"))["detail"] == told
        assert (await client.ask("error", type="step", id=7))["id"] == "7"
        assert (await client.ask("pong", type="ping"))["type"] == "pong"
        async with httpx.AsyncClient(base_url=url) as http:
            placed = await http.post("/orders", json=order)
            cancelled = await http.delete("/orders/x")
            assert (await http.get("/orders")).json()["code"] == "request.path_not_found"
        for refusal in (placed, cancelled):
            assert (refusal.status_code, refusal.json()["code"]) == (409, "replay.read_only")
    for kind in CONTROLS:
        with pytest.raises(Problem, match="Known types are authenticate, batch, cancel"):
            decode_message(json.dumps({"type": kind}).encode())


async def test_no_rate_is_told_of_a_replay_that_does_not_play(database_url: str) -> None:
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url)
    line = timeline.Timeline(engine, {0: 0}, {0: 100}, speed=1, paused=True)

    assert told(server._far(line, 1.0)) == "Paused: 0%, 0 of 100 events"

    await engine.dispose()


async def test_the_command_serves_until_it_is_interrupted(events: list[StoredEvent]) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "exchange", "replay", "--serve", str(port), "--speed", "max"]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    try:
        async with asyncio.timeout(WAIT_S):
            book = await follow_to_the_end(f"http://127.0.0.1:{port}")
        assert book.sides == recorded_book(events)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), WAIT_S)
    told = said.decode()
    assert process.returncode == 0, told
    assert told.startswith(f"Starting a replay at ws://127.0.0.1:{port}/stream")
    assert f"Replaying at ws://127.0.0.1:{port}/stream" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("events")
async def test_what_makes_no_sense_together_is_refused() -> None:
    async def run(*arguments: str) -> Any:
        command = ["replay", *arguments]
        return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, command))

    assert "--speed belongs to --serve" in (await run("--speed", "max")).output
    assert "takes no filter" in (await run("--serve", "1", "--client", "ann")).output
    assert (
        "--json belongs to a replay that is printed" in (await run("--serve", "1", "--json")).output
    )
    assert "is not a whole number" in (await run("--serve", "1", "--speed", "0.5")).output
    gone = await run("--serve", "1", "--to", "2100-01-01")
    assert isinstance(gone.exception, ToolError), gone.output
