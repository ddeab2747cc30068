"""Builds that are killed, stopped, too large, left behind or broken, and how it goes on then."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Set
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.reader import read_heads
from exchange.ports import LogCorrupt
from projections.builder import build as building
from projections.builder import builder as bringing
from projections.builder.build import Build
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import Comparison
from projections.builder.metrics import BuilderMetrics
from projections.builder.reading import read_parts
from projections.builder.steps import FALLING_BEHIND
from projections.builder.working import Connect
from projections.folding import LogPart
from projections.lifecycle.changes import pause, resume
from projections.lifecycle.generations import FAILED, PAUSED, generations_of
from projections.lifecycle.operations import read_operations
from projections.registry import Projection
from tests.projections.builder.test_builder import END_S, begin, building_in, until
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds
from tests.projections.test_models import write_two_shards

pytestmark = pytest.mark.anyio


async def pause_beside(connect: Connect, name: str, generation: int) -> None:
    """Pause a generation over another connection than the test's, which is asking meanwhile."""
    pausing = await connect()
    await pause(pausing, name, generation, OPERATOR)
    await pausing.close()


def shown(metrics: BuilderMetrics, name: str, step: str) -> float | None:
    """Return what is shown of the trades at a step."""
    labels = {"projection": "trades", "step": step}
    return metrics.registry.get_sample_value(f"exchange_builder_{name}", labels)


class DyingReads:
    """Reads of the log, of which the first of each build dies at the end of shard 1."""

    def __init__(self) -> None:
        self.after: list[int] = []  # where each read began since the last death
        self.is_to_die = True

    async def __call__(
        self,
        connection: asyncpg.Connection,
        projection: Projection,
        skips: Set[tuple[int, int]],
        shard: int,
        after: int,
        up_to: int,
    ) -> AsyncIterator[LogPart]:
        self.after.append(after)
        async for part in read_parts(connection, projection, skips, shard, after, up_to):
            yield part
        if self.is_to_die and shard == 1:
            self.is_to_die = False
            self.after = []
            raise ConnectionResetError


