"""A projector outlives its stores, stops at events it cannot apply, and is quick when idle."""

import asyncio
import random

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import OrderCancelled
from exchange.domain.values import CancelReason, Offset, Position, Quantity, Shard, Side
from exchange.log.events import store_event
from exchange.log.identity import keyed_command_id
from exchange.ports import StoredEvent
from projections.lifecycle.skips import ADD_SKIP
from projections.orders import orders_projection
from projections.projector import follower
from projections.registry import IN_POSTGRES, IN_REDIS, READ_MODELS
from projections.stores.checkpoints import SequenceWaits
from tests.conftest import free_ports
from tests.projections.conftest import CATCH_UP_TIMEOUT_MS, RunProjector, catch_up
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds, stored_checkpoints

pytestmark = pytest.mark.anyio

COMMAND_ID = keyed_command_id("ann", "key")
APPENDS = 7

READ_FAILURES = "select projection, failure from generations where state = 'failed'"

CUT_PROJECTORS = """
select pg_terminate_backend(pid) from pg_stat_activity
where application_name = 'projector' and datname = current_database()
"""

COUNT_LISTENERS = """
select count(*) from pg_stat_activity
where application_name = 'projector' and datname = current_database() and query ilike 'listen%'
"""


def cancel_of_nothing(writer: LogWriter) -> StoredEvent:
    """An event that only the orders cannot apply: the order was never accepted."""
    event = OrderCancelled(
        order_id="never-accepted",
        client_id="ann",
        instrument="SMALL-0",
        side=Side.BUY,
        price=None,
        quantity=Quantity(1),
        reason=CancelReason.REQUESTED,
        time_ms=2_000_000_000_000,
    )
    return store_event(
        event,
        shard=Shard(writer.shard),
        position=Position(writer.position + 1),
        command_id=COMMAND_ID,
        kafka_offset=Offset(1_000_000),
    )


async def until(condition: str, connection: asyncpg.Connection, wanted: object) -> None:
    async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
        while await connection.fetchval(condition) != wanted:
            await asyncio.sleep(0.02)


async def test_a_projector_whose_connections_are_cut_resumes(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(1)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        for batch in range(60):
            await writer.append_random(chance, 20)
            if batch % 15 == 7:
                await connection.execute(CUT_PROJECTORS)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


async def test_a_projector_that_is_restarted_often_resumes(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(2)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        for _ in range(10):
            async with projector(pace_ms=0):
                for _ in range(5):
                    await writer.append_random(chance, 20)
                await asyncio.sleep(chance.random() / 20)
        async with projector():
            await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


async def test_models_go_live_though_redis_is_away_when_they_are_first_made(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection, projector: RunProjector
) -> None:
    nowhere = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        async with projector(redis_url=nowhere) as task:
            await until("select count(*) from live", connection, len(IN_POSTGRES))
            await writer.append_random(random.Random(6), 20)
            for name in IN_POSTGRES:
                heads = {0: writer.position}
                await SequenceWaits(engine).reach(name, heads, timeout_ms=CATCH_UP_TIMEOUT_MS)

            assert not task.done(), task


async def test_an_event_that_one_projection_cannot_apply_stops_only_that_one(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(3)
    async with (
        LogWriter.open(database_url, 0) as writer,
        LogWriter.open(database_url, 1) as healthy,
    ):
        await writer.append(registrations(0))
        async with projector():
            await catch_up(engine, redis, connection)
        await writer.append_random(chance, 30)
        stopped_at = writer.position
        await writer.append_events([cancel_of_nothing(writer)])

        async with projector():  # which meets it at the end of a batch
            await until("select count(*) from generations where state = 'failed'", connection, 1)
            await healthy.append(registrations(1))
            await healthy.append_random(chance, 30)
            waits = SequenceWaits(engine)
            heads = {0: stopped_at + 1, 1: healthy.position}
            for name in ("instruments", "trades", "positions"):
                await waits.reach(name, heads, timeout_ms=CATCH_UP_TIMEOUT_MS)
            await waits.reach("orders", {1: healthy.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)

    ((name, failure),) = await connection.fetch(READ_FAILURES)
    assert name == "orders"
    assert failure.startswith(
        f"shard 0: OrderCancelled at position {stopped_at + 1} of shard 0: ValueError("
    )
    assert (await stored_checkpoints(connection))["orders", 0] == stopped_at


async def test_a_follower_passes_over_an_event_that_was_skipped_while_it_ran(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    made_by = orders_projection(engine).fingerprint
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        skip = ("orders", made_by, 0, writer.position + 1, "another one failed at it", "a test")
        await connection.execute(ADD_SKIP, *skip)
        await writer.append_events([cancel_of_nothing(writer)])
        await catch_up(engine, redis, connection)

    assert await connection.fetch(READ_FAILURES) == []


async def test_an_unknown_event_stops_every_projection_of_its_shard_and_no_other(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(4)
    async with (
        LogWriter.open(database_url, 0) as writer,
        LogWriter.open(database_url, 1) as healthy,
        projector(),
    ):
        await writer.append(registrations(0))
        await writer.append_random(chance, 30)
        stopped_at = writer.position
        unknown = msgspec.structs.replace(
            cancel_of_nothing(writer), type="OrderTeleported", data='{"type":"OrderTeleported"}'
        )
        await writer.append_events([unknown])
        await until(
            "select count(*) from generations where state = 'failed'", connection, len(READ_MODELS)
        )
        await healthy.append(registrations(1))
        await healthy.append_random(chance, 30)
        for name in IN_POSTGRES:
            await SequenceWaits(engine).reach(
                name, {0: stopped_at, 1: healthy.position}, timeout_ms=CATCH_UP_TIMEOUT_MS
            )

    failures = [failure for _, failure in await connection.fetch(READ_FAILURES)]
    place = f"shard 0: OrderTeleported at position {stopped_at + 1} of shard 0: "
    assert [failure.startswith(place) for failure in failures] == [True] * len(READ_MODELS)
    checkpoints = await stored_checkpoints(connection)
    assert {checkpoints[name, 0] for name in IN_POSTGRES} == {stopped_at}
    for name in IN_REDIS:
        stored = await redis.hget(f"{{{name}:1:0}}:checkpoint", "position")
        assert int(stored or 0) == stopped_at


@pytest.fixture
def told_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No follower looks at the log unless it is told to."""
    monkeypatch.setattr(follower, "POLL_S", 1_000.0)


@pytest.mark.usefixtures("told_only")
async def test_an_idle_projector_is_told_of_what_is_appended(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection, projector: RunProjector
) -> None:
    async with LogWriter.open(database_url) as writer, projector(pace_ms=50):
        await writer.append(registrations(0))
        await until(COUNT_LISTENERS, connection, 1)
        for _ in range(APPENDS):
            await append_while_idle(writer, engine)


@pytest.mark.usefixtures("told_only")
async def test_a_lost_listener_is_replaced(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection, projector: RunProjector
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await until(COUNT_LISTENERS, connection, 1)
        await connection.execute(f"{CUT_PROJECTORS} and query ilike 'listen%'")
        await until(COUNT_LISTENERS, connection, 0)
        await until(COUNT_LISTENERS, connection, 1)
        for _ in range(APPENDS):
            await append_while_idle(writer, engine)


async def append_while_idle(writer: LogWriter, engine: AsyncEngine) -> None:
    """Append when the orders have seen all, and wait until they have seen that too."""
    waits = SequenceWaits(engine)
    await waits.reach("orders", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
    await asyncio.sleep(0.1)
    await writer.append_random(random.Random(5), 5)
    await waits.reach("orders", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
