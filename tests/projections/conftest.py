"""The read side on real stores, with logs that the tests write."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from exchange.log.reader import read_heads
from projections.builder.working import Connect
from projections.projector.projector import run_projector
from projections.registry import IN_POSTGRES, IN_REDIS
from projections.stores.checkpoints import SequenceWaits
from projections.stores.redis import ModelWaits

CATCH_UP_TIMEOUT_MS = 30_000
# For what must not come: a machine with other work answers a question or two meanwhile.
IN_VAIN_MS = 1_000

RunProjector = Callable[..., AbstractAsyncContextManager[asyncio.Task[None]]]


def make_engine(database_url: str, application_name: str = "tests") -> AsyncEngine:
    settings = {"application_name": application_name, "synchronous_commit": "off"}
    return create_async_engine(
        database_url.replace("postgresql://", "postgresql+asyncpg://"),
        pool_size=10,
        max_overflow=0,
        # A TLS negotiation that is cancelled half-way leaves an error that nobody collects.
        connect_args={"server_settings": settings, "ssl": False},
    )


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def connect(database_url: str) -> Connect:
    """Return what opens connections, as a builder does."""

    async def connection() -> asyncpg.Connection:
        # A TLS negotiation that is cancelled half-way leaves an error that nobody collects.
        return await asyncpg.connect(database_url, ssl=False)

    return connection


@asynccontextmanager
async def projecting(
    database_url: str, redis_url: str, pace_ms: int = 5
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a projector with clients of its own, as its process does."""
    engine = make_engine(database_url, "projector")
    async with Redis.from_url(redis_url) as redis:
        task = asyncio.create_task(run_projector(engine, redis, pace_ms=pace_ms))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            await engine.dispose()
            assert task.cancelled(), repr(task.exception())


@pytest.fixture
def projector(database_url: str, redis_url: str) -> RunProjector:
    """Run a projector on this test's own stores, or on another Redis."""
    own_url = redis_url

    def running(
        pace_ms: int = 5, redis_url: str = own_url
    ) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        return projecting(database_url, redis_url, pace_ms)

    return running


async def catch_up(engine: AsyncEngine, redis: Redis, connection: asyncpg.Connection) -> None:
    """Wait until every read model is where the heads are now."""
    heads = await read_heads(connection)
    waits = SequenceWaits(engine)
    for name in IN_POSTGRES:
        await waits.reach(name, heads, timeout_ms=CATCH_UP_TIMEOUT_MS)
    for name in IN_REDIS:
        generation = await read_generation(connection, name)
        for shard, position in heads.items():
            place = (name, generation, shard, position)
            await ModelWaits(redis).reach(*place, timeout_ms=CATCH_UP_TIMEOUT_MS)


async def read_generation(connection: asyncpg.Connection, projection: str) -> int:
    """Return a projection's live generation, waiting for its first to go live."""
    query = "select generation from live where projection = $1"
    async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
        while (generation := await connection.fetchval(query, projection)) is None:
            await asyncio.sleep(0.02)
    return int(generation)
