"""The gateway's process."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Final

from exchange.config import OWN_CONNECTIONS, Settings
from exchange.door.modes import Door
from exchange.gateway.app import create_app, serve
from exchange.gateway.http.analyst import Analyst
from exchange.gateway.server.server import OWN_DESCRIPTORS, Caps
from exchange.processes.budgets import limits_of
from exchange.processes.descriptors import descriptors
from exchange.processes.door import master_keys_of, told_hosts_of
from exchange.processes.pool import engine_of
from exchange.processes.running import redis_client, tracing_as
from exchange.transport.commands import CommandProducer

logger = logging.getLogger(__name__)

# Connections to Redis besides one for each shard's feed. Limits, the probe and the subscription to
# outcomes take one each; the rest is for requests that were given up and are still on their way.
OWN_REDIS_CONNECTIONS: Final = 8


async def run_gateway(settings: Settings, port: int, stopping: asyncio.Event) -> None:
    """Serve HTTP on ``port`` until asked to stop, then finish what is in flight."""
    hosts = told_hosts_of(settings, "HOST")
    masters = master_keys_of(settings)
    producer = CommandProducer(
        settings.kafka_bootstrap_servers, settings.kafka_topic, loop=asyncio.get_running_loop()
    )
    async with AsyncExitStack() as opened:
        opened.enter_context(tracing_as("gateway", settings))
        # Two clients of each store: what clients read takes no connection that commands need.
        engine = await opened.enter_async_context(engine_of(settings, settings.gateway_connections))
        own_engine = await opened.enter_async_context(engine_of(settings, OWN_CONNECTIONS))
        redis = await opened.enter_async_context(redis_client(settings))
        own_redis = await opened.enter_async_context(
            redis_client(settings, settings.shards + OWN_REDIS_CONNECTIONS)
        )
        analyst = Analyst(settings.analyst_address)
        opened.push_async_callback(analyst.close)
        app = create_app(
            engine=engine,
            redis=redis,
            own_engine=own_engine,
            own_redis=own_redis,
            analyst=analyst,
            producer=producer,
            shards=settings.shards,
            order_wait_ms=settings.order_wait_ms,
            stream_origins=settings.stream_origins,
            limits=limits_of(settings),
            proxies=settings.trusted_proxies,
            cancels_name_owner=settings.cancels_name_owner,
            connections_per_address=settings.stream_connections_per_address,
            hosts=hosts,
            masters=masters,
        )
        failing = asyncio.create_task(_stop_when_failed(producer, stopping))
        inside = settings.inside_port(port) if hosts.door is Door.KEYS else None
        await serve(app, settings.host, port, stopping, _caps(settings), inside)
        failing.cancel()
    if producer.failed.is_set():
        raise SystemExit("The Kafka client failed for good: see the log above.")


def _caps(settings: Settings) -> Caps:
    """Return how many connections are accepted: as set, or as many as there are descriptors for."""
    asked = Caps(
        settings.connections_max, settings.connections_per_address, settings.trusted_proxies
    )
    caps = asked.within(descriptors(asked.total + OWN_DESCRIPTORS))
    if caps.total < asked.total:
        told = {"connections_max": asked.total, "taken": caps.total}
        logger.warning("RLIMIT_NOFILE allows fewer connections than CONNECTIONS_MAX", extra=told)
    return caps


async def _stop_when_failed(producer: CommandProducer, stopping: asyncio.Event) -> None:
    await producer.failed.wait()
    stopping.set()
