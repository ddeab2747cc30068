"""The client for programs with an event loop; coroutines of one loop may share it."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from exchange.client.attempts import (
    PATIENCE,
    Attempts,
    BatchAttempts,
    Broken,
    Patience,
    Reply,
    Told,
    reply_of,
)
from exchange.client.book import Gap
from exchange.client.following import (
    CLOSE_S,
    SILENT_S,
    Feed,
    Following,
    Interrupted,
    Passing,
    Update,
)
from exchange.client.problems import Refused
from exchange.client.requests import Answer, Command, Listing, Page, Request, Row
from exchange.client.wire import LIMITS, Wire, broken_of, stream_url
from exchange.signing import Signer


class AsyncClient:
    """A client of an exchange; ``Client`` says what each argument and method means."""

    def __init__(
        self,
        *base_urls: str,
        signer: Signer | None = None,
        patience: Patience = PATIENCE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._wire = Wire(base_urls, signer)
        self._patience = patience
        self._tls = tls or (ssl.create_default_context() if self._wire.has_tls else None)
        verify = self._tls or False
        self._http = httpx.AsyncClient(
            timeout=patience.attempt_s, verify=verify, limits=LIMITS, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, request: Request[Answer]) -> Answer:
        """Send a request, again and again while its answer is not known, and return that."""
        attempts = Attempts(request, self._patience)
        await self._try(attempts)
        return attempts.answer

    async def send_all(self, commands: Sequence[Command[Any]]) -> list[Told]:
        """Send orders and cancels in one request; those without an answer are sent again."""
        attempts = BatchAttempts(commands, self._patience)
        await self._try(attempts)
        return attempts.answer

    async def each(self, listing: Listing[Page, Row]) -> AsyncIterator[Row]:
        """Yield every row of a list, page by page."""
        rest: Listing[Page, Row] | None = listing
        while rest is not None:
            page = await self.send(rest)
            for row in rest.rows(page):
                yield row
            rest = rest.next(page)

    @asynccontextmanager
    async def follow(self, *followings: Following) -> AsyncIterator[AsyncIterator[Update]]:
        """Follow instruments on the stream, through every disconnection, for ever."""
        feed, ends_s = Feed(followings), time.monotonic() + self._patience.total_s
        async with aclosing(self._updates(feed)) as updates:
            first: list[Update] = []
            async for update in updates:
                first.append(update)
                if feed.has_begun(update, ends_s):
                    break
            async with aclosing(_chained(first, updates)) as chained:
                yield chained

    async def attempt(self, request: Request[Any]) -> Reply | Broken:
        """Send a request once, and return what came back."""
        out = self._wire.outgoing(request)
        try:
            response = await self._http.request(
                out.method, out.url, headers=out.headers, content=out.content
            )
        except httpx.RequestError as error:
            said: Reply | Broken = broken_of(error)
        else:
            said = reply_of(response.status_code, response.headers, response.content)
        self._wire.heard(out.base_url, said)
        return said

    async def _try(self, attempts: Attempts[Any] | BatchAttempts) -> None:
        while True:
            pause_s = attempts.judge(await self._ask(attempts.request))
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)

    async def _ask(self, request: Request[Any]) -> Reply | Broken:
        said = await self.attempt(request)
        if self._wire.corrects_clock(said):
            said = await self.attempt(request)
        return said

    async def _updates(self, feed: Feed) -> AsyncGenerator[Update]:
        while True:
            error: Exception
            base_url = self._wire.base_url
            try:
                async with closed_after(self.connect(base_url)) as socket:
                    for message in feed.begin():
                        await socket.send(message, text=True)
                    while True:
                        async with asyncio.timeout(SILENT_S):
                            text = await socket.recv(decode=False)
                        update = feed.take(text)
                        if update is not None:
                            yield update
            except Refused as refused:
                if not self._wire.takes_time_of(refused.problem):
                    raise
                error = refused
            except (OSError, TimeoutError, WebSocketException, Gap, Passing) as lost:
                self._wire.turn(base_url)
                error = lost
            yield Interrupted(str(error) or "it says nothing")
            await asyncio.sleep(feed.pause_s(error))

    async def connect(self, base_url: str | None = None) -> ClientConnection:
        """Connect to the stream, for messages of one's own; close it when it is done with."""
        base_url = base_url or self._wire.base_url
        url = stream_url(base_url)
        socket = await connect(
            url,
            ssl=self._tls if url.startswith("wss") else None,
            compression=None,
            proxy=None,
            open_timeout=SILENT_S,
            close_timeout=CLOSE_S,
        )
        if self._wire.is_signed:
            await socket.send(self._wire.authentication(base_url), text=True)
        return socket


async def _chained(first: Sequence[Update], rest: AsyncIterator[Update]) -> AsyncGenerator[Update]:
    for update in first:
        yield update
    async for update in rest:
        yield update


@asynccontextmanager
async def closed_after(connecting: Awaitable[ClientConnection]) -> AsyncIterator[ClientConnection]:
    """Connect, and leave no socket behind.

    A connection whose closing is cancelled would stay half closed for as long as it is referred to.
    """
    socket = await connecting
    try:
        async with socket:
            yield socket
    finally:
        socket.transport.abort()


def connected(url: str, **options: Any) -> AbstractAsyncContextManager[ClientConnection]:
    """Connect to a stream by its own address, with the options of ``connect``."""
    return closed_after(connect(url, proxy=None, **options))
