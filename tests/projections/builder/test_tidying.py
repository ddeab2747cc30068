"""What is retired is deleted beside the building, however long somebody reads its parent."""

import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.builder import tidying
from projections.builder.working import Connect
from projections.lifecycle.changes import retire
from projections.stores import partitions
from projections.trades import trades_projection
from tests.projections.builder.test_builder import begin, building_in, until
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR, begin_generation
from tests.projections.test_models import write_two_shards

pytestmark = pytest.mark.anyio


async def test_a_long_reader_of_a_table_holds_up_its_deletion_and_no_build(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("projections.lifecycle.retiring.GRACE_S", 0)
    monkeypatch.setattr(partitions, "DETACH_S", 0.3)
    async with projector():
        await write_two_shards(database_url, random.Random(51), batches=5)
        await catch_up(engine, redis, connection)
        retired = []
        for _ in range(2):
            retired.append(await begin_generation(connection, trades_projection(engine)))
            await retire(connection, "trades", retired[-1], OPERATOR)
        reader = await connect()
        async with reader.transaction():
            await reader.fetch("select from trades limit 1")
            async with building_in(connect, engine, redis):
                for name in ("trades", "vwap"):
                    number = await begin(connection, engine, redis, name)
                    await until(connection, name, number, lambda g: g.live)
                (*_, is_pending) = await connection.fetch(partitions.READ_ATTACHED, "trades_g2")
        # The next builder finds what is half done.
        monkeypatch.setattr(tidying, "AGAIN_S", 0.1)
        async with reader.transaction():
            await reader.fetch("select from trades limit 1")
            async with building_in(connect, engine, redis):
                caplog.clear()
                number = await begin(connection, engine, redis, "vwap")
                await until(connection, "vwap", number, lambda g: g.live)
        async with building_in(connect, engine, redis):
            for one in retired:
                await until(connection, "trades", one, lambda g: g.dropped_at is not None)
        await reader.close()

    assert is_pending["inhdetachpending"]
    waits = [one.message for one in caplog.records if "waits for its store" in one.message]
    assert waits == []
