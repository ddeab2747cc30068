"""A builder gives way to live generations that are behind, and not to those that nobody moves."""

import asyncio
import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import load_event
from projections.builder import giving_way
from projections.builder.giving_way import GivingWay
from projections.lifecycle.changes import mark_failed, retry
from projections.lifecycle.definitions import Definitions
from projections.registry import all_projections
from tests.projections.generations import (
    OPERATOR,
    batch_of,
    begin_generation,
    go_live,
    projection_of,
)
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import read_log

pytestmark = pytest.mark.anyio

LAG_EVENTS = 20


class Followed:
    """A model's live generation that a test moves itself, and a builder that looks at it."""

    def __init__(self, engine: AsyncEngine, redis: Redis, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._engine, self._redis = engine, redis
        self.way = GivingWay(Definitions(all_projections(engine, redis)))
        self.stranger = GivingWay(Definitions([]))

    async def begin(self, name: str) -> int:
        """Let a generation go live that is at the second event."""
        self._projection = projection_of(self._engine, self._redis, name)
        self._generation = await begin_generation(self._connection, self._projection)
        await self.apply(2)
        await go_live(self._connection, [self._projection], name, self._generation)
        return self._generation

    async def apply(self, count: int) -> None:
        after = await self._projection.resume(self._generation, 0)
        events = [load_event(stored) for stored in await read_log(self._connection)]
        batch = batch_of(events[after : after + count])
        assert await self._projection.apply(self._generation, batch)

    async def is_behind(self) -> bool:
        """Look, and tell whether the builder gives way; one without the definition never does."""
        for way in (self.way, self.stranger):
            # In a task of its own, as a builder's: the tests' may keep count of a cancellation that
            # a timeout of an earlier test took back, and a builder would end at it.
            await asyncio.create_task(way.look(self._connection))
        assert not self.stranger.is_needed
        return self.way.is_needed


@pytest.mark.parametrize("name", ["positions", "ticker"])
async def test_a_builder_gives_way_to_what_moves_and_is_behind(
    name: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(giving_way, "LOOK_S", 0.0)
    monkeypatch.setattr(giving_way, "LIVE_LAG_EVENTS_MAX", LAG_EVENTS)
    model = Followed(engine, redis, connection)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        generation = await model.begin(name)
        assert not await model.is_behind()
        await writer.append_random(random.Random(46), 100)

    assert not await model.is_behind(), "nobody has moved it"
    await model.apply(10)
    assert await model.is_behind()
    assert await model.is_behind(), "it moved just now"
    await mark_failed(connection, name, generation, "it failed", found_by="a test")
    assert not await model.is_behind()
    await retry(connection, name, generation, OPERATOR)
    assert not await model.is_behind(), "nobody has moved it since"
    await model.apply(1)
    assert await model.is_behind()
    monkeypatch.setattr(giving_way, "MOVES_WITHIN_S", 0.0)
    assert not await model.is_behind(), "it has moved no more"
    monkeypatch.setattr(giving_way, "MOVES_WITHIN_S", 60.0)
    await model.apply(1_000)
    assert not await model.is_behind(), "it is at the head"
