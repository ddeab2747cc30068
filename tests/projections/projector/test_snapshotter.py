"""Snapshots are taken at the ends of batches, by events, by time and on demand."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.commands import CancelOrder, PlaceOrder
from exchange.domain.values import OrderType, Position, Price, Quantity, Side
from exchange.log import snapshot_store
from exchange.log.snapshot_store import WISH, SnapshotRow, stored_snapshots
from exchange.log.snapshots import newest_usable
from projections.projector.metrics import ProjectorMetrics
from projections.projector.snapshotter import SnapshotPace, Snapshotter
from projections.projector.tail import ShardTail
from tests.projections.logs import SMALL_TICK, LogWriter, instruments_of, registrations

pytestmark = pytest.mark.anyio

WAIT_S = 30.0
NEVER = SnapshotPace(events=10**9, seconds=10**6)


@asynccontextmanager
async def running(
    engine: AsyncEngine, pace: SnapshotPace, metrics: ProjectorMetrics | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(Snapshotter(engine, ShardTail(engine, 0), pace, metrics).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def taken(connection: asyncpg.Connection, at_least: int) -> SnapshotRow:
    async with asyncio.timeout(WAIT_S):
        while (row := await snapshot_store.newest(connection, 0, at_least=at_least)) is None:
            await asyncio.sleep(0.02)
    return row


async def assert_right(connection: asyncpg.Connection, row: SnapshotRow) -> None:
    """A snapshot stands at the end of a batch and has the digest that is recorded there."""
    query = "select state_digest from batches where shard = 0 and position = $1"
    assert await connection.fetchval(query, row.position) == row.digest
    usable = await newest_usable(stored_snapshots(connection, 0, up_to=Position(row.position)))
    assert usable is not None
    assert (usable[0].position, usable[0].digest) == (row.position, row.digest)


async def write(writer: LogWriter, batches: int) -> None:
    chance = random.Random(batches)
    await writer.append(registrations(0))
    for _ in range(batches):
        await writer.append_random(chance, chance.randint(1, 60))


@pytest.mark.parametrize(
    "pace", [SnapshotPace(100, 10**6), SnapshotPace(10**9, 1)], ids=["events", "seconds"]
)
async def test_one_is_taken_in_time(
    pace: SnapshotPace, database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async with LogWriter.open(database_url) as writer:
        await write(writer, 20)
        async with running(engine, pace):
            row = await taken(connection, at_least=100)

    await assert_right(connection, row)


async def test_a_wish_is_fulfilled_and_the_next_one_begins_there(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async with LogWriter.open(database_url) as writer:
        await write(writer, 5)
        async with running(engine, NEVER):
            assert await snapshot_store.newest(connection, 0) is None
            await connection.execute(WISH, 0, writer.position)
            first = await taken(connection, writer.position)
        await write(writer, 5)
        async with running(engine, NEVER), running(engine, NEVER):
            await connection.execute(WISH, 0, writer.position)
            second = await taken(connection, writer.position)

    assert first.position < second.position == writer.position
    await assert_right(connection, second)


async def test_a_state_that_differs_is_not_stored(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async with LogWriter.open(database_url) as writer:
        await write(writer, 3)
        writer.state.digest_sum += 1  # as if the matcher had another state than its log gives
        await writer.append_random(random.Random(1), 5)
        await connection.execute(WISH, 0, writer.position)
        metrics = ProjectorMetrics()
        async with running(engine, NEVER, metrics) as task:
            await asyncio.wait_for(asyncio.shield(task), WAIT_S)

    assert await snapshot_store.newest(connection, 0) is None
    stopped = ("exchange_projector_snapshots_stopped", {"shard": "0"})
    assert metrics.registry.get_sample_value(*stopped) == 1
    assert "gives another state" in (await snapshot_store.read_failures(connection))[0]


async def test_an_event_that_cannot_be_applied_ends_the_snapshots_alone(
    database_url: str, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with LogWriter.open(database_url) as writer:
        instrument, _ = instruments_of(0)
        order = PlaceOrder(
            "o", "ann", instrument, Side.BUY, OrderType.LIMIT, Price(SMALL_TICK), Quantity(10)
        )
        *_, cancelled = await writer.append(
            [*registrations(0), order, CancelOrder("o", instrument, None)]
        )
        twice = structs.replace(cancelled, position=Position(cancelled.position + 1))
        await writer.append_events([twice])
        async with running(engine, NEVER) as task:
            await asyncio.wait_for(asyncio.shield(task), WAIT_S)

    assert f"Snapshots end at {twice.position}" in caplog.text


@pytest.mark.parametrize(
    "harm", ["version = version + 1", "data = '\\x00'"], ids=["too new", "damaged"]
)
async def test_a_snapshot_of_no_use_gives_way_to_a_good_one(
    harm: str, database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async with LogWriter.open(database_url) as writer:
        await write(writer, 5)
        async with running(engine, NEVER):
            await connection.execute(WISH, 0, writer.position)
            good = await taken(connection, writer.position)
        await connection.execute(f"update snapshots set {harm}")
        usable = stored_snapshots(connection, 0, up_to=Position(writer.position))
        assert await newest_usable(usable) is None
        async with running(engine, SnapshotPace(1, 1)):
            async with asyncio.timeout(WAIT_S):
                while (row := await taken(connection, writer.position)).taken_at == good.taken_at:
                    await asyncio.sleep(0.02)

    await assert_right(connection, row)
