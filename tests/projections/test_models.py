"""Every read model equals an independent fold of the log, however it was filled."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import DecidedEvent, load_event
from projections.orders import orders_projection
from projections.projector.follower import Projection
from projections.registry import all_projections
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import batch_of, begin_generation, go_live
from tests.projections.logs import (
    LogWriter,
    doubled,
    random_account_commands,
    registrations,
)
from tests.projections.models import assert_models_equal_folds, read_log, stored_orders

pytestmark = pytest.mark.anyio


async def write_two_shards(database_url: str, chance: random.Random, batches: int) -> None:
    """Append random batches to two shards that compete for some order ids."""
    taken: set[str] = set()
    async with (
        LogWriter.open(database_url, 0, taken=taken) as first,
        LogWriter.open(database_url, 1, taken=taken) as second,
    ):
        for writer in (first, second):
            await writer.append(registrations(writer.shard) + doubled(writer.shard))
        about_accounts = random.Random(batches)
        for _ in range(batches):
            writer = chance.choice((first, second))
            await writer.append_random(chance, chance.randint(1, 40))
            await writer.append(random_account_commands(about_accounts, 4))


async def fill(
    projection: Projection, generation: int, events: Sequence[DecidedEvent], batches_of: int
) -> None:
    """Apply a shard's events in batches of random sizes up to ``batches_of``."""
    chance = random.Random(batches_of)
    after = await projection.resume(generation, events[0].shard)
    while after < events[-1].position:
        batch = events[after : after + chance.randint(1, batches_of)]
        assert await projection.apply(generation, batch_of(batch))
        after = batch[-1].position


def by_shard(events: Sequence[DecidedEvent]) -> Iterator[list[DecidedEvent]]:
    for shard in (0, 1):
        yield [decided for decided in events if decided.shard == shard]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
async def test_models_follow_two_shards(
    seed: int,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with projector():
        await write_two_shards(database_url, random.Random(seed), batches=60)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


async def test_two_projectors_at_once_apply_each_event_once(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with projector(pace_ms=0), projector(pace_ms=0), projector(pace_ms=3):
        await write_two_shards(database_url, random.Random(7), batches=40)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


@pytest.mark.parametrize("batches_of", [1, 7, 2_000])
async def test_any_batching_gives_the_same_models(
    batches_of: int,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
) -> None:
    await write_two_shards(database_url, random.Random(11), batches=4)
    events = [load_event(stored) for stored in await read_log(connection)]

    for projection in all_projections(engine, redis):
        generation = await begin_generation(connection, projection)
        for shard_events in by_shard(events):
            await fill(projection, generation, shard_events, batches_of)
        await go_live(connection, [projection], projection.name, generation)

    await assert_models_equal_folds(connection, redis)


async def test_a_batch_that_is_not_the_next_one_changes_nothing(
    database_url: str, engine: AsyncEngine, redis: Redis, connection: asyncpg.Connection
) -> None:
    await write_two_shards(database_url, random.Random(13), batches=20)
    events = [load_event(stored) for stored in await read_log(connection) if stored.shard == 0]

    for projection in all_projections(engine, redis):
        generation = await begin_generation(connection, projection)
        assert not await projection.apply(generation, batch_of(events[:9])), (
            "before there is a checkpoint"
        )
        await projection.resume(generation, 0)
        await projection.resume(generation, 1)
        assert await projection.apply(generation, batch_of(events[:9]))
        assert not await projection.apply(generation, batch_of(events[:9])), "again"
        assert not await projection.apply(generation, batch_of(events[10:])), "with a gap"
        for shard_events in by_shard([load_event(s) for s in await read_log(connection)]):
            await fill(projection, generation, shard_events, batches_of=50)
        await go_live(connection, [projection], projection.name, generation)

    await assert_models_equal_folds(connection, redis)


async def test_a_connection_lost_between_write_and_commit_leaves_neither(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    await write_two_shards(database_url, random.Random(17), batches=5)
    events = [load_event(stored) for stored in await read_log(connection) if stored.shard == 0]
    orders = orders_projection(engine)
    generation = await begin_generation(connection, orders)
    await go_live(connection, [orders], orders.name, generation)

    async def project_and_die(
        driver: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
    ) -> None:
        await orders.project(driver, generation, events)
        assert await driver.fetchval("select count(*) from orders") > 0
        await driver.execute("select pg_terminate_backend(pg_backend_pid())")

    dying = replace(orders, project=project_and_die)
    await dying.resume(generation, 0)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await dying.apply(generation, batch_of(events))

    assert await orders.resume(generation, 0) == 0
    assert await stored_orders(connection) == {}
