"""What is retired is deleted beside the building, however long somebody reads its parent."""

import asyncio
import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.builder import tidying
from projections.builder.working import Connect
from projections.lifecycle.changes import retire
from projections.lifecycle.generations import generations_of
from projections.stores import partitions
from projections.trades import trades_projection
from tests.projections.builder.test_builder import begin, building_in, until
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR, begin_generation, go_live, projection_of
from tests.projections.test_models import write_two_shards

pytestmark = pytest.mark.anyio

LOOKS_AGAIN_S = 1.0  # some four times
NOBODY_PORT = 1


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


async def test_a_generation_that_cannot_be_deleted_is_told_and_holds_up_no_other(
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("projections.lifecycle.retiring.GRACE_S", 0)
    monkeypatch.setattr(tidying, "AGAIN_S", 0.1)
    for name in ("trades", "orders", "vwap"):
        projection = projection_of(engine, redis, name)
        number = await begin_generation(connection, projection)
        await go_live(connection, [projection], name, number)
        number = await begin_generation(connection, projection)
        await retire(connection, name, number, OPERATOR)
    await connection.execute("create view of_somebody as select price from trades_g2")
    of_another_build = "update generations set fingerprint = '7-ff' where projection = 'orders'"
    await connection.execute(of_another_build)

    async with building_in(connect, engine, redis):
        await until(connection, "vwap", 2, lambda g: g.dropped_at is not None)
        await asyncio.sleep(LOOKS_AGAIN_S)
        left = [(await generations_of(connection, name))[1] for name in ("trades", "orders")]
        told = [vars(one) for one in caplog.records if "rows of a retired" in one.message]
        await connection.execute("drop view of_somebody")
        await until(connection, "trades", 2, lambda g: g.dropped_at is not None)

    assert [one.dropped_at for one in left] == [None, None]
    reasons = {one["projection"]: one["reason"] for one in told}
    assert (len(told), sorted(reasons)) == (2, ["orders", "trades"])
    assert "view of_somebody depends on table trades_g2" in reasons["trades"]
    assert reasons["orders"] == "this build has no definition of its tables (7-ff)"


async def test_tables_are_deleted_while_redis_is_away(
    engine: AsyncEngine,
    connection: asyncpg.Connection,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("projections.lifecycle.retiring.GRACE_S", 0)
    await begin_generation(connection, trades_projection(engine))
    await retire(connection, "trades", 1, OPERATOR)

    async with Redis(port=NOBODY_PORT) as away, building_in(connect, engine, away):
        await until(connection, "trades", 1, lambda g: g.dropped_at is not None)
