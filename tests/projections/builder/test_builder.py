"""Rebuilds beside the live generation: complete, verified, switched; killed, and gone on with."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.builder import build as building
from projections.builder import rows
from projections.builder.build import TELL
from projections.builder.builder import Builder
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import Comparison
from projections.builder.lines import LINES_MAX, note, read_lines
from projections.builder.metrics import BuilderMetrics
from projections.builder.steps import READING
from projections.builder.working import Connect
from projections.lifecycle.changes import (
    Refused,
    begin_rebuild,
    pause,
    resume,
    retire,
)
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import Generation, generations_of
from projections.lifecycle.operations import read_operations
from projections.registry import READ_MODELS, all_projections
from projections.stores.redis import end_filling
from tests.builders import account_commands
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR, projection_of
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds
from tests.projections.test_models import write_two_shards

pytestmark = pytest.mark.anyio

END_S = 60.0  # on busy cores nine rebuilds take half of it
# On busy cores followers would never come near a log that grows at a pace of its own.
AHEAD_EVENTS_MAX = 200
READ_AHEAD = """
with reached as (
    select projection, generation, max(position) as position from checkpoints
    where shard = $1 group by projection, generation
)
select coalesce(max(heads.position - reached.position), 0)
from reached join generations using (projection, generation), heads() heads
where heads.shard = $1 and state in ('live', 'catching-up')
"""


@asynccontextmanager
async def building_in(
    connect: Connect,
    engine: AsyncEngine,
    redis: Redis,
    keep_former_hours: int = 24,
    metrics: BuilderMetrics | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a builder until the end of the context."""
    builder = Builder(
        connect,
        redis,
        Definitions(all_projections(engine, redis)),
        keep_former_hours=keep_former_hours,
        metrics=metrics or BuilderMetrics(),
    )
    task = asyncio.create_task(builder.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), repr(task.exception())


async def begin(
    connection: asyncpg.Connection, engine: AsyncEngine, redis: Redis, name: str
) -> int:
    fingerprint = projection_of(engine, redis, name).fingerprint
    return await begin_rebuild(connection, name, fingerprint, OPERATOR)


async def until(
    connection: asyncpg.Connection,
    name: str,
    number: int,
    is_so: Callable[[Generation], bool | Awaitable[bool]],
) -> Generation:
    """Wait until a generation is as wanted."""
    async with asyncio.timeout(END_S):
        while True:
            for generation in await generations_of(connection, name):
                if generation.generation == number and is_so(generation):
                    return generation
            await asyncio.sleep(0.05)


@asynccontextmanager
async def appending(database_url: str, chance: random.Random) -> AsyncIterator[None]:
    """Append random events to both shards, a few at a time, until the end of the context.

    None are appended while the log is far ahead of those that follow it.
    """
    taken: set[str] = set()

    async def append(shard: int) -> None:
        async with LogWriter.open(database_url, shard, taken=taken) as writer:
            await writer.append(registrations(shard) + account_commands())
            while True:
                if await looking.fetchval(READ_AHEAD, shard) <= AHEAD_EVENTS_MAX:
                    await writer.append_random(chance, 5)
                await asyncio.sleep(0.05)

    looking = await asyncpg.create_pool(database_url, min_size=2, max_size=2)
    tasks = [asyncio.create_task(append(shard)) for shard in (0, 1)]
    try:
        yield
        assert not any(task.done() for task in tasks), "nothing was appended any more"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        looking.terminate()


async def compared(
    connect: Connect, engine: AsyncEngine, redis: Redis, name: str, generation: int
) -> Comparison:
    log, session = await connect(), await connect()
    try:
        projection = projection_of(engine, redis, name)
        return await compare(log, session, redis, projection, generation)  # type: ignore[arg-type]
    finally:
        log.terminate()
        session.terminate()


