"""A TCP proxy to one server, whose connections can be cut, slowed or held.

It stands between one of our processes and a service, so that a link fails while both ends
live. It works on bytes and knows no protocol.
"""

import asyncio
from contextlib import suppress

from exchange.config import LOOPBACK

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a port of its own and passes everything on to ``target``."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._server: asyncio.Server
        self._delay_s = 0.0
        self._cut = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self._abort()

    def carries(self, port: int) -> bool:
        """Tell whether the connection that its server sees from ``port`` is one of these."""
        return port in self._links

    async def cut(self, seconds: float) -> None:
        """End all connections and refuse others for a while."""
        self._cut = True
        self._abort()
        await asyncio.sleep(seconds)
        self._cut = False

    async def slow(self, seconds: float, delay_s: float) -> None:
        """Delay everything for a while."""
        self._delay_s = delay_s
        await asyncio.sleep(seconds)
        self._delay_s = 0.0

    async def hold(self, seconds: float) -> None:
        """Let nothing through for a while, with the connections open."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        self._flowing.set()

    def _abort(self) -> None:
        for near, far in self._links.values():
            near.transport.abort()
            far.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self._cut:
            near.transport.abort()
            return
        try:
            answers, far = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            near.transport.abort()
            return
        port: int = far.get_extra_info("sockname")[1]
        link = self._links[port] = (near, far)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far))
                tasks.create_task(self._pump(answers, near))
        finally:
            if self._links.get(port) is link:  # else the system has used the port again
                del self._links[port]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()