async def test_a_build_that_is_killed_reads_on_after_its_last_round(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await write_two_shards(database_url, random.Random(41), batches=20)
    heads = await read_heads(connection)
    # No shard has so many events, so a round ends only if those of both count.
    monkeypatch.setattr(building, "ROUND_EVENTS", max(heads.values()) + 10)
    monkeypatch.setattr("exchange.log.replay.PART_EVENTS", 7)
    async with projector():
        await catch_up(engine, redis, connection)
        for name in ("orders", "book", "ticker"):
            reads = DyingReads()
            monkeypatch.setattr(building, "read_parts", reads)
            number = await begin(connection, engine, redis, name)
            async with building_in(connect, engine, redis):
                await until(connection, name, number, lambda g: g.live)
            assert not reads.is_to_die
            assert reads.after[0] == heads[0], name
            assert min(reads.after) > 0, name

    await assert_models_equal_folds(connection, redis)


async def test_followers_finish_a_build_that_outgrows_its_memory(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("exchange.log.replay.PART_EVENTS", 7)
    monkeypatch.setattr(building, "FOLD_ROWS_MAX", 3)
    await write_two_shards(database_url, random.Random(42), batches=20)
    names = ("orders", "book", "positions")
    async with projector(), building_in(connect, engine, redis):
        await catch_up(engine, redis, connection)
        numbers = {name: await begin(connection, engine, redis, name) for name in names}
        for name, number in numbers.items():
            await until(connection, name, number, lambda g: g.live)

    told = "A build outgrew its memory: followers do the rest, more slowly"
    assert [one.message for one in caplog.records].count(told) == len(names)
    await assert_models_equal_folds(connection, redis)


async def test_a_rebuild_that_is_paused_while_it_is_compared_is_switched_once_it_goes_on(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, given_up = asyncio.Event(), asyncio.Event()

    async def compare_for_ever(*_: Any, **__: Any) -> Comparison:
        begun.set()
        try:
            await asyncio.sleep(END_S)
        finally:
            given_up.set()
        raise AssertionError

    async def pause_then_compare(*place: Any, **how: Any) -> Comparison:
        await pause_beside(connect, "vwap", number)
        monkeypatch.setattr(bringing, "compare", compare)
        return await compare(*place, **how)

    monkeypatch.setattr(bringing, "compare", compare_for_ever)
    async with projector(), building_in(connect, engine, redis):
        await write_two_shards(database_url, random.Random(43), batches=5)
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, "vwap")
        async with asyncio.timeout(END_S):
            await begun.wait()
            await pause(connection, "vwap", number, OPERATOR)
            await given_up.wait()
        monkeypatch.setattr(bringing, "compare", pause_then_compare)
        await resume(connection, "vwap", number, OPERATOR)
        paused = await until(connection, "vwap", number, lambda g: g.state == PAUSED)
        assert paused.replaces == 1
        await resume(connection, "vwap", number, OPERATOR)
        await until(connection, "vwap", number, lambda g: g.live)

    actions = [one.action for one in await read_operations(connection, "vwap", 20)]
    assert "not switched" not in actions
    assert actions[:5] == ["switch", "resume", "pause", "resume", "pause"]


async def test_a_model_that_cannot_be_built_holds_up_no_other(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Build.run

    async def run_but_for_two(self: Build) -> None:
        name = self._projection.name
        if name == "book":
            raise LogCorrupt("shard 0: an event soon after position 3 is missing")
        if name == "feed":
            raise ConnectionResetError
        await run(self)

    async def compare_but_for_one(*place: Any, **how: Any) -> Comparison:
        if place[3].name == "instruments":
            raise ZeroDivisionError("of a bug")
        return await compare(*place, **how)

    monkeypatch.setattr(Build, "run", run_but_for_two)
    monkeypatch.setattr(bringing, "compare", compare_but_for_one)
    async with projector(), building_in(connect, engine, redis):
        await write_two_shards(database_url, random.Random(44), batches=5)
        await catch_up(engine, redis, connection)
        for name in ("book", "feed", "instruments", "vwap"):
            await begin(connection, engine, redis, name)
        await until(connection, "vwap", 2, lambda g: g.live)
        book = await until(connection, "book", 2, lambda g: g.state == FAILED)
        instruments = await until(connection, "instruments", 2, lambda g: g.state == FAILED)
        (_, feed) = await generations_of(connection, "feed")

    assert "soon after position 3 is missing" in str(book.failure)
    assert instruments.failure == "ZeroDivisionError('of a bug')"
    assert feed.state == "building"
    (last, *_) = await read_operations(connection, "book", 1)
    assert (last.action, last.operator) == ("failed", "builder")


async def test_a_rebuild_that_does_not_get_nearer_to_the_head_is_told(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(bringing, "NEAR_EVENTS", -1)  # it does not count as caught up yet
    monkeypatch.setattr(bringing, "NEARER_WITHIN_S", 0.3)
    chance, metrics = random.Random(45), BuilderMetrics()

    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        async with projector():
            await writer.append_random(chance, 50)
            await catch_up(engine, redis, connection)
        async with building_in(connect, engine, redis, metrics=metrics):
            number = await begin(connection, engine, redis, "trades")
            await until(connection, "trades", number, lambda g: g.built_at is not None)
            done = writer.position
            async with asyncio.timeout(END_S):
                while shown(metrics, "events_done", FALLING_BEHIND) is None:
                    await writer.append_random(chance, 20)
                    await asyncio.sleep(0.05)
            step = await connection.fetchval(
                "select step from builds where generation = $1", number
            )
            assert step == FALLING_BEHIND
            assert shown(metrics, "events_done", FALLING_BEHIND) == done
            assert (shown(metrics, "events_wanted", FALLING_BEHIND) or 0.0) > done
            monkeypatch.setattr(bringing, "NEAR_EVENTS", 5)
            async with projector():
                await until(connection, "trades", number, lambda g: g.live)
            async with asyncio.timeout(END_S):
                while metrics._steps:
                    await asyncio.sleep(0.05)

    told = [one for one in caplog.records if one.message.startswith("A generation does not get")]
    assert len(told) == 1
