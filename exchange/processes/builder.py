"""The builder's process and what PostgreSQL does for it, at the lowest priority."""

import gc
import os
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from exchange.config import Settings
from exchange.processes.backends import lower_priority
from exchange.processes.pool import STORE_TIMEOUT_S, engine_of
from exchange.processes.running import redis_client
from exchange.telemetry.metrics import serve_metrics
from projections.builder.builder import Builder
from projections.builder.metrics import BuilderMetrics
from projections.lifecycle.definitions import Definitions
from projections.registry import all_projections

NICENESS: Final = 19
# A fold makes objects by the million and no cycles; walking them often would cost a third of it.
GARBAGE: Final = (100_000, 20, 100)
POOL_MAX: Final = 2  # for what definitions ask; rows are read and written over own connections

SESSION: Final = {"application_name": "exchange builder", "jit": "off"}


async def run_builder(settings: Settings) -> None:
    """Build, verify and switch the generations that operators want."""
    os.nice(NICENESS)
    gc.set_threshold(*GARBAGE)
    metrics = BuilderMetrics()
    serve_metrics(metrics.registry, settings.host, settings.builder_metrics_port)

    async def connect() -> asyncpg.Connection:
        connection = await asyncpg.connect(
            settings.database_url, timeout=STORE_TIMEOUT_S, server_settings=SESSION
        )
        await lower_priority(connection, NICENESS)
        return connection

    async with AsyncExitStack() as opened:
        engine = await opened.enter_async_context(engine_of(settings, POOL_MAX))
        redis = await opened.enter_async_context(redis_client(settings))
        builder = Builder(
            connect,
            redis,
            Definitions(all_projections(engine, redis)),
            keep_former_hours=settings.keep_former_hours,
            metrics=metrics,
        )
        await builder.run()
