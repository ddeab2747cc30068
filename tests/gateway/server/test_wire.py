"""Ready frames that are written to a WebSocket at once, past the layers that read it."""

import asyncio
import socket

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from exchange.gateway.server.streams import Wire, ready, wire_of
from tests.gateway.server.test_connections import LONG_S, served
from tests.gateway.stream.texts import payload_of

pytestmark = pytest.mark.anyio

SMALL_BYTES = 4_096  # of a buffer, so that it is soon full


class Speaking:
    """An application that accepts one WebSocket and lends how to write to it."""

    def __init__(self) -> None:
        self.wire: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
        self.heard: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        self.wire.set_result(wire_of(scope))
        while not self.heard or self.heard[-1] != "websocket.disconnect":
            self.heard.append((await receive())["type"])


async def silent(url: str) -> ClientConnection:
    """Connect with a small buffer, to read when asked."""
    host, port = url.removeprefix("http://").split(":")
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    plain.connect((host, int(port)))
    return await connect(
        "ws://x/", sock=plain, compression=None, max_queue=1, max_size=None, ping_interval=None
    )


def has_room(wire: Wire) -> bool:
    return wire.has_room  # mypy takes a property for constant


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 300_000])
def test_a_frame_carries_a_text_of_any_length(size: int) -> None:
    assert payload_of(ready(b"x" * size)) == "x" * size


def test_the_length_of_a_frame_counts_bytes() -> None:
    assert payload_of(ready("é".encode() * 63)) == "é" * 63


async def test_frames_arrive_in_order_whenever_the_client_reads() -> None:
    app = Speaking()
    async with served(app) as http, asyncio.timeout(LONG_S):
        client = await silent(str(http.base_url))
        wire = await app.wire
        sent = 0
        while has_room(wire):
            wire.write(ready(f"{sent} {'x' * 10_000}".encode()))
            sent += 1
            await asyncio.sleep(0)
        waiting = asyncio.create_task(wire.room())
        await asyncio.sleep(0.05)
        assert not waiting.done()

        read = [await client.recv() for _ in range(sent)]
        await waiting

        assert [str(text).split()[0] for text in read] == [str(n) for n in range(sent)]
        assert has_room(wire)
        client.transport.abort()


async def test_nothing_follows_a_close() -> None:
    app = Speaking()
    async with served(app) as http, asyncio.timeout(LONG_S):
        client = await silent(str(http.base_url))
        wire = await app.wire
        wire.write(ready(b"first"))
        closing = asyncio.create_task(client.close())
        while "websocket.disconnect" not in app.heard:
            await asyncio.sleep(0.01)

        wire.write(ready(b"late"))

        await closing
        assert await client.recv() == "first"
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1000


async def test_who_writes_to_a_client_that_is_gone_does_not_wait() -> None:
    app = Speaking()
    async with served(app) as http, asyncio.timeout(LONG_S):
        client = await silent(str(http.base_url))
        wire = await app.wire
        while wire.has_room:
            wire.write(ready(b"x" * 10_000))
            await asyncio.sleep(0)

        client.transport.abort()
        await wire.room()
        while "websocket.disconnect" not in app.heard:
            await asyncio.sleep(0.01)

        wire.write(ready(b"late"))
        await wire.room()
        assert wire.has_room