async def test_each_read_model_is_rebuilt_under_load_and_equals_the_log(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On busy cores many a try finds the new generation a batch behind.
    monkeypatch.setattr("projections.builder.builder.SWITCH_PAUSE_S", 0.1)
    chance = random.Random(21)
    async with projector(), building_in(connect, engine, redis):
        async with appending(database_url, chance):
            await catch_up(engine, redis, connection)
            numbers = {name: await begin(connection, engine, redis, name) for name in READ_MODELS}
            for name, number in numbers.items():
                live = await until(connection, name, number, lambda g: g.live)
                assert live.verified is not None, name
        await catch_up(engine, redis, connection)

        await assert_models_equal_folds(connection, redis)
        said = await read_lines(connection)
        for name, number in numbers.items():
            texts = [line.partition(" ")[2] for line in said[f"{name} {number}"]]
            assert re.match("Reading .* events, from 0 on", texts[0]), texts
            assert "Built: followers do the rest" in texts
            assert any(text.startswith("Verified at ") for text in texts), texts
            assert texts[-1] == "Live", texts
            for generation in (1, number):
                found = await compared(connect, engine, redis, name, generation)
                assert (found.different, found.examples) == (0, []), name
                assert found.rows, name


async def test_what_is_said_of_a_build_is_kept_once_and_the_oldest_goes(
    connection: asyncpg.Connection,
) -> None:
    await note(connection, "book", 7, "nobody has begun it")
    await connection.execute(
        "insert into builds (projection, generation, step, done, wanted, seconds, positions)"
        " values ('book', 7, $1, 0, 0, '{}', '{}')",
        READING,
    )
    for number in range(LINES_MAX + 3):
        for _ in range(2):
            await note(connection, "book", 7, f"line {number}")

    lines = (await read_lines(connection))["book 7"]

    assert [line.partition(" ")[2] for line in lines] == [
        f"line {number}" for number in range(3, LINES_MAX + 3)
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ line ", line) for line in lines)


async def test_a_log_that_grows_is_followed_to_its_end(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "WRITE_EVENTS", 50)
    monkeypatch.setattr(building, "ROUND_EVENTS", 200)
    monkeypatch.setattr(building, "BULK_EVENTS_MIN", 5)
    chance = random.Random(22)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(chance, 500)
        await catch_up(engine, redis, connection)
        async with building_in(connect, engine, redis):
            numbers = {
                name: await begin(connection, engine, redis, name) for name in ("orders", "book")
            }
            for name, number in numbers.items():
                while not (await until(connection, name, number, lambda _: True)).live:
                    await writer.append_random(chance, 5)
                    await asyncio.sleep(0.01)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


async def test_an_empty_log_is_rebuilt(
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    database_url: str,
    projector: RunProjector,
    connect: Connect,
) -> None:
    async with LogWriter.open(database_url), projector(), building_in(connect, engine, redis):
        await catch_up(engine, redis, connection)
        for name in ("orders", "book", "feed"):
            number = await begin(connection, engine, redis, name)
            await until(connection, name, number, lambda g: g.live)
            assert (await compared(connect, engine, redis, name, number)).rows == 0


async def test_a_word_on_the_reading_that_comes_late_does_not_take_a_build_back(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance, index, killed = random.Random(29), rows.Tables.index, list[str]()

    async def told_late_and_killed(store: rows.Tables, *connections: asyncpg.Connection) -> None:
        if not killed:
            telling = await connect()
            killed.append(await telling.execute(TELL, "orders", 2, READING, 1, 2, "{}"))
            await telling.close()
            await writer.append_random(chance, 200)  # of orders that began before
            raise ConnectionResetError
        await index(store, *connections)

    monkeypatch.setattr(rows.Tables, "index", told_late_and_killed)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(chance, 200)
        await catch_up(engine, redis, connection)
        async with building_in(connect, engine, redis):
            number = await begin(connection, engine, redis, "orders")
            live = await until(connection, "orders", number, lambda g: g.live or bool(g.failure))

    assert killed == ["UPDATE 1"]
    assert live.failure is None


async def test_a_redis_that_loses_what_is_being_filled_is_filled_again(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[object] = []

    async def lose_all_once(redis: Redis, *place: Any) -> None:
        if not lost:
            lost.append(await redis.flushdb())
        await end_filling(redis, *place)

    monkeypatch.setattr(rows, "end_filling", lose_all_once)
    async with projector(), building_in(connect, engine, redis):
        await write_two_shards(database_url, random.Random(28), batches=5)
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, "book")
        live = await until(connection, "book", number, lambda g: g.live or g.failure is not None)
        await catch_up(engine, redis, connection)

    assert lost
    assert live.failure is None
    await assert_models_equal_folds(connection, redis)


@pytest.mark.parametrize("name", ["orders", "settlement", "ticker"])
async def test_a_builder_that_is_killed_is_gone_on_with(
    name: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "WRITE_EVENTS", 10)
    monkeypatch.setattr(building, "ROUND_EVENTS", 20)
    monkeypatch.setattr("exchange.log.replay.PART_EVENTS", 7)
    chance = random.Random(name)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(chance, 400)
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, name)
        for _ in range(12):
            async with building_in(connect, engine, redis):
                await asyncio.sleep(chance.random() * 0.15)
        async with building_in(connect, engine, redis):
            await until(connection, name, number, lambda g: g.live)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


async def test_a_planted_row_is_named_with_the_last_event_that_made_it(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    async with projector():
        await write_two_shards(database_url, random.Random(23), batches=30)
        await catch_up(engine, redis, connection)
    victim = await connection.fetchrow("select * from positions_g1 order by client_id, instrument")
    await connection.execute(
        "update positions_g1 set net_quantity = net_quantity + 1"
        " where client_id = $1 and instrument = $2",
        victim["client_id"],
        victim["instrument"],
    )
    level = next(k for k in await redis.keys("{book:1:0}:*:quantities"))
    price, quantity = next(iter((await redis.hgetall(level)).items()))
    await redis.hset(level, price, int(quantity) + 1)

    row = await compared(connect, engine, redis, "positions", 1)
    book = await compared(connect, engine, redis, "book", 1)

    (wrong,) = row.examples
    assert row.different == 1
    assert wrong.key == {"client_id": victim["client_id"], "instrument": victim["instrument"]}
    last = (victim["shard"], victim["position"], "TradeExecuted")
    assert wrong.last_event == last
    assert wrong.stored is not None
    assert wrong.folded is not None
    assert wrong.stored["net_quantity"] == wrong.folded["net_quantity"] + 1
    (wrong,) = book.examples
    assert wrong.key["price"] == int(price)
    assert wrong.last_event is not None


async def test_a_generation_that_differs_is_not_switched(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with projector():
        await write_two_shards(database_url, random.Random(24), batches=10)
        await catch_up(engine, redis, connection)
        honest = building.Build.run

        async def spoil(self: building.Build) -> None:
            await honest(self)
            spoiling = await connect()  # the test's own is asking meanwhile
            await spoiling.execute("update trades_g2 set price = price + 1 where position < 60")
            await spoiling.close()

        monkeypatch.setattr(building.Build, "run", spoil)
        number = await begin(connection, engine, redis, "trades")
        async with building_in(connect, engine, redis):
            failed = await until(connection, "trades", number, lambda g: g.state == "failed")
        assert failed.failure is not None
        assert "rows differ from the log, first trades" in failed.failure
        monkeypatch.undo()
        again = await begin(connection, engine, redis, "trades")
        async with building_in(connect, engine, redis):
            await until(connection, "trades", again, lambda g: g.live)

    assert (again, number) == (3, 2)


async def test_a_second_rebuild_is_told_of_the_first_and_paused_ones_wait(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    async with projector():
        await write_two_shards(database_url, random.Random(25), batches=5)
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, "vwap")
        with pytest.raises(Refused, match="Generation 2 of vwap is building: a test began it at"):
            await begin(connection, engine, redis, "vwap")
        await pause(connection, "vwap", number, OPERATOR)
        async with building_in(connect, engine, redis):
            await asyncio.sleep(1.0)
            (_, paused) = await generations_of(connection, "vwap")
            assert (paused.state, paused.built_at) == ("paused", None)
            await resume(connection, "vwap", number, OPERATOR)
            await until(connection, "vwap", number, lambda g: g.live)


@pytest.mark.parametrize("name", ["orders", "book"])
async def test_what_is_retired_leaves_nothing(
    name: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A projector has stopped its followers by then.
    monkeypatch.setattr("projections.lifecycle.retiring.GRACE_S", 3)
    async with projector(), building_in(connect, engine, redis):
        await write_two_shards(database_url, random.Random(26), batches=5)
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, name)
        await until(connection, name, number, lambda g: g.live)
        await retire(connection, name, None, OPERATOR)
        await until(connection, name, 1, lambda g: g.dropped_at is not None)

    noted = await read_operations(connection, name, 100)
    assert [(one.action, one.to_generation) for one in reversed(noted)] == [
        ("begin", 1),
        ("switch", 1),
        ("rebuild", number),
        ("built", number),
        ("switch", number),
        ("retire", 1),
        ("delete", 1),
    ]
    assert await redis.keys(f"{{{name}:1:*") == []
    tables = await connection.fetch("select relname from pg_class where relname ~ '_g1$'")
    assert {"orders_g1", "order_events_g1"} & {row["relname"] for row in tables} == (
        set() if name == "orders" else {"orders_g1", "order_events_g1"}
    )
    checkpoints = await connection.fetch("select * from checkpoints where projection = $1", name)
    assert {row["generation"] for row in checkpoints} <= {number}


async def test_what_was_kept_for_long_enough_is_retired(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    async with projector(), building_in(connect, engine, redis, keep_former_hours=1):
        await write_two_shards(database_url, random.Random(27), batches=5)
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, "trades")
        await until(connection, "trades", number, lambda g: g.live)
        await until(connection, "trades", 1, lambda g: g.state == "kept")
        await connection.execute(
            "update generations set kept_at = kept_at - interval '61 minutes'"
            " where projection = 'trades' and generation = 1"
        )
        await until(connection, "trades", 1, lambda g: g.state == "retired")


@pytest.mark.parametrize("change", ["missing", "surplus"])
async def test_a_row_that_is_missing_and_one_of_no_event_are_named(
    change: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    async with projector():
        await write_two_shards(database_url, random.Random(28), batches=10)
        await catch_up(engine, redis, connection)
    first = await connection.fetchrow("select * from trades_g1 order by shard, position")
    if change == "missing":
        await connection.execute(
            "delete from trades_g1 where (shard, position) = ($1, $2)",
            first["shard"],
            first["position"],
        )
    else:
        await connection.execute(
            "insert into trades_g1 select (jsonb_populate_record("
            "t, jsonb_build_object('position', 0))).* from trades_g1 t limit 1"
        )

    found = await compared(connect, engine, redis, "trades", 1)

    (one,) = found.examples
    assert found.different == 1
    if change == "missing":
        assert one.key == {"shard": first["shard"], "position": first["position"]}
        assert one.stored is None
        assert one.last_event == (first["shard"], first["position"], "TradeExecuted")
    else:
        assert one.key["position"] == 0
        assert one.folded is None
