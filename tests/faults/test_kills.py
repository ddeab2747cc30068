"""kill -9 under load, five times each: nothing is lost, nothing is doubled.

Like a careful client, the load resends commands without an outcome. Then its history is compared
with the log, and the read models with folds of the log.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from exchange.config import Settings
from exchange.stack.host.child import ManagedProcess
from tests.checks import check_history, check_log, check_positions_sum_to_zero
from tests.conftest import free_ports
from tests.load import Load
from tests.projections.models import assert_models_equal_folds, stored_positions
from tests.running import INSTRUMENTS, Exchange, running

pytestmark = pytest.mark.anyio

KILLS = 5
COMMANDS_BETWEEN = 25  # enough for each kill to hit batches at work
CAUGHT_UP_WITHIN_S = 30.0

Victims = Callable[[Exchange], list[ManagedProcess]]


@pytest.fixture
def two_shards(settings: Settings, make_topic: Callable[..., str]) -> Settings:
    """Two shards, so that a kill hits one of them while the other goes on."""
    return replace(
        settings, shards=2, matchers=2, gateways=2, kafka_topic=make_topic(2), port=free_ports(2)[0]
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(lambda exchange: exchange.matchers, id="matcher"),
        pytest.param(lambda exchange: [exchange.projector], id="projector"),
        pytest.param(lambda exchange: exchange.gateways, id="gateway"),
    ],
)
async def test_five_kills_lose_and_double_nothing(
    two_shards: Settings, tmp_path: Path, victims: Victims
) -> None:
    async with running(two_shards, tmp_path) as exchange:
        instruments = [str(i["instrument"]) for i in INSTRUMENTS]
        async with Load(exchange.urls, instruments) as load:
            await load.until_resolved(COMMANDS_BETWEEN)
            for _ in range(KILLS):
                await asyncio.gather(*map(exchange.kill_and_restart, victims(exchange)))
                await load.until_resolved(COMMANDS_BETWEEN)
        await check_everything(two_shards, load)


async def check_everything(settings: Settings, load: Load) -> None:
    """Hold log, history and read models against each other."""
    connection = await asyncpg.connect(settings.database_url)
    async with Redis.from_url(settings.redis_url) as redis:
        log = await check_log(connection)
        check_history(load.history, log)
        await until_models_equal_folds(connection, redis)
        check_positions_sum_to_zero(list((await stored_positions(connection)).values()))
    await connection.close()


async def until_models_equal_folds(connection: asyncpg.Connection, redis: Redis) -> None:
    """Compare until equal, since the projector may still be catching up."""
    deadline_s = time.monotonic() + CAUGHT_UP_WITHIN_S
    while True:
        try:
            await assert_models_equal_folds(connection, redis)
        except AssertionError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.2)
        else:
            return
