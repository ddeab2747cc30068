"""The gateway's process."""

import asyncio
from contextlib import AsyncExitStack

from exchange.command_log import CommandProducer
from exchange.config import Settings
from exchange.gateway.app import create_app, serve
from exchange.gateway.limits import Limit, Limits
from exchange.processes.pool import engine_of
from exchange.processes.running import redis_client, tracing_as


async def run_gateway(settings: Settings, port: int, stopping: asyncio.Event) -> None:
    """Serve HTTP on ``port`` until asked to stop, then finish what is in flight."""
    producer = CommandProducer(
        settings.kafka_bootstrap_servers, settings.kafka_topic, loop=asyncio.get_running_loop()
    )
    async with AsyncExitStack() as opened:
        opened.enter_context(tracing_as("gateway", settings))
        engine = await opened.enter_async_context(engine_of(settings))
        redis = await opened.enter_async_context(redis_client(settings))
        app = create_app(
            engine=engine,
            redis=redis,
            producer=producer,
            shards=settings.shards,
            order_wait_ms=settings.order_wait_ms,
            stream_origins=settings.stream_origins,
            limits=_limits(settings),
            proxies=settings.trusted_proxies,
            cancels_name_owner=settings.cancels_name_owner,
            connections_per_address=settings.stream_connections_per_address,
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
        retries=Limit(settings.rate_limit_retries_per_second, settings.rate_limit_retries_burst),
        operations=Limit(
            settings.rate_limit_operations_per_second, settings.rate_limit_operations_burst
        ),
        history=Limit(settings.rate_limit_history_per_second, settings.rate_limit_history_burst),
    )


async def _stop_when_failed(producer: CommandProducer, stopping: asyncio.Event) -> None:
    await producer.failed.wait()
    stopping.set()
