"""Generations are made once, filled while another is live, and go live only when caught up."""

import asyncio
import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.orders import ORDER_EVENTS, ORDERS
from projections.projector import follower
from projections.projector.lifecycle import (
    Generation,
    GenerationBehind,
    create_generation,
    ensure_generation,
    mark_failed,
    read_generations,
    retry_failed,
    switch_live,
)
from projections.stores.checkpoints import (
    ReadModelStale,
    ReadModelUnavailable,
    SequenceWaits,
    read_checkpoints,
    read_live_generation,
)
from projections.stores.postgres import driver_connection
from tests.projections.conftest import CATCH_UP_TIMEOUT_MS, IN_VAIN_MS, RunProjector, catch_up
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds

pytestmark = pytest.mark.anyio

TABLES = (ORDERS, ORDER_EVENTS)

READ_PARTITIONS = """
select inhrelid::regclass::text from pg_inherits
where inhparent in ('orders'::regclass, 'order_events'::regclass) order by 1
"""


async def partitions(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(READ_PARTITIONS)]


async def test_projectors_that_start_at_once_make_one_generation(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async def start() -> None:
        async with driver_connection(engine) as driver:
            await ensure_generation(driver, "orders", TABLES)

    await asyncio.gather(*(start() for _ in range(8)))

    assert await read_generations(connection) == [Generation("orders", 1, "building", live=False)]
    assert await partitions(connection) == ["order_events_g1", "orders_g1"]


async def test_before_a_generation_is_live_the_model_is_unavailable(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    await create_generation(connection, "orders", TABLES)

    async with engine.connect() as reader:
        with pytest.raises(ReadModelUnavailable):
            await read_checkpoints(reader, "orders")
        with pytest.raises(ReadModelUnavailable):
            await read_live_generation(reader, "orders")
    with pytest.raises(ReadModelUnavailable):
        await SequenceWaits(engine).reach("orders", {0: 0}, timeout_ms=IN_VAIN_MS)


async def test_a_generation_that_is_behind_does_not_go_live(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        async with projector():
            await catch_up(engine, redis, connection)
    await create_generation(connection, "orders", TABLES)

    with pytest.raises(GenerationBehind):
        await switch_live(connection, "orders", 2)

    orders = [g for g in await read_generations(connection) if g.projection == "orders"]
    assert orders == [
        Generation("orders", 1, "live", live=True),
        Generation("orders", 2, "building", live=False),
    ]


async def test_a_second_generation_is_filled_beside_the_live_one_and_takes_over(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(1)
    waits = SequenceWaits(engine)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(chance, 200)
        await catch_up(engine, redis, connection)
        generation = await create_generation(connection, "orders", TABLES)
        for _ in range(20):
            await writer.append_random(chance, 10)
        while (await _position(connection, generation)) < writer.position:
            await asyncio.sleep(0.02)
        await switch_live(connection, "orders", generation)
        await writer.append_random(chance, 30)
        await waits.reach("orders", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)
    orders = [g for g in await read_generations(connection) if g.projection == "orders"]
    assert orders == [
        Generation("orders", 1, "retired", live=False),
        Generation("orders", 2, "live", live=True),
    ]


async def test_a_generation_whose_projector_is_killed_at_half_is_filled_by_the_next(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "BATCH_EVENTS_MAX", 10)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(2), 400)
        async with projector():
            await catch_up(engine, redis, connection)
        generation = await create_generation(connection, "orders", TABLES)
        async with projector(pace_ms=20):
            while not await _position(connection, generation):
                await asyncio.sleep(0.01)
        half = await _position(connection, generation)
        await assert_models_equal_folds(connection, redis)  # what is read is still the first
        async with projector():
            while (await _position(connection, generation)) < writer.position:
                await asyncio.sleep(0.02)
            await switch_live(connection, "orders", generation)

    assert 0 < half < writer.position
    await assert_models_equal_folds(connection, redis)


async def test_a_failed_generation_is_tried_again_by_the_next_projector(
    connection: asyncpg.Connection,
) -> None:
    await create_generation(connection, "orders", TABLES)
    await mark_failed(connection, "orders", 1, "an event")
    await switch_live(connection, "orders", 1)
    await create_generation(connection, "orders", TABLES)
    await mark_failed(connection, "orders", 2, "an event")
    assert [g.state for g in await read_generations(connection)] == ["failed", "failed"]

    await retry_failed(connection)

    assert [g.state for g in await read_generations(connection)] == ["live", "building"]


async def test_a_waiter_is_told_when_the_model_does_not_get_there(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    waits = SequenceWaits(engine)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)

        reached = await waits.reach("orders", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
        never = await asyncio.gather(
            waits.reach("orders", {0: writer.position + 1}, timeout_ms=IN_VAIN_MS),
            waits.reach("orders", {7: 1}, timeout_ms=IN_VAIN_MS),
            return_exceptions=True,
        )

    assert reached == {0: 2}
    assert [type(error) for error in never] == [ReadModelStale, ReadModelStale]
    assert str(never[0]) == "orders is at 0:2, not yet at 0:3"


async def test_many_wait_at_once_and_one_that_gives_up_disturbs_no_other(
    database_url: str,
    engine: AsyncEngine,
    projector: RunProjector,
) -> None:
    waits = SequenceWaits(engine)
    async with LogWriter.open(database_url) as writer, projector():
        waiting = [
            asyncio.create_task(waits.reach("orders", {0: 2}, timeout_ms=CATCH_UP_TIMEOUT_MS))
            for _ in range(200)
        ]
        await asyncio.sleep(0.1)
        waiting[0].cancel()
        await writer.append(registrations(0))
        results = await asyncio.gather(*waiting[1:])

    assert results == [{0: 2}] * 199


async def _position(connection: asyncpg.Connection, generation: int) -> int:
    position: int | None = await connection.fetchval(
        "select position from checkpoints where projection = 'orders' and generation = $1",
        generation,
    )
    return position or 0
