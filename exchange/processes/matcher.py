"""The matcher's process: one or several shards, on the same loop."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from redis.asyncio import Redis

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.durability import UnsafeSettings
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import Matcher
from exchange.matcher.metrics import MatcherMetrics
from exchange.processes.running import redis_client, tracing_as
from exchange.telemetry.metrics import serve_metrics
from exchange.transport.commands import KafkaCommandLog
from exchange.transport.outcomes import RedisOutcomes


async def run_matcher(settings: Settings, shards: Sequence[int], *, standby: bool) -> None:
    """Match the commands of ``shards``; the first failure ends the process.

    Raises:
        UnsafeSettings: Kafka or PostgreSQL could lose what they acknowledge.
    """
    metrics = MatcherMetrics()
    port = settings.matcher_metrics_port(min(shards), standby=standby)
    serve_metrics(metrics.registry, settings.host, port)
    async with AsyncExitStack() as opened:
        opened.enter_context(tracing_as("matcher", settings))
        redis = await opened.enter_async_context(redis_client(settings))
        matchers = [await _matcher(settings, Shard(s), redis, metrics, opened) for s in shards]
        try:
            async with asyncio.TaskGroup() as tasks:
                for matcher in matchers:
                    tasks.create_task(matcher.run())
        except ExceptionGroup as failed:
            unsafe = failed.subgroup(UnsafeSettings)
            raise (unsafe.exceptions[0] if unsafe else failed) from None


async def _matcher(
    settings: Settings,
    shard: Shard,
    redis: Redis,
    metrics: MatcherMetrics,
    opened: AsyncExitStack,
) -> Matcher:
    commands = await opened.enter_async_context(
        KafkaCommandLog(
            settings.kafka_bootstrap_servers,
            settings.kafka_topic,
            shard,
            allow_unsafe=settings.allow_unsafe,
        )
    )
    events = await opened.enter_async_context(
        PostgresEventStore(settings.database_url, shard, allow_unsafe=settings.allow_unsafe)
    )
    return Matcher(shard, commands, events, RedisOutcomes(redis), metrics)
