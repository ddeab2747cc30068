"""All connections of the stream: who may connect, heartbeats, and the end of them all."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.websockets import WebSocket

from exchange.gateway.context import Gateway
from exchange.gateway.problems import Code, Problem
from exchange.gateway.stream.frames import HEARTBEAT_MS
from exchange.gateway.stream.hub import Hub
from exchange.gateway.stream.session import Session

CONNECTIONS_MAX: Final = 2_000  # each may hold some megabytes of queue
ANY_ORIGIN: Final = "*"


@dataclass(eq=False)
class Stream:
    """The connections of one gateway; ``origins`` are the web pages that may connect."""

    gateway: Gateway
    hub: Hub
    origins: Sequence[str] = ()
    sessions: set[Session] = field(default_factory=set)
    stopping: bool = False

    async def connect(self, websocket: WebSocket) -> None:
        """``/stream``: serve one connection."""
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        session = Session(websocket, self.gateway, self.hub)
        self.sessions.add(session)
        self.gateway.metrics.stream_clients.inc()
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            self.gateway.metrics.stream_clients.dec()

    async def beat(self) -> None:
        """Send heartbeats for ever."""
        while True:
            await asyncio.sleep(HEARTBEAT_MS / 1000)
            now_s = time.monotonic()
            for session in list(self.sessions):
                session.beat(now_s)

    async def close(self, wait_s: float) -> None:
        """Close all connections with 1012; orders under way are answered first."""
        self.stopping = True
        if self.sessions:
            ends = [session.restart(wait_s) for session in self.sessions]
            await asyncio.gather(*ends)
        await self.hub.stop()

    def _refusal(self, websocket: WebSocket) -> Response | None:
        if self.stopping or len(self.sessions) >= CONNECTIONS_MAX:
            return Problem(Code.BUSY, "No more connections are taken here.").response()
        if not self._is_allowed(websocket):
            detail = "This page's origin is not among STREAM_ORIGINS."
            return Problem(Code.ORIGIN, detail).response()
        return None

    def _is_allowed(self, websocket: WebSocket) -> bool:
        """Tell whether a page may connect: of the same host, or named; programs name no origin."""
        origin = websocket.headers.get("origin")
        if origin is None or ANY_ORIGIN in self.origins or origin in self.origins:
            return True
        return urlsplit(origin).netloc == websocket.headers.get("host")
