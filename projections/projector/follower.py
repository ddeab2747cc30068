"""One read model kept up with one shard's log: read after the checkpoint, apply, move it.

Read ``Follower.follow``. Applying a batch and moving the checkpoint are one atomic step, made only
if the stored checkpoint is the position before the batch. So any number of projectors may run at
once, and a projector that is killed at any moment resumes from the stored checkpoint. No event is
skipped: a follower applies an event exactly once, or logs that it cannot and stops.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import DecidedEvent
from exchange.waiting import heed_cancellation, is_set_within
from projections.projector.lifecycle import mark_failed
from projections.projector.metrics import FollowerWatch
from projections.projector.tail import ShardTail
from projections.stores.failures import Outage, is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

BATCH_EVENTS_MAX: Final = 2_000  # bounds a transaction and a Redis script to some 10 ms
POLL_S: Final = 1.0  # notices events whose notification was lost, and a store that was emptied
BATCH_TIMEOUT_S: Final = 30.0  # a batch takes milliseconds; a store silent for longer is away


class Projection(Protocol):
    """What a follower needs of a read model, in whichever store it is."""

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> tuple[Table, ...]: ...

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from; a missing checkpoint is made."""
        ...

    async def reached(self, generation: int, shards: Sequence[int]) -> dict[int, int]:
        """Return the model's position by shard, without shards on which it is not complete."""
        ...

    async def apply(self, generation: int, after: int, events: Sequence[DecidedEvent]) -> bool:
        """Apply consecutive events of one shard if the checkpoint is ``after``.

        Returns:
            Whether the checkpoint was ``after``. If not, nothing changed.
        """
        ...


class Part(Struct, frozen=True):
    """What one follower keeps up: a generation of a read model, on one shard."""

    projection: str
    generation: int
    shard: int

    @property
    def fields(self) -> dict[str, object]:
        return {
            "projection": self.projection,
            "generation": self.generation,
            "shard": self.shard,
        }


class CannotApply(Exception):
    """An event that this version of a projection cannot apply."""


class Follower:
    """Keeps one generation of a projection up with one shard's log."""

    def __init__(
        self,
        engine: AsyncEngine,
        projection: Projection,
        part: Part,
        tail: ShardTail,
        pace_ms: int,
        watch: FollowerWatch,
    ) -> None:
        self._engine = engine
        self._projection = projection
        self._part = part
        self._tail = tail
        self._pace_s = pace_ms / 1000
        self._watch = watch
        self._outage = Outage("A projection", part.fields)

    async def run(self) -> None:
        """Follow until cancelled, or until an event cannot be applied."""
        news = self._tail.follow()
        try:
            while not await self._has_ended(news):
                pass
        finally:
            self._tail.unfollow(news)

    async def follow(self, news: asyncio.Event) -> None:
        """Apply the events after the stored checkpoint, for ever.

        Raises:
            CannotApply: An event cannot be decoded or applied; all events before it are applied.
            Exception: A store failed. Go on from the stored checkpoint, which may have moved.
        """
        now_s = asyncio.get_running_loop().time
        position = await self._resume()
        while True:
            begun_s = now_s()
            news.clear()  # before reading, so that events that come meanwhile are not missed
            events = await self._read(position)
            if events:
                position = await self._advance(position, events)
                if len(events) < BATCH_EVENTS_MAX:
                    await asyncio.sleep(begun_s + self._pace_s - now_s())
            elif not await is_set_within(news, POLL_S):
                position = await self._resume()
            self._outage.over()
            heed_cancellation()

    async def _has_ended(self, news: asyncio.Event) -> bool:
        """Follow until something fails; tell whether to stop for good."""
        try:
            await self._follow_to_the_end(news)
        except Exception as error:
            if not is_store_failure(error):
                raise
            await self._outage.wait(error)
            return False
        return True

    async def _follow_to_the_end(self, news: asyncio.Event) -> None:
        try:
            await self.follow(news)
        except CannotApply as error:
            fields = {**self._part.fields, "error": str(error)}
            logger.critical("A projection stopped at an event it cannot apply", extra=fields)
            async with driver_connection(self._engine) as driver:
                part = (self._part.projection, self._part.generation)
                await mark_failed(driver, *part, f"shard {self._part.shard}: {error}")

    async def _resume(self) -> int:
        async with asyncio.timeout(BATCH_TIMEOUT_S):
            part = (self._part.generation, self._part.shard)
            position = await self._projection.resume(*part)
        self._watch.reached(position)
        return position

    async def _read(self, after: int) -> list[DecidedEvent]:
        async with asyncio.timeout(BATCH_TIMEOUT_S):
            chunk = await self._tail.read(after=after, limit=BATCH_EVENTS_MAX)
        if not chunk.events and chunk.unreadable is not None:
            raise CannotApply(chunk.unreadable.error)
        assert not chunk.events or chunk.events[0].position == after + 1, "events were skipped"
        return chunk.events

    async def _advance(self, after: int, events: Sequence[DecidedEvent]) -> int:
        """Apply events and return the checkpoint that is stored afterwards.

        A batch that cannot be applied is halved, until a single event is found that fails.
        """
        try:
            with self._watch.applying(len(events), self._tail.traces(events)):
                async with asyncio.timeout(BATCH_TIMEOUT_S):
                    moved = await self._projection.apply(self._part.generation, after, events)
        except Exception as error:
            if is_store_failure(error):
                raise
            if len(events) == 1:
                raise CannotApply(_blame(events[0], error)) from error
            return await self._advance(after, events[: len(events) // 2])
        if not moved:
            return await self._resume()
        self._watch.reached(events[-1].position)
        return events[-1].position


def _blame(decided: DecidedEvent, error: Exception) -> str:
    kind = type(decided.event).__name__
    return f"{kind} at position {decided.position} of shard {decided.shard}: {error!r}"
