"""What each process is made of: the only place that makes pools and clients.

``serve_until_stopped`` runs one of them until SIGTERM or SIGINT, which cancels it;
everything it opened is closed on the way out.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import Any, Final

import uvloop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from exchange import tracing
from exchange.command_log import CommandProducer, KafkaCommandLog
from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.event_store import PostgresEventStore
from exchange.gateway.app import create_app, serve
from exchange.gateway.limits import Limit, Limits
from exchange.matcher import Matcher
from exchange.matcher_watch import MatcherMetrics
from exchange.metrics_server import serve_metrics
from exchange.outcomes import RedisOutcomes
from projections.metrics import ProjectorMetrics
from projections.projector import run_projector
from projections.snapshotter import SnapshotPace

POOL_WAIT_S: Final = 2  # then a reader is told, rather than left in a queue
STORE_TIMEOUT_S: Final = 5  # connecting to Postgres
REDIS_TIMEOUT_S: Final = 1.0  # a book is read in a millisecond; beyond this Redis counts as away
REDIS_CONNECTIONS_MAX: Final = 64
GARBAGE_OBJECTS_MAX: Final = 50_000  # about 10 MB between two collections


def serve_until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Run a process's coroutine to its end, or until a signal asks it to stop."""
    # A hundred requests under way are more new objects than Python's default threshold, so the
    # collector would walk the heap for every few of them: a tenth of a gateway's time.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX)
    uvloop.run(_until_signal(main))


async def run_matcher(settings: Settings, shards: Sequence[int], *, standby: bool) -> None:
    """Match the commands of ``shards``; the first failure ends the process."""
    metrics = MatcherMetrics()
    port = settings.matcher_metrics_port(min(shards), standby=standby)
    serve_metrics(metrics.registry, settings.host, port)
    async with AsyncExitStack() as opened:
        opened.enter_context(_tracing(settings, "matcher"))
        redis = await opened.enter_async_context(_redis(settings))
        matchers = [await _matcher(settings, Shard(s), redis, metrics, opened) for s in shards]
        async with asyncio.TaskGroup() as tasks:
            for matcher in matchers:
                tasks.create_task(matcher.run())


async def run_projections(settings: Settings) -> None:
    """Keep every read model up to date."""
    # See projections/postgres.py for why these sessions need not wait for the disk.
    metrics = ProjectorMetrics()
    serve_metrics(metrics.registry, settings.host, settings.projector_metrics_port)
    with _tracing(settings, "projector"):
        async with (
            _engine(settings, synchronous_commit="off") as engine,
            _redis(settings) as redis,
        ):
            pace = SnapshotPace(settings.snapshot_events, settings.snapshot_seconds)
            await run_projector(
                engine,
                redis,
                pace_ms=settings.projector_pace_ms,
                snapshots=pace,
                metrics=metrics,
            )


async def run_gateway(settings: Settings, port: int) -> None:
    """Serve HTTP on ``port`` until asked to stop, then finish what is in flight."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    producer = CommandProducer(
        settings.kafka_bootstrap_servers, settings.kafka_topic, loop=asyncio.get_running_loop()
    )
    async with AsyncExitStack() as opened:
        opened.enter_context(_tracing(settings, "gateway"))
        engine = await opened.enter_async_context(_engine(settings))
        redis = await opened.enter_async_context(_redis(settings))
        app = create_app(
            engine=engine,
            redis=redis,
            producer=producer,
            shards=settings.shards,
            order_wait_ms=settings.order_wait_ms,
            stream_origins=settings.stream_origins,
            limits=_limits(settings),
        )
        failing = asyncio.create_task(_stop_when_failed(producer, stopping))
        await serve(app, settings.host, port, stopping)
        failing.cancel()
    if producer.failed.is_set():
        raise SystemExit("The Kafka client failed for good: see the log above.")


def _limits(settings: Settings) -> Limits:
    return Limits(
        orders=Limit(settings.rate_limit_orders_per_second, settings.rate_limit_orders_burst),
        cancels=Limit(settings.rate_limit_cancels_per_second, settings.rate_limit_cancels_burst),
        address=Limit(settings.rate_limit_address_per_second, settings.rate_limit_address_burst),
    )


async def _stop_when_failed(producer: CommandProducer, stopping: asyncio.Event) -> None:
    await producer.failed.wait()
    stopping.set()


async def _until_signal(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(main)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


async def _matcher(
    settings: Settings,
    shard: Shard,
    redis: Redis,
    metrics: MatcherMetrics,
    opened: AsyncExitStack,
) -> Matcher:
    commands = await opened.enter_async_context(
        KafkaCommandLog(settings.kafka_bootstrap_servers, settings.kafka_topic, shard)
    )
    events = await opened.enter_async_context(PostgresEventStore(settings.database_url, shard))
    return Matcher(shard, commands, events, RedisOutcomes(redis), metrics)


def _tracing(settings: Settings, role: str) -> AbstractContextManager[None]:
    if settings.traces_exporter == "none":
        return nullcontext()
    return tracing.exporting(
        role,
        endpoint=settings.traces_endpoint,
        sampler=settings.traces_sampler,
        share=settings.traces_share,
    )


@asynccontextmanager
async def _engine(settings: Settings, **session: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        settings.sqlalchemy_url,
        pool_size=settings.database_pool_max,
        max_overflow=0,
        pool_timeout=POOL_WAIT_S,
        connect_args={
            "timeout": STORE_TIMEOUT_S,
            "server_settings": {"application_name": "exchange", "jit": "off", **session},
        },
    )
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def _redis(settings: Settings) -> AsyncIterator[Redis]:
    # One retry covers a pooled connection that a restarted server closed; what is down stays down.
    client = Redis.from_url(
        settings.redis_url,
        max_connections=REDIS_CONNECTIONS_MAX,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )
    async with client:
        yield client
