"""One exchange for the whole folder: real services, matcher and projector in this process.

``venue`` is what gateways need; ``gateway_at`` serves another gateway on it, with a
producer of the test's choice. ``http`` is a client of a plain one.

On a busy machine anything may take seconds, so nothing here gives up as soon as in production (see
``PATIENT``). A test about giving up uses ``prompt``, which restores production's bounds, or
``hasty``, which leaves out a wait that would be in vain.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final

import httpx
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from exchange.domain.values import Shard
from exchange.gateway.app import CAPS, create_app, serve
from exchange.gateway.parts.limits import NO_LIMITS, Limits
from exchange.gateway.server.server import Caps
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import Matcher
from exchange.transport.commands import CommandProducer, KafkaCommandLog
from exchange.transport.outcomes import RedisOutcomes
from projections.projector.projector import run_projector
from projections.projector.snapshotter import SnapshotPace
from projections.stores.waits import PositionWaits
from tests.conftest import (
    VENUE_REDIS_DATABASE,
    Services,
    drop_database,
    free_ports,
    new_database,
    new_topic,
)

HOST = "127.0.0.1"
SHARD = Shard(0)

PATIENCE_S: Final = 30.0
PATIENCE_MS: Final = 30_000
CLIENT_TIMEOUT_S: Final = 60.0  # more than any answer takes
CATCH_UP: Final = (
    "exchange.gateway.parts.models.CATCH_UP_WAIT_MS",
    "exchange.gateway.stream.feed.shard_feed.CATCH_UP_WAIT_MS",
)
CATCH_UP_DEFAULTS: Final = "exchange.gateway.parts.reading.Freshness.reach.__defaults__"
PATIENT: Final[dict[str, object]] = {
    "exchange.transport.commands.DELIVERY_TIMEOUT_MS": PATIENCE_MS,
    "exchange.transport.commands.END_TIMEOUT_S": PATIENCE_S,
    "exchange.transport.commands.POLL_S": 0.05,  # a stop waits for it
    "exchange.gateway.parts.health.BEHIND_AFTER_S": PATIENCE_S,
    "exchange.gateway.parts.health.PROBE_TIMEOUT_S": PATIENCE_S,
    "exchange.gateway.resources.positions.MARK_WAIT_S": PATIENCE_S,
    "exchange.gateway.resources.positions.ALL_MARKS_WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.models.BOOK_WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.backlog.SETTLE_WAIT_S": PATIENCE_S,
    "exchange.gateway.orders.states.QUERY_WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.listings.QUERY_WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.reading.QUERY_WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.reading.REDIS_WAIT_S": PATIENCE_S,
    "exchange.gateway.resources.settlement.SEEN_WAIT_MS": PATIENCE_MS,
    "exchange.gateway.resources.snapshots.WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.submission.BEHIND_S": PATIENCE_S,
    "exchange.gateway.parts.submission.DELIVERY_WAIT_S": PATIENCE_S,
    "exchange.gateway.parts.submission.LATE_S": PATIENCE_S,
    "exchange.gateway.parts.submission.ORDERS_BEHIND_S": PATIENCE_S,
    "exchange.gateway.parts.submission.ORDERS_LATE_S": PATIENCE_S,
    "projections.stores.checkpoints.QUERY_TIMEOUT_S": PATIENCE_S,
    **dict.fromkeys(CATCH_UP, PATIENCE_MS),
    CATCH_UP_DEFAULTS: (PATIENCE_MS,),
}
PROMPT: Final = {path: resolve_name(path) for path in PATIENT}


@pytest.fixture(scope="package", autouse=True)
def patient() -> Iterator[None]:
    """Wait long wherever production gives up soon."""
    with pytest.MonkeyPatch.context() as patches:
        for path, value in PATIENT.items():
            patches.setattr(path, value)
        yield


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up as soon as in production."""
    for path, value in PROMPT.items():
        monkeypatch.setattr(path, value)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask once how far the matcher and the read models are: they will come no further."""
    monkeypatch.setattr("exchange.gateway.parts.backlog.SETTLE_WAIT_S", 0)
    monkeypatch.setattr(PositionWaits, "reach", ask_once)


async def ask_once(
    waits: PositionWaits[Any], wanted: Mapping[Any, int], *, timeout_ms: int
) -> Mapping[Any, int]:
    del timeout_ms
    return await waits._ask(frozenset(wanted))


@dataclass(frozen=True, slots=True)
class Venue:
    """Where a gateway trades: its stores, and the topic of its commands."""

    services: Services
    database_url: str
    topic: str
    engine: AsyncEngine
    redis: Redis

    def producer(self) -> CommandProducer:
        loop = asyncio.get_running_loop()
        return CommandProducer(self.services.kafka_bootstrap_servers, self.topic, loop=loop)


@asynccontextmanager
async def matching(venue: Venue, shard: Shard = SHARD) -> AsyncIterator[None]:
    """Run the matcher of a venue's shard."""
    async with AsyncExitStack() as opened:
        commands = await opened.enter_async_context(
            KafkaCommandLog(venue.services.kafka_bootstrap_servers, venue.topic, shard)
        )
        events = await opened.enter_async_context(PostgresEventStore(venue.database_url, shard))
        matcher = Matcher(shard, commands, events, RedisOutcomes(venue.redis))
        await opened.enter_async_context(running(matcher.run()))
        yield


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def gateway_at(
    venue: Venue,
    producer: CommandProducer | None = None,
    *,
    order_wait_ms: int = PATIENCE_MS,
    shards: int = 1,
    stream_origins: tuple[str, ...] = (),
    limits: Limits = NO_LIMITS,
    caps: Caps = CAPS,
    inside_port: int | None = None,
    **who: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a gateway on a port of its own and lend a client of it."""
    app = create_app(
        engine=venue.engine,
        redis=venue.redis,
        producer=producer or venue.producer(),
        shards=shards,
        order_wait_ms=order_wait_ms,
        stream_origins=stream_origins,
        limits=limits,
        **who,
    )
    (port,) = free_ports(1)
    shutdown = asyncio.Event()
    server = asyncio.create_task(serve(app, HOST, port, shutdown, caps, inside_port))
    try:
        await _listening(port, server)
        # Nothing is encrypted here, and to load the certificates takes 40 ms.
        async with httpx.AsyncClient(
            base_url=f"http://{HOST}:{port}", timeout=CLIENT_TIMEOUT_S, verify=False
        ) as client:
            yield client
    finally:
        shutdown.set()
        await server


async def _listening(port: int, server: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not server.done():
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.02)
    await server


@asynccontextmanager
async def new_venue(
    services: Services, template: str, redis_database: int = VENUE_REDIS_DATABASE
) -> AsyncIterator[Venue]:
    """A database and a topic, and nobody who decides."""
    database_url = new_database(services, template)
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=10, max_overflow=10)
    redis = Redis.from_url(services.redis_database(redis_database))
    try:
        yield Venue(services, database_url, new_topic(services, 1), engine, redis)
    finally:
        await redis.aclose()
        await engine.dispose()
        drop_database(services, database_url)


def away_redis() -> Redis:
    """Return a client of a Redis that is not there; as in production it does not try for long."""
    return Redis(port=free_ports(1)[0], retry=Retry(NoBackoff(), 1))


@pytest.fixture(scope="package")
async def venue(services: Services, template_database: str) -> AsyncIterator[Venue]:
    """A venue with a matcher, a projector and BTC-USD, shared by the tests of this folder."""
    async with new_venue(services, template_database) as venue:
        pace = SnapshotPace(events=1_000_000, seconds=3_600)
        projector = run_projector(venue.engine, venue.redis, pace_ms=5, snapshots=pace)
        async with matching(venue), running(projector):
            async with gateway_at(venue) as client:
                response = await register(client, "BTC-USD")
                assert response.status_code == 201, response.text
            yield venue


@pytest.fixture
async def idle_venue(
    services: Services, template_database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Venue]:
    """A venue of this test's own; nobody decides or projects unless the test says so."""
    monkeypatch.setattr(
        "exchange.gateway.resources.instruments.LISTED_WAIT_MS", 1
    )  # nobody may list them
    async with new_venue(services, template_database) as venue:
        yield venue


@pytest.fixture(scope="package")
async def http(venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway at the venue."""
    async with gateway_at(venue) as client:
        yield client


_numbers = itertools.count(1)


async def register(http: httpx.AsyncClient, name: str, **changes: Any) -> httpx.Response:
    """Register an instrument with prices of 0.01 and quantities of 0.00000001."""
    definition = {
        "instrument": name,
        "base": name.partition("-")[0],
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": "0.00000001",
        **changes,
    }
    return await http.post("/instruments", json=definition)


@pytest.fixture
async def instrument(http: httpx.AsyncClient) -> str:
    """An instrument that no other test trades."""
    name = f"I{next(_numbers)}-USD"
    response = await register(http, name)
    assert response.status_code == 201, response.text
    return name


Place = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def place(http: httpx.AsyncClient, instrument: str) -> Place:
    """Post an order: a buy of 1 for 10 unless the test says otherwise."""

    async def post(*, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        return await http.post("/orders", json=order(instrument, **changes), headers=headers)

    return post


def order(instrument: str, /, **changes: Any) -> dict[str, Any]:
    """Return the body of an order; ``...`` leaves a field out."""
    body = {
        "client_id": "alice",
        "instrument": instrument,
        "side": "buy",
        "type": "limit",
        "price": 10,
        "quantity": 1,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not ...}
