"""``GET /events`` as lines: all that is asked for, as fast as it is read, of the log as it is now.

A line that is blank says that the answer goes on: a filter may fit nothing for a long time. A
client that leaves or does not read ends it, and an error cuts it off without its last chunk.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from exchange.analyst.event_log import EventLog, ranges_of
from exchange.analyst.events import Document, Span, Wanted, replayed
from exchange.gateway.http.responses import encoder
from projections.stores.postgres import driver_connection

LINES: Final = "application/x-ndjson"
CHUNK_LINES: Final = 100
SIGN_S: Final = 5.0  # clients and proxies give up after half a minute or more


class Lines(Response):
    """The answer; it has a place from before its first byte to after its last."""

    media_type = LINES

    def __init__(self, log: EventLog, asked: Mapping[str, str], wanted: Wanted) -> None:
        super().__init__()
        self._log, self._asked, self._wanted = log, asked, wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._log.streaming():
            async with self._log.connection() as connection:
                spans = (await ranges_of(connection, self._asked, self._log.shards)).spans
            if scope["method"] == "HEAD":
                spans = {}
            async with aclosing(_lines(self._log, spans, self._wanted)) as lines:
                await StreamingResponse(lines, media_type=LINES)(scope, receive, send)


async def _lines(
    log: EventLog, spans: Mapping[int, Span], wanted: Wanted
) -> AsyncGenerator[bytes, None]:
    async with (
        driver_connection(log.engine) as connection,
        aclosing(replayed(connection, spans, wanted, lambda _: None)) as documents,
    ):
        goes_on = True
        while goes_on:
            some: list[bytes] = []
            filling = asyncio.create_task(_fill(some, documents))
            try:
                while not (await asyncio.wait({filling}, timeout=SIGN_S))[0]:
                    yield b"\n".join(some) + b"\n"
                    some.clear()
                goes_on = filling.result()
            finally:
                filling.cancel()
                await asyncio.wait({filling})
            if some:
                yield b"\n".join(some) + b"\n"


async def _fill(some: list[bytes], documents: AsyncIterator[Document]) -> bool:
    """Add the next lines to ``some``; tell whether there may be more."""
    async for document in documents:
        some.append(encoder.encode(document))
        if len(some) == CHUNK_LINES:
            return True
    return False
