"""Running a process until it is told to stop, and what every one of them may need.

``serve_until_stopped`` runs one, and sets an event at SIGTERM or SIGINT: nothing else handles
signals. A process that has something to finish first is given the event; ``cancelled_by`` is for
those that can end at any moment. Everything that was opened is closed on the way out.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

import uvloop
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from exchange.config import Settings
from exchange.telemetry import tracing

REDIS_TIMEOUT_S: Final = 1.0  # a book is read in a millisecond; beyond this Redis counts as away
REDIS_CONNECTIONS_MAX: Final = 32  # requests on their way at once; one takes a millisecond
GARBAGE_OBJECTS_MAX: Final = 50_000  # about 10 MB between two collections


def serve_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a process to its end; ``work`` gets an event that is set when it is asked to stop."""
    # A hundred requests under way are more new objects than Python's default threshold, so the
    # collector would walk the heap for every few of them: a tenth of a gateway's time.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX)
    uvloop.run(_told_of_signals(work))


def tracing_as(role: str, settings: Settings) -> AbstractContextManager[None]:
    """Export the spans of a process, if the settings name somewhere to."""
    if settings.traces_exporter == "none":
        return nullcontext()
    return tracing.exporting(
        role,
        endpoint=settings.traces_endpoint,
        sampler=settings.traces_sampler,
        share=settings.traces_share,
    )


@asynccontextmanager
async def redis_client(
    settings: Settings, connections: int = REDIS_CONNECTIONS_MAX
) -> AsyncIterator[Redis]:
    """Lend a client of Redis; a request that finds all its connections taken waits for one."""
    pool = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=connections,
        timeout=REDIS_TIMEOUT_S,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        # Once, for a pooled connection that a restarted server closed.
        retry=Retry(NoBackoff(), 1),
    )
    async with Redis.from_pool(pool) as client:
        yield client


async def cancelled_by(stopping: asyncio.Event, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, or cancel it as soon as ``stopping`` is set."""
    task = asyncio.ensure_future(main)
    asked = asyncio.create_task(stopping.wait())
    asked.add_done_callback(lambda _: task.cancel())
    try:
        await task
    except asyncio.CancelledError:
        return
    finally:
        asked.cancel()


async def _told_of_signals(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await work(stopping)
