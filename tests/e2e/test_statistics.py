"""Answers about trades, clients and cycles, compared with a fold of the log.

The load has two instruments of different scales, and a settlement cycle is closed during it. After
it, every answer of the HTTP interface and every table is compared with
``tests/projections/folds.py``, which shares no code with the exchange.
"""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from tests.e2e.conftest import client_of
from tests.e2e.told import NAMES, Told, assert_answers
from tests.load import Load
from tests.projections.conftest import catch_up, make_engine
from tests.projections.folds import (
    fold_instruments,
)
from tests.projections.models import assert_models_equal_folds, read_log
from tests.running import Exchange

pytestmark = pytest.mark.anyio

HALF_COMMANDS = 250
HALF_TIMEOUT_S = 60.0
HALF_MINUTE_S = 30.0


async def assert_figures_equal_folds(
    exchange: Exchange, name: str, half: Callable[[Load], Awaitable[None]]
) -> None:
    async with client_of(exchange.urls[-1]) as http:
        async with Load(exchange.urls, NAMES, name=name) as load:
            await half(load)
            closed = await http.post("/settlement/cycles/close")
            await half(load)
        assert closed.status_code in (201, 202), closed.text
        assert not load.history.unresolved
        connection = await asyncpg.connect(exchange.settings.database_url)
        try:
            log, heads = await read_log(connection), await read_heads(connection)
            async with Redis.from_url(exchange.settings.redis_url) as redis:
                await until_caught_up(exchange, redis, connection)
                await assert_models_equal_folds(connection, redis)
            told = Told(http, log, dict(heads), fold_instruments(log))
            await assert_answers(told)
        finally:
            await connection.close()


async def until_caught_up(exchange: Exchange, redis: Redis, connection: asyncpg.Connection) -> None:
    engine = make_engine(exchange.settings.database_url)
    try:
        await catch_up(engine, redis, connection)
    finally:
        await engine.dispose()


async def test_figures_equal_folds_of_the_log(exchange: Exchange) -> None:
    await assert_figures_equal_folds(exchange, "figures", some_commands)


async def some_commands(load: Load) -> None:
    await load.until_resolved(HALF_COMMANDS, HALF_TIMEOUT_S)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_figures_equal_folds_of_the_log_after_a_minute(exchange: Exchange) -> None:
    await assert_figures_equal_folds(exchange, "long figures", half_a_minute)


async def half_a_minute(_load: Load) -> None:
    await asyncio.sleep(HALF_MINUTE_S)
