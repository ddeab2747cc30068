"""Listening, how many connections are taken, and stopping in good order.

Read ``Server.serving``. Each connection is a ``Connection`` in a task of its own. A connection
beyond ``Caps`` gets a refusal and is closed before anything is read from it. ``Caps.within`` keeps
the total below the process's descriptors: without a free descriptor a gateway can neither accept a
connection nor reach its stores.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.typing import Framework
from hypercorn.utils import wrap_app
from msgspec import Struct
from msgspec.structs import replace
from starlette.types import ASGIApp

from exchange.gateway.http.addresses import Network, counted, is_trusted
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.server.connection import Connection
from exchange.gateway.server.heads import bound_heads
from exchange.gateway.server.streams import MESSAGE_BYTES_MAX

logger = logging.getLogger(__name__)

BACKLOG: Final = 2048
HEAD_BYTES_MAX: Final = 64 * 1024  # ``edge`` already refuses much less, with a body that says why
# Descriptors that a gateway needs besides its clients' connections: up to 109 to PostgreSQL, 104 to
# Redis, a few to each Kafka broker, its logs.
OWN_DESCRIPTORS: Final = 256
REFUSED: Final = {"Connection": "close", "Cache-Control": "no-store"}
TELL_EVERY_S: Final = 10.0  # between log lines about refusals: refused clients try again at once


class Caps(Struct, frozen=True):
    """How many connections are taken at once: in all, and from one address.

    Trusted ``proxies`` are bound by the total only: many clients share their connections.
    """

    total: int = 10_000  # some 20 kB of memory each
    of_address: int = 2_000  # more than the largest pool of one program
    proxies: Sequence[Network] = ()

    def within(self, descriptors: int) -> "Caps":
        """Return these caps, lowered to what a process with ``descriptors`` can take."""
        room = max(descriptors - OWN_DESCRIPTORS, descriptors // 2)
        return replace(self, total=min(self.total, room))

    def excess(self, peer: str, taken: int, of_address: int) -> str:
        """Return why a connection from ``peer`` would be one too many, an empty text if it is not.

        Args:
            peer: The address of the peer, as the socket names it.
            taken: How many connections there are.
            of_address: How many of them count for the same address.
        """
        if taken >= self.total:
            return f"This gateway takes {self.total} connections at once (CONNECTIONS_MAX)."
        if of_address >= self.of_address and not is_trusted(peer, self.proxies):
            most = f"{self.of_address} connections at once (CONNECTIONS_PER_ADDRESS)"
            return f"One address may have {most}."
        return ""


class Server:
    """The connections of one gateway."""

    def __init__(self, app: ASGIApp, host: str, port: int, grace_s: float, caps: Caps) -> None:
        bound_heads()
        # The two libraries describe the same interface in types that mypy cannot compare.
        self._app = wrap_app(cast("Framework", app), 0, "asgi")
        self._config = _config(host, port)
        self._context = WorkerContext(None)
        self._grace_s = grace_s
        self._caps = caps
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._of_address: Counter[str] = Counter()
        self._refused = 0
        self._tell_at_s = 0.0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Take connections; at the end take no more, and finish what is under way."""
        (socket,) = self._config.create_sockets().insecure_sockets
        listener = await asyncio.start_server(self._accept, sock=socket, backlog=BACKLOG)
        caps = {"connections": self._caps.total, "of_address": self._caps.of_address}
        logger.info("Listening", extra={"address": self._config.bind[0], **caps})
        try:
            yield
        finally:
            listener.close()
            await self._context.terminated.set()
            await self._end()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        peer = writer.get_extra_info("peername")
        if task is None or peer is None or self._context.terminated.is_set():
            writer.close()  # the peer is gone already, or this gateway is stopping
            return
        address = counted(peer[0])
        excess = self._caps.excess(peer[0], len(self._connections), self._of_address[address])
        if excess:
            self._refuse(writer, address, excess)
            return
        connection = Connection(self._app, self._config, self._context, reader, writer)
        self._connections[task] = connection
        self._of_address[address] += 1
        try:
            await connection.run()
        except Exception:
            logger.exception("A connection crashed")
        finally:
            del self._connections[task]
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def _refuse(self, writer: asyncio.StreamWriter, address: str, excess: str) -> None:
        writer.write(_refusal(excess))
        writer.close()
        self._refused += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._tell_at_s:
            told = {"refused": self._refused, "address": address}
            logger.warning("Refused connections: %s", excess, extra=told)
            self._refused, self._tell_at_s = 0, now_s + TELL_EVERY_S

    async def _end(self) -> None:
        for connection in self._connections.values():
            connection.stop()
        if self._connections:
            await asyncio.wait(self._connections, timeout=self._grace_s)
        late = dict(self._connections)
        for task, connection in late.items():
            connection.abort()
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _config(host: str, port: int) -> Config:
    config = Config()
    config.bind = [f"{host}:{port}"]
    config.keep_alive_max_requests = 2**31  # a client may keep its connection
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.include_server_header = False
    config.websocket_max_message_size = MESSAGE_BYTES_MAX
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _refusal(excess: str) -> bytes:
    answer = Problem(Code.BUSY, excess, headers=REFUSED).response()
    lines = [b"HTTP/1.1 503 Service Unavailable"]
    lines += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
