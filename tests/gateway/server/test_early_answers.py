"""An answer that is given before its request was read, while the body is still coming.

Hypercorn queues ten pieces of a body that nobody reads, and then waits for ever. So each case sends
more pieces, with the head or after the answer. Afterwards no connection and no task may be left.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.server import edge
from exchange.gateway.server.edge import Edge
from tests.gateway.server.test_connections import LIVE, LONG_S, UPGRADE, Raw, connected, served

pytestmark = pytest.mark.anyio

JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = 300
CHUNK = b"28\r\n" + b"x" * 40 + b"\r\n"  # 12 kB in all: what a body may have
LARGE_CHUNK = b"400\r\n" + b"x" * 1024 + b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"

ANSWERS = {
    "/livez": None,
    "/nowhere": Code.ROUTE_NOT_FOUND,
    "/market/trades": Code.METHOD,
    "/orders": Code.RATE_LIMITED,
    "/instruments": Code.BUSY,
    "/crash": Code.INTERNAL,
}


async def answer_unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the path alone, as a router, a limit or a gateway that stops does."""
    code = ANSWERS[scope["path"]]
    problem = Problem(code or Code.INTERNAL, "Not read.")
    response = problem.response()
    response.status_code = response.status_code if code else 200
    await response(scope, receive, send)


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with served(Edge(answer_unread, Metrics(), {})) as client:
        yield client


def head(path: str, *lines: bytes, version: bytes = b"1.1") -> bytes:
    request_line = b"POST " + path.encode() + b" HTTP/" + version + b"\r\nHost: localhost\r\n"
    return request_line + b"".join(lines) + b"\r\n"


ENDING = {
    "two framings": (head("/orders", CHUNKED, b"Content-Length: 6\r\n"), CHUNK, 400),
    "HTTP/2.0": (head("/orders", CHUNKED, version=b"2.0"), CHUNK, 505),
    "too large": (head("/orders", CHUNKED), LARGE_CHUNK, 413),
    "too large, and says so": (head("/orders", b"Content-Length: 307200\r\n"), b"x" * 1024, 413),
}
STAYING = {
    "media type": (head("/orders", CHUNKED), 415),
    "coding": (head("/orders", CHUNKED, JSON, b"Content-Encoding: gzip\r\n"), 415),
    "origin": (head("/orders", CHUNKED, JSON, b"Origin: https://evil.example\r\n"), 403),
    "long URL": (head("/orders?" + "x" * 2048, CHUNKED, JSON), 414),
    "escape": (head("/orders?%FF", CHUNKED, JSON), 400),
    "headers": (head("/orders", CHUNKED, JSON, b"X: " + b"x" * 17_000 + b"\r\n"), 431),
    "twice": (head("/orders", CHUNKED, JSON, b"Content-Type: text/plain\r\n"), 422),
    "no path": (head("/nowhere", CHUNKED, JSON), 404),
    "method": (head("/market/trades", CHUNKED, JSON), 405),
    "limit": (head("/orders", CHUNKED, JSON), 429),
    "stopping": (head("/instruments", CHUNKED, JSON), 503),
    "crash": (head("/crash", CHUNKED, JSON), 500),
}


at_once_or_not = pytest.mark.parametrize("at_once", [True, False], ids=["at once", "slowly"])


@at_once_or_not
@pytest.mark.parametrize(("asked", "chunk", "status"), ENDING.values(), ids=ENDING.keys())
async def test_a_body_that_is_not_read_to_its_end_ends_the_connection(
    http: httpx.AsyncClient, asked: bytes, chunk: bytes, status: int, at_once: bool
) -> None:
    tasks = asyncio.all_tasks()
    async with connected(http) as raw:
        await send(raw, asked, chunk, at_once)
        raw.writer.write(LAST_CHUNK + LIVE)

        assert (await raw.answer())[0] == status
        assert await raw.rest() == b""
    await until_only(tasks)


@pytest.mark.parametrize(("asked", "chunk", "status"), list(ENDING.values())[:2])
async def test_a_body_with_two_readings_ends_the_connection_though_it_is_short(
    http: httpx.AsyncClient, asked: bytes, chunk: bytes, status: int
) -> None:
    async with connected(http) as raw:
        raw.writer.write(asked + chunk + LAST_CHUNK + LIVE)

        assert (await raw.answer())[0] == status
        assert await raw.rest() == b""


@at_once_or_not
@pytest.mark.parametrize(("asked", "status"), STAYING.values(), ids=STAYING.keys())
async def test_a_body_that_is_read_to_its_end_leaves_the_connection(
    http: httpx.AsyncClient, asked: bytes, status: int, at_once: bool
) -> None:
    tasks = asyncio.all_tasks()
    async with connected(http) as raw:
        await send(raw, asked, CHUNK, at_once)
        raw.writer.write(LAST_CHUNK + LIVE)

        assert [(await raw.answer())[0] for _ in range(2)] == [status, 200]
    await until_only(tasks)


@at_once_or_not
@pytest.mark.parametrize("asked", [head("/orders", CHUNKED, JSON), ENDING["two framings"][0]])
async def test_a_body_that_never_ends_is_answered_and_cut(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, asked: bytes, at_once: bool
) -> None:
    for bound in ("BODY_WAIT_S", "LINGER_S", "DRAIN_S"):
        monkeypatch.setattr(edge, bound, 0.05)
    tasks = asyncio.all_tasks()
    async with connected(http) as raw:
        await send(raw, asked, CHUNK, at_once)

        assert (await raw.answer())[0] in (400, 408)
        assert await raw.rest() == b""
    await until_only(tasks)


async def send(raw: Raw, asked: bytes, chunk: bytes, at_once: bool) -> None:
    """Send a head and a body but for its end; if not at once, then in many pieces."""
    if at_once:
        raw.writer.write(asked + CHUNKS * chunk)
        return
    raw.writer.write(asked)
    for _ in range(CHUNKS):
        await asyncio.sleep(0)  # a gateway in this process reads
        raw.writer.write(chunk)


async def close_unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Close a stream, or crash, with more messages waiting than are queued."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(0.1)
    if scope["path"] == "/crash":
        raise RuntimeError("not foreseen")
    await send({"type": "websocket.close", "code": 1013})


@pytest.mark.parametrize("path", ["/stream", "/crash"])
@pytest.mark.parametrize("frames", [9, 200])
async def test_a_stream_that_is_not_read_to_its_end_is_closed(path: str, frames: int) -> None:
    async with served(close_unread) as client:
        tasks = asyncio.all_tasks()
        upgrade = UPGRADE.replace(b"/stream", path.encode()) + b"\r\n"
        async with connected(client, upgrade) as raw:
            assert (await raw.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            raw.writer.write(b"\x81\x85\0\0\0\0hello" * frames)

            assert (await raw.rest())[:1] == b"\x88"  # a Close frame
        await until_only(tasks)


async def until_only(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until no connection has a task any more, beside those that there were."""
    async with asyncio.timeout(LONG_S):
        while asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.001)
