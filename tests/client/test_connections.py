"""A client's connection to the stream is closed, whatever ends it."""

import asyncio

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve

from exchange.client import connected

pytestmark = pytest.mark.anyio


async def test_a_cancelled_farewell_leaves_no_socket_open() -> None:
    sockets: list[ClientConnection] = []
    deaf, leaving = asyncio.Event(), asyncio.Event()

    async def be_deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        deaf.set()
        await connection.wait_closed()

    async def leave(url: str) -> None:
        async with connected(url) as socket:
            sockets.append(socket)
            await deaf.wait()
            leaving.set()

    async with serve(be_deaf, "127.0.0.1", 0, close_timeout=0.1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        follower = asyncio.create_task(leave(f"ws://127.0.0.1:{port}"))
        await leaving.wait()
        follower.cancel()
        await asyncio.wait({follower})

        assert follower.cancelled()
        assert sockets[0].transport.is_closing()
