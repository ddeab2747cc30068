"""Followers at different positions share one window; each gets just the events after its own."""

import asyncio
import random
from typing import cast

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import RecordRejected
from exchange.domain.values import Offset, Position, Shard
from exchange.log.events import DecidedEvent
from exchange.log.identity import keyed_command_id
from projections.projector import tail as tail_module
from projections.projector.tail import Chunk, ShardTail
from tests.projections.logs import LogWriter

pytestmark = pytest.mark.anyio

COMMAND_ID = keyed_command_id("client", "key")


def event(position: int) -> DecidedEvent:
    rejected = RecordRejected(reason="", sha256="", size_bytes=0, time_ms=position)
    return DecidedEvent(Shard(0), Position(position), rejected, COMMAND_ID, Offset(position))


class SlowTail(ShardTail):
    """A tail of a log that grows with every look at it, and whose answers take a while."""

    def __init__(self, delays: list[int]) -> None:
        super().__init__(cast("AsyncEngine", None), 0)
        self._delays = delays
        self._head = 0

    async def _fetch(self, after: int, limit: int) -> Chunk:
        self._head += 3
        events = [event(p) for p in range(after + 1, min(after + limit, self._head) + 1)]
        for _ in range(self._delays.pop() if self._delays else 0):
            await asyncio.sleep(0)
        return Chunk(events)


async def follow(tail: SlowTail, position: int, reads: int, pause: int) -> None:
    for _ in range(reads):
        chunk = await tail.read(after=position, limit=5)
        positions = [e.position for e in chunk.events]
        assert positions == list(range(position + 1, position + 1 + len(positions)))
        position += len(positions)
        for _ in range(pause):
            await asyncio.sleep(0)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), min_size=2, max_size=5),
    st.lists(st.integers(0, 5), max_size=40),
)
async def test_a_read_gives_just_what_follows(
    followers: list[tuple[int, int]], delays: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_module, "WINDOW_EVENTS_MAX", 6)
        tail = SlowTail(delays)
        async with asyncio.TaskGroup() as tasks:
            for start, pause in followers:
                tasks.create_task(follow(tail, start, reads=12, pause=pause))


async def test_a_missing_event_ends_what_can_be_read(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async with LogWriter.open(database_url, 0) as writer:
        await writer.append_random(random.Random(1), 10)
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute("delete from events where position = 3")
    tail = ShardTail(engine, 0)

    before = await tail.read(after=0, limit=10)
    at_it = await tail.read(after=2, limit=10)

    assert [e.position for e in before.events] == [1, 2]
    assert at_it.events == []
    assert at_it.unreadable is not None
    assert at_it.unreadable.error == "the log of shard 0 has no event at position 3"
