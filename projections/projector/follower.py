"""One read model kept up with one shard's log: read after the checkpoint, apply, move it.

Read ``Follower.follow``. Applying a batch and moving the checkpoint are one atomic step, made only
if the stored checkpoint is the position before the batch. So any number of projectors may run at
once, and a projector that is killed at any moment resumes from the stored checkpoint. A follower
applies an event exactly once, or logs that it cannot and stops. It passes over an event only if an
operator said so (see ``lifecycle.skips``).
"""

import asyncio
import logging
from collections.abc import Set
from typing import Final, Protocol

from msgspec import Struct
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import DecidedEvent
from exchange.waiting import heed_cancellation, is_set_within
from projections.lifecycle.changes import mark_failed
from projections.lifecycle.definitions import Definition
from projections.projector.metrics import FollowerWatch
from projections.projector.tail import ShardTail
from projections.stores.batches import Batch
from projections.stores.failures import Outage, is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

BATCH_EVENTS_MAX: Final = 2_000  # bounds a transaction and a Redis script to some 10 ms
GIVE_WAY_S: Final = 1.0  # then one batch is applied however far live ones are behind
POLL_S: Final = 1.0  # notices events whose notification was lost, and a store that was emptied
BATCH_TIMEOUT_S: Final = 30.0  # a batch takes milliseconds; a store silent for longer is away


