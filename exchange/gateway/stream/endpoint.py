"""All connections of the stream: who may connect, their heartbeats, and closing all of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from exchange.gateway.http.addresses import address_of
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.server.entrance import Entrance
from exchange.gateway.server.origins import FOREIGN_PAGE, may_act
from exchange.gateway.stream.caps import KeyCaps
from exchange.gateway.stream.desk import Desk, Host
from exchange.gateway.stream.feed.hub import Hub
from exchange.gateway.stream.heartbeats import Heartbeats
from exchange.gateway.stream.protocol.frames import HEARTBEAT_MS
from exchange.gateway.stream.session import Session

UPGRADE: Final = {"Upgrade": "websocket", "Connection": "Upgrade"}
CONNECTIONS_MAX: Final = 2_000  # each may queue some megabytes
# Parts of the connections that get their heartbeats one after the other. Heartbeats of 2,000
# connections at once hold the event loop, and so every order, for 180 to 240 ms of each second.
BEAT_PARTS: Final = 20


async def refuse_plain_request(_request: Request) -> Response:
    """``GET /stream`` without an upgrade: say that the stream is a WebSocket."""
    raise Problem(Code.UPGRADE, "Connect to /stream with a WebSocket client.", headers=UPGRADE)


def _parts() -> list[set[Session]]:
    return [set() for _ in range(BEAT_PARTS)]


@dataclass(eq=False)
class Stream:
    """The connections of one gateway, or of a replay.

    Web pages may connect if they come from ``origins`` or from the gateway's own host. ``entrance``
    finds out who asks.
    """

    host: Host
    hub: Hub
    desk: Desk
    origins: Sequence[str] = ()
    connections_per_address: int = CONNECTIONS_MAX
    entrance: Entrance = field(default_factory=Entrance)
    caps: KeyCaps = field(default_factory=KeyCaps)
    by_address: Counter[str] = field(default_factory=Counter)
    parts: list[set[Session]] = field(default_factory=_parts)
    stopping: bool = False

    @property
    def sessions(self) -> list[Session]:
        return [session for part in self.parts for session in part]

    async def connect(self, websocket: WebSocket) -> None:
        """``/stream``: serve one connection."""
        address = address_of(websocket.scope, self.host.proxies)
        refusal = self._refusal(websocket, address)
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        session = Session(websocket, self.host, self.hub, self.desk, self.entrance, self.caps)
        part = min(self.parts, key=len)
        part.add(session)
        self.by_address[address] += 1
        self.host.metrics.stream_clients.inc()
        try:
            await session.run()
        finally:
            part.discard(session)
            self.by_address[address] -= 1
            if not self.by_address[address]:
                del self.by_address[address]
            self.host.metrics.stream_clients.dec()

    async def beat(self) -> None:
        """Send heartbeats for ever, to one part of the connections at a time."""
        pause_s = HEARTBEAT_MS / 1000 / BEAT_PARTS
        next_s = time.monotonic()
        for part in cycle(self.parts):
            next_s = max(next_s + pause_s, time.monotonic())  # after a stall, none is made up for
            await asyncio.sleep(next_s - time.monotonic())
            heartbeats = Heartbeats()
            for session in list(part):
                session.beat(heartbeats)

    async def close(self, wait_s: float) -> None:
        """Close all connections with 1012; orders under way are answered first."""
        self.stopping = True
        await asyncio.gather(*(session.restart(wait_s) for session in self.sessions))
        await self.hub.stop()

    def _refusal(self, websocket: WebSocket, address: str) -> Response | None:
        if self.stopping or sum(map(len, self.parts)) >= CONNECTIONS_MAX:
            return Problem(Code.BUSY, "No more connections are taken here.").response()
        if not may_act(websocket.scope, self.origins):
            return Problem(Code.ORIGIN, FOREIGN_PAGE).response()
        if self.by_address[address] >= self.connections_per_address:
            most = self.connections_per_address
            detail = f"An address has at most {most} connections (STREAM_CONNECTIONS_PER_ADDRESS)."
            return Problem(Code.STREAM_TOO_MANY, detail).response()
        return None
