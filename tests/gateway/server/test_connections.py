"""Connections as no client library makes them: half requests, trailing bytes, nothing read, no end.

Each test is about one behaviour that ``connection`` changes in the libraries below it, seen from a
raw socket. So a release of theirs with another behaviour is noticed here.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import ip_network
from typing import Any

import httpx
import psutil
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from exchange.gateway.app import CAPS
from exchange.gateway.server import connection
from exchange.gateway.server.server import Caps, Server
from tests.conftest import free_ports
from tests.gateway.conftest import HOST, Venue, gateway_at, order

pytestmark = pytest.mark.anyio

LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
WAIT = LIVE.replace(b"/livez", b"/wait")
POST_HALF = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"
LONG_S = 15.0  # for what takes milliseconds on an idle machine


class Raw:
    """A raw connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and the body of the next answer."""
        async with asyncio.timeout(LONG_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            return int(head.split(b" ")[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Return what comes until the gateway ends the connection."""
        async with asyncio.timeout(LONG_S):
            return await self.reader.read()


@asynccontextmanager
async def connected(http: httpx.AsyncClient, *sent: bytes) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    try:
        writer.write(b"".join(sent))
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def served(
    app: ASGIApp, caps: Caps = CAPS, grace_s: float = LONG_S
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve any application, and lend a client of it."""
    (port,) = free_ports(1)
    async with (
        Server(app, HOST, port, grace_s, caps).serving(),
        httpx.AsyncClient(base_url=f"http://{HOST}:{port}", verify=False) as client,
    ):
        yield client


def post(path: str, body: dict[str, Any], *headers: str, version: str = "1.1") -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: localhost",
        "Content-Type: application/json",
        *headers,
    ]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
    return head.encode() + content


def sockets_of(http: httpx.AsyncClient) -> int:
    """Return how many descriptors the gateway has for its connections, closed ones as well."""
    port = http.base_url.port
    connections = psutil.Process().net_connections("tcp")
    return len([c for c in connections if c.laddr.port == port and c.status != psutil.CONN_LISTEN])


async def until_sockets(http: httpx.AsyncClient, count: int) -> None:
    """Wait until the gateway has so few descriptors for connections."""
    async with asyncio.timeout(LONG_S):
        while sockets_of(http) > count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", LIVE], ids=["nothing", "a request"])
async def test_an_idle_connection_that_its_client_closes_is_gone(
    http: httpx.AsyncClient, sent: bytes
) -> None:
    before = sockets_of(http)
    async with AsyncExitStack() as opened:
        for _ in range(20):
            raw = await opened.enter_async_context(connected(http, sent))
            if sent:
                assert (await raw.answer())[0] == 200
            raw.writer.close()
            await raw.writer.wait_closed()

    await until_sockets(http, before)


async def test_a_half_closed_connection_is_answered_and_gone(
    http: httpx.AsyncClient, instrument: str
) -> None:
    async with connected(http, post("/orders", order(instrument)), LIVE) as raw:
        raw.writer.write_eof()

        assert (await raw.answer())[0] == 201
        assert (await raw.answer())[0] == 200
        assert await raw.rest() == b""


@pytest.mark.parametrize("trailing", [b"\r\n", b"x", LIVE], ids=["blank", "garbage", "request"])
@pytest.mark.parametrize("ending", ["Connection: close", "HTTP/1.0"])
async def test_what_follows_the_last_request_of_a_connection_is_ignored(
    http: httpx.AsyncClient, instrument: str, ending: str, trailing: bytes
) -> None:
    if ending == "HTTP/1.0":
        request = post("/orders", order(instrument), version="1.0")
    else:
        request = post("/orders", order(instrument), ending)
    async with connected(http, request, trailing) as raw:
        status, body = await raw.answer()

        assert (status, json.loads(body)["order"]["status"]) == (201, "open")
        assert await raw.rest() == b""


async def test_what_arrives_after_the_last_request_does_not_cost_its_answer(
    http: httpx.AsyncClient, instrument: str
) -> None:
    async with connected(http, post("/orders", order(instrument), "Connection: close")) as raw:
        for _ in range(20):
            raw.writer.write(b"more")
            await asyncio.sleep(0)

        assert (await raw.answer())[0] == 201
        assert await raw.rest() == b""


async def test_garbage_behind_a_request_gets_no_answer_that_could_be_the_next_one_s(
    http: httpx.AsyncClient, instrument: str
) -> None:
    async with connected(http, post("/orders", order(instrument)), b"x\r\n\r\n") as raw:
        assert (await raw.answer())[0] == 201
        assert await raw.rest() == b""


async def test_a_later_request_that_is_none_is_told_so(http: httpx.AsyncClient) -> None:
    async with connected(http, LIVE) as raw:
        assert (await raw.answer())[0] == 200
        raw.writer.write(b"GET /livez HTTP/1.1\r\n\r\n")  # no host

        assert (await raw.answer())[0] == 400
        assert await raw.rest() == b""


async def test_requests_sent_at_once_are_answered_in_turn(
    http: httpx.AsyncClient, instrument: str
) -> None:
    async with connected(http, LIVE, post("/orders", order(instrument)), LIVE) as raw:
        assert [(await raw.answer())[0] for _ in range(3)] == [200, 201, 200]


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b"\r\n" * 100])
async def test_blank_lines_before_a_request_are_passed_over(
    http: httpx.AsyncClient, instrument: str, blank: bytes
) -> None:
    request = post("/orders", order(instrument))
    async with connected(http, blank, request, blank, LIVE) as raw:
        assert (await raw.answer())[0] == 201
        assert (await raw.answer())[0] == 200


async def test_a_blank_line_may_come_in_two_pieces(http: httpx.AsyncClient) -> None:
    async with connected(http, LIVE) as raw:
        assert (await raw.answer())[0] == 200
        for piece in (b"\r", b"\n", LIVE):
            raw.writer.write(piece)
            await asyncio.sleep(0.02)

        assert (await raw.answer())[0] == 200


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET http://gw.localhost:3000/livez HTTP/1.1", 200),
        ("GET HTTPS://user@gw.localhost/livez HTTP/1.1", 200),
        ("GET http://gw.localhost/instruments?limit=1&limit=2 HTTP/1.1", 422),
        ("GET http://gw.localhost HTTP/1.1", 200),
        ("GET http://gw.localhost?x HTTP/1.1", 200),
        ("GET ftp://gw/livez HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 204),
        ("OPTIONS http://gw.localhost HTTP/1.1", 204),
        ("GET * HTTP/1.1", 404),
        ("CONNECT gw:80 HTTP/1.1", 404),
    ],
)
async def test_a_target_may_be_a_whole_url(
    http: httpx.AsyncClient, request_line: str, status: int
) -> None:
    async with connected(http, request_line.encode(), b"\r\nHost: localhost\r\n\r\n") as raw:
        assert (await raw.answer())[0] == status


async def test_a_whole_url_takes_orders_and_its_host_counts(
    http: httpx.AsyncClient, instrument: str
) -> None:
    async with connected(http, post("http://gw.localhost/orders", order(instrument))) as raw:
        assert (await raw.answer())[0] == 201
    upgrade = (
        UPGRADE.replace(b"/stream", b"ws://127.0.0.9/stream") + b"Origin: http://127.0.0.9\r\n\r\n"
    )
    async with connected(http, upgrade) as raw:
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 101 ")


async def test_several_connection_headers_are_one_list(http: httpx.AsyncClient) -> None:
    async with connected(http, UPGRADE, b"Connection: keep-alive\r\n\r\n") as raw:
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "header",
    ["Connection", "Cookie", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "User-Agent"],
)
async def test_a_handshake_may_have_bytes_beyond_ascii(
    http: httpx.AsyncClient, header: str
) -> None:
    async with connected(http, UPGRADE, header.encode() + b": a, \xff\r\n\r\n") as raw:
        assert (await raw.answer())[0] == 101


@pytest.mark.parametrize(
    "header",
    ["Host", "Origin", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Upgrade", "X-Forwarded-For"],
)
async def test_no_byte_in_a_handshake_leaves_it_without_an_answer(
    http: httpx.AsyncClient, header: str
) -> None:
    others = [
        line for line in UPGRADE.splitlines(keepends=True) if not line.startswith(header.encode())
    ]
    async with connected(http, *others, header.encode() + b": \xff\r\n\r\n") as raw:
        assert (await raw.answer())[0] < 500


@pytest.mark.parametrize(
    "upgrade",
    [
        UPGRADE.replace(b"Version: 13", b"Version: 8") + b"\r\n",
        UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Key") + b"\r\n",
        UPGRADE + b"Content-Length: 3\r\n\r\nabc",
        UPGRADE + b"\r\nx",
        UPGRADE + b"Origin: https://evil.example\r\n\r\n",
        UPGRADE.replace(b"/stream", b"/nowhere") + b"\r\n",
    ],
    ids=["version", "no key", "body", "early byte", "origin", "path"],
)
async def test_a_refused_upgrade_ends_the_connection(
    http: httpx.AsyncClient, upgrade: bytes
) -> None:
    before = sockets_of(http)
    async with connected(http, upgrade) as raw:
        assert (await raw.answer())[0] in (400, 403, 426)
        assert await raw.rest() == b""
    await until_sockets(http, before)

    assert "exchange_stream_clients 0.0" in (await http.get("/metrics")).text


async def test_a_client_that_reads_nothing_is_cut(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.2)
    before = sockets_of(http)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((http.base_url.host, http.base_url.port))
        deaf.sendall(asked * 100)

        await until_sockets(http, before)


async def test_a_client_that_does_not_close_after_the_last_answer_is_cut(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    before = sockets_of(http)
    async with connected(http, b"GET /livez HTTP/1.0\r\n\r\n") as raw:
        assert (await raw.answer())[0] == 200
        assert await raw.rest() == b""

        await until_sockets(http, before)


@pytest.mark.parametrize("sent", [b"", LIVE, b"\r\n", b"GET /li"])
async def test_a_connection_without_a_request_ends(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "KEEP_ALIVE_S", 0.25)  # a busy machine reads within it
    async with connected(http, sent) as raw:
        if sent == LIVE:
            assert (await raw.answer())[0] == 200

        assert b"200" not in await raw.rest()


@pytest.mark.parametrize(
    "asked",
    [
        LIVE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        LIVE.replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\n\r\n"),
    ],
)
async def test_another_protocol_than_http_1_1_is_not_changed_to(
    http: httpx.AsyncClient, asked: bytes
) -> None:
    async with connected(http, asked, LIVE) as raw:
        assert await raw.answer() == (200, b'{"status":"alive"}')
        assert await raw.answer() == (200, b'{"status":"alive"}')


async def test_http_2_with_prior_knowledge_is_told_what_is_spoken(http: httpx.AsyncClient) -> None:
    async with connected(http, b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n") as raw:
        status, body = await raw.answer()

    assert (status, json.loads(body)["code"]) == (505, "request.http_version")


async def test_no_more_connections_are_taken_than_allowed(
    venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_at(venue, caps=Caps(total=3, of_address=2)) as http:
        async with connected(http, LIVE) as first, connected(http, LIVE) as second:
            assert [(await first.answer())[0], (await second.answer())[0]] == [200, 200]
            async with connected(http) as third:
                status, body = await third.answer()
                assert await third.rest() == b""
            assert (status, json.loads(body)["code"]) == (503, "gateway.busy")
            assert "One address may have 2 connections" in caplog.text
        async with asyncio.timeout(LONG_S):
            while await is_refused(http):
                await asyncio.sleep(0.01)


async def test_a_trusted_proxy_has_as_many_connections_as_its_clients_need(venue: Venue) -> None:
    caps = Caps(total=10, of_address=1, proxies=(ip_network("127.0.0.0/8"),))
    async with (
        gateway_at(venue, caps=caps) as http,
        connected(http, LIVE) as one,
        connected(http, LIVE) as other,
    ):
        assert [(await raw.answer())[0] for raw in (one, other)] == [200, 200]


async def is_refused(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/livez")).status_code == 503
    except httpx.TransportError:
        return True


async def test_a_stop_ends_idle_connections_and_answers_what_is_under_way() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            asked.set()
            await answered.wait()
        await Response("done")(scope, receive, send)

    async with AsyncExitStack() as opened:
        serving = await opened.enter_async_context(AsyncExitStack())
        http = await serving.enter_async_context(served(wait))
        fresh, used, half, busy = [
            await opened.enter_async_context(connected(http, *sent))
            for sent in ((), (LIVE,), (LIVE, b"GET /li"), (WAIT, LIVE))
        ]
        assert [await raw.answer() for raw in (used, half)] == 2 * [(200, b"done")]
        await asked.wait()
        stop = asyncio.create_task(serving.aclose())

        # While the server still waits for the one that is under way.
        assert [await raw.rest() for raw in (fresh, used, half)] == 3 * [b""]
        assert not stop.done()
        answered.set()
        assert await busy.answer() == (200, b"done")
        assert await busy.rest() == b""  # what was sent behind it is another's business
        await stop


@pytest.mark.parametrize("sent", [LIVE, POST_HALF], ids=["no answer", "half a body"])
async def test_a_stop_waits_no_longer_than_its_bound(sent: bytes) -> None:
    asked = asyncio.Event()

    async def hang(_scope: Scope, receive: Receive, _send: Send) -> None:
        asked.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with AsyncExitStack() as opened:
        serving = await opened.enter_async_context(AsyncExitStack())
        http = await serving.enter_async_context(served(hang, grace_s=0.05))
        raw = await opened.enter_async_context(connected(http, sent))
        await asked.wait()
        async with asyncio.timeout(LONG_S):
            await serving.aclose()

        with suppress(ConnectionResetError):
            assert await raw.rest() == b""
