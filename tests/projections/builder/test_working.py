"""Builders whose sessions are lost: to a server that is silent, or to another builder."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.builder import build as building
from projections.builder import builder as bringing
from projections.builder import working
from projections.builder.reading import read_parts
from projections.builder.working import Connect
from projections.folding import LogPart
from tests.projections.builder.test_builder import begin, building_in, until
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.models import assert_models_equal_folds
from tests.projections.test_models import write_two_shards

pytestmark = pytest.mark.anyio

LOOPS = 3  # of a builder, each with a session of its own
READ_HAS_ROUND = """
select positions::text <> '{}' from builds where projection = 'trades' and generation = $1
"""
READ_IS_IDLE = "select state = 'idle' from pg_stat_activity where pid = $1"


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a server's process, whose session then neither answers nor ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def freeze_idle(
    frozen_ones: ExitStack, connection: asyncpg.Connection, pids: Sequence[int]
) -> None:
    """Freeze sessions between two statements, so that they hold nothing that others wait for."""
    for pid in pids:
        while True:
            with ExitStack() as trying:
                trying.enter_context(frozen(pid))
                if await connection.fetchval(READ_IS_IDLE, pid):
                    frozen_ones.enter_context(trying.pop_all())
                    break
            await asyncio.sleep(0.01)


async def test_a_builder_leaves_sessions_that_do_not_answer(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(working, "ANSWERS_WITHIN_S", 1.0)
    pids: list[int] = []

    async def noted() -> asyncpg.Connection:
        opened = await connect()
        pids.append(opened.get_server_pid())
        return opened

    async with projector():
        await write_two_shards(database_url, random.Random(61), batches=5)
        await catch_up(engine, redis, connection)
        async with building_in(noted, engine, redis):
            async with asyncio.timeout(10):
                while len(pids) < LOOPS:
                    await asyncio.sleep(0.01)
            with ExitStack() as frozen_ones:
                await freeze_idle(frozen_ones, connection, pids[:LOOPS])
                number = await begin(connection, engine, redis, "vwap")
                await until(connection, "vwap", number, lambda g: g.live)


async def test_two_builders_that_both_believe_to_be_alone_double_no_row(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def believed(_connection: asyncpg.Connection, _projection: str) -> AsyncIterator[bool]:
        yield True

    async def read_slowly(*place: Any) -> AsyncIterator[LogPart]:
        async for part in read_parts(*place):
            yield part
            await asyncio.sleep(0.02)

    caplog.set_level("INFO")
    monkeypatch.setattr(bringing, "alone", believed)
    monkeypatch.setattr(building, "read_parts", read_slowly)
    monkeypatch.setattr("exchange.log.replay.PART_EVENTS", 7)
    monkeypatch.setattr(building, "WRITE_EVENTS", 10)
    monkeypatch.setattr(building, "ROUND_EVENTS", 20)
    async with projector():
        await write_two_shards(database_url, random.Random(62), batches=20)
        await catch_up(engine, redis, connection)
        async with building_in(connect, engine, redis):
            number = await begin(connection, engine, redis, "trades")
            async with asyncio.timeout(10):
                while not await connection.fetchval(READ_HAS_ROUND, number):
                    await asyncio.sleep(0.01)
            async with building_in(connect, engine, redis):
                await until(connection, "trades", number, lambda g: g.live)

    assert "another builder is at generation 2 of trades" in [
        vars(one).get("reason") for one in caplog.records
    ]
    await assert_models_equal_folds(connection, redis)


async def test_what_fails_after_another_builder_has_gone_on_is_no_failure(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = building.Build.run

    async def end_too_late(build: building.Build) -> None:
        await run(build)  # as the other builder does meanwhile
        raise asyncpg.NotNullViolationError("a row of a table that is attached by now")

    caplog.set_level("INFO")
    monkeypatch.setattr(building.Build, "run", end_too_late)
    async with projector():
        await write_two_shards(database_url, random.Random(63), batches=4)
        await catch_up(engine, redis, connection)
        async with building_in(connect, engine, redis):
            number = await begin(connection, engine, redis, "trades")
            generation = await until(connection, "trades", number, lambda g: g.live)

    assert generation.failure is None
    reasons = [vars(one).get("reason") for one in caplog.records]
    assert "it is catching-up by now" in reasons