class Followed(Protocol):
    """What a follower needs of a read model, in whichever store it is."""

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from; a missing checkpoint is made."""
        ...

    async def apply(self, generation: int, batch: Batch) -> bool:
        """Apply a batch if the checkpoint is the position before it.

        Returns:
            Whether the checkpoint was there. If not, nothing changed.
        """
        ...


class Projection(Definition, Followed, Protocol):
    """What a projector needs of a read model."""

    @property
    def tables(self) -> tuple[Table, ...]: ...

    @property
    def pace_ms_max(self) -> int | None: ...


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
    """An event that this version of a projection cannot apply; ``position`` is where it is."""

    def __init__(self, position: int, error: str) -> None:
        super().__init__(error)
        self.position = position


class Follower:
    """Keeps one generation of a projection up with one shard's log.

    It passes over the events at the positions ``skips``, which may grow meanwhile, and lets those
    go first that ``precedence`` names.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        projection: Followed,
        part: Part,
        tail: ShardTail,
        pace_ms: int,
        watch: FollowerWatch,
        precedence: "Precedence",
        skips: Set[int] = frozenset(),
    ) -> None:
        self._engine = engine
        self._projection = projection
        self._part = part
        self._tail = tail
        self._pace_s = pace_ms / 1000
        self._watch = watch
        self._precedence = precedence
        self.skips = skips
        self._time_ms = 0  # of the last event that was read
        self._outage = Outage("A projection", part.fields)

    async def run(self) -> None:
        """Follow until cancelled, or until an event cannot be applied."""
        news = self._tail.follow()
        try:
            while not await self._has_ended(news):
                pass
        finally:
            self._tail.unfollow(news)
            self._precedence.note(self._part, is_behind=False)

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
            batch = await self._read(position)
            if batch is not None:
                is_full = batch.up_to - batch.after >= BATCH_EVENTS_MAX
                self._precedence.note(self._part, is_behind=is_full)
                await self._precedence.give_way(self._part)
                position = await self._advance(batch)
                if not is_full:
                    await asyncio.sleep(begun_s + self._pace_s - now_s())
            else:
                # The last batch may have been a full one, and others would wait for ever.
                self._precedence.note(self._part, is_behind=False)
                if not await is_set_within(news, POLL_S):
                    position = await self._resume()
            self._outage.over()
            heed_cancellation()

    async def _has_ended(self, news: asyncio.Event) -> bool:
        """Follow until something fails; tell whether to stop for good."""
        try:
            return await self._follow_to_the_end(news)
        except Exception as error:
            if not is_store_failure(error):
                raise
            await self._outage.wait(error)
            return False

    async def _follow_to_the_end(self, news: asyncio.Event) -> bool:
        try:
            await self.follow(news)
        except CannotApply as error:
            if await self._resume() >= error.position:
                return False  # a projector of another version has passed it
            await self._stop_at(error)
        return True

    async def _stop_at(self, error: CannotApply) -> None:
        """Mark the generation as failed, unless an operator has let its definition pass the event.

        Then the projector starts a follower in this one's place, which passes over the event.
        """
        part = (self._part.projection, self._part.generation)
        failure = f"shard {self._part.shard}: {error}"
        at = (self._part.shard, error.position)
        async with driver_connection(self._engine) as driver:
            has_to_stop = await mark_failed(driver, *part, failure, at, found_by="projector")
        if has_to_stop:
            fields = {**self._part.fields, "error": str(error)}
            logger.critical("A projection stopped at an event it cannot apply", extra=fields)

    async def _resume(self) -> int:
        async with asyncio.timeout(BATCH_TIMEOUT_S):
            part = (self._part.generation, self._part.shard)
            position = await self._projection.resume(*part)
        self._watch.reached(position)
        return position

    async def _read(self, after: int) -> Batch | None:
        """Return the next events, None if there are none."""
        async with asyncio.timeout(BATCH_TIMEOUT_S):
            chunk = await self._tail.read(after=after, limit=BATCH_EVENTS_MAX)
        shard = self._part.shard
        if chunk.events:
            assert chunk.events[0].position == after + 1, "events were skipped"
            last = chunk.events[-1]
            self._time_ms = last.event.time_ms
            return Batch(shard, after, last.position, self._time_ms, self._wanted(chunk.events))
        if chunk.unreadable is None:
            return None
        if chunk.unreadable.position in self.skips:
            return Batch(shard, after, chunk.unreadable.position, self._time_ms, [])
        raise CannotApply(chunk.unreadable.position, chunk.unreadable.error)

    def _wanted(self, events: list[DecidedEvent]) -> list[DecidedEvent]:
        if not self.skips:  # as nearly always
            return events
        return [decided for decided in events if decided.position not in self.skips]

    async def _advance(self, batch: Batch) -> int:
        """Apply a batch and return the checkpoint that is stored afterwards.

        A batch that cannot be applied is halved, until a single event is found that fails.
        """
        try:
            with self._watch.applying(len(batch.events), self._tail.traces(batch.events)):
                async with asyncio.timeout(BATCH_TIMEOUT_S):
                    moved = await self._projection.apply(self._part.generation, batch)
        except Exception as error:
            if is_store_failure(error):
                raise
            if len(batch.events) <= 1:
                at = batch.events[0].position if batch.events else batch.up_to
                raise CannotApply(at, _blame(batch, error)) from error
            return await self._advance(batch.first_half)
        if not moved:
            return await self._resume()
        self._watch.reached(batch.up_to)
        return batch.up_to


class Precedence:
    """Live generations go first: others wait while a live one is behind, a second at a time."""

    def __init__(self) -> None:
        self.live: Set[tuple[str, int]] = frozenset()
        self._behind: set[Part] = set()
        self._none_behind = asyncio.Event()

    def note(self, part: Part, *, is_behind: bool) -> None:
        """Note whether a follower has more to read than one batch."""
        if is_behind and (part.projection, part.generation) in self.live:
            self._behind.add(part)
            self._none_behind.clear()
        else:
            self._behind.discard(part)
            if not self._behind:
                self._none_behind.set()

    async def give_way(self, part: Part) -> None:
        """Wait while a live generation is behind, unless the follower's is live itself."""
        if self._behind and (part.projection, part.generation) not in self.live:
            await is_set_within(self._none_behind, GIVE_WAY_S)


def _blame(batch: Batch, error: Exception) -> str:
    if not batch.events:
        return f"passing over position {batch.up_to} of shard {batch.shard}: {error!r}"
    decided = batch.events[0]
    kind = type(decided.event).__name__
    return f"{kind} at position {decided.position} of shard {decided.shard}: {error!r}"
