"""Every read model equals an independent fold of the log, however it was filled."""

import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projections.conftest import RunProjector, catch_up
from tests.projections.logs import LogWriter, random_commands, registrations
from tests.projections.models import assert_models_equal_folds

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", range(3))
async def test_models_follow_two_shards(
    seed: int,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(seed)
    taken: set[str] = set()
    async with (
        LogWriter.open(database_url, 0, taken=taken) as first,
        LogWriter.open(database_url, 1, taken=taken) as second,
        projector(),
    ):
        for writer in (first, second):
            await writer.append(registrations(writer.shard))
        for _ in range(60):
            writer = chance.choice((first, second))
            commands = random_commands(chance, writer.shard, chance.randint(1, 40))
            await writer.append(commands)
        await catch_up(engine, redis, connection)

        await assert_models_equal_folds(connection, redis)
