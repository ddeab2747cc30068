"""The loop that fills the read models: read after the checkpoint, apply, move it, in one step.

Read ``Follower.follow``. Each projection, generation and shard has a follower, a task
of its own: one that waits for its store, or has stopped at an event that it cannot
apply, holds up no other. ``Projector`` starts them, for generations and shards as they
appear, and lets queries read a first generation once it has caught up.

What always holds: a batch and its checkpoint are one atomic step, made only if the
stored checkpoint is the place that the batch continues. So any number of projectors
may run at once, and one that is killed at any moment resumes from what is stored.
An event is applied once or the follower stops at it, loudly; none is ever skipped.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.cancellation import heed_cancellation
from exchange.codec import DecidedEvent
from exchange.event_store import read_heads
from projections.book import BookProjection
from projections.checkpoints import has_reached
from projections.failures import Outage, is_store_failure
from projections.instruments import instruments_projection
from projections.lifecycle import (
    ACTIVE_STATES,
    Generation,
    ensure_generation,
    mark_failed,
    read_generations,
    retry_failed,
    switch_live,
)
from projections.orders import orders_projection
from projections.positions import positions_projection
from projections.postgres import driver_connection
from projections.tail import ShardTail, is_set_within, listen
from projections.trades import trades_projection

logger = logging.getLogger(__name__)

BATCH_EVENTS_MAX: Final = 2_000  # bounds a transaction and a Redis script to some 10 ms
POLL_S: Final = 1.0  # when a notification was lost, and to see that a store was emptied
BATCH_TIMEOUT_S: Final = 30.0  # a batch takes milliseconds; a store that is silent is away
PACE_MS: Final = 50
"""Least time between the starts of a follower's batches: a busy log makes larger batches, not more.

An idle follower still applies at once. Shorter, the transactions of five projections
take the processor from the matcher; longer, readers wait.
"""


class Projection(Protocol):
    """What the loop needs of a read model, in whichever store it is."""

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> tuple[Table, ...]: ...

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from, making the checkpoint if there is none."""
        ...

    async def reached(self, generation: int, shards: Sequence[int]) -> dict[int, int]:
        """Return how far the model is, for those shards that have a complete one."""
        ...

    async def apply(self, generation: int, after: int, events: Sequence[DecidedEvent]) -> bool:
        """Apply consecutive events of one shard if the checkpoint is ``after``.

        Returns:
            Whether it was. If not, nothing changed.
        """
        ...


class Place(Struct, frozen=True):
    """Which follower: a projection's generation on a shard."""

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
        place: Place,
        tail: ShardTail,
        pace_ms: int,
    ) -> None:
        self._engine = engine
        self._projection = projection
        self._place = place
        self._tail = tail
        self._pace_s = pace_ms / 1000
        self._outage = Outage("A projection", place.fields)

    async def run(self) -> None:
        """Follow until cancelled, or until an event cannot be applied."""
        news = self._tail.follow()
        try:
            while not await self._has_ended(news):
                pass
        finally:
            self._tail.unfollow(news)

    async def follow(self, news: asyncio.Event) -> None:
        """Apply what comes after the stored checkpoint, for ever.

        Raises:
            CannotApply: An event cannot be decoded or applied; all before it are.
            Exception: A store failed; nothing is known but what is stored.
        """
        now_s = asyncio.get_running_loop().time
        position = await self._resume()
        while True:
            begun_s = now_s()
            news.clear()  # before reading, so that what comes meanwhile is not missed
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
        """Follow until something fails; tell whether that is for good."""
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
            fields = {**self._place.fields, "error": str(error)}
            logger.critical("A projection stopped at an event it cannot apply", extra=fields)
            async with driver_connection(self._engine) as driver:
                place = (self._place.projection, self._place.generation)
                await mark_failed(driver, *place, f"shard {self._place.shard}: {error}")

    async def _resume(self) -> int:
        async with asyncio.timeout(BATCH_TIMEOUT_S):
            return await self._projection.resume(self._place.generation, self._place.shard)

    async def _read(self, after: int) -> list[DecidedEvent]:
        async with asyncio.timeout(BATCH_TIMEOUT_S):
            chunk = await self._tail.read(after=after, limit=BATCH_EVENTS_MAX)
        if not chunk.events and chunk.unreadable is not None:
            raise CannotApply(chunk.unreadable.error)
        assert not chunk.events or chunk.events[0].position == after + 1, "events were skipped"
        return chunk.events

    async def _advance(self, after: int, events: Sequence[DecidedEvent]) -> int:
        """Apply events and return the position that is stored then.

        A batch that cannot be applied is halved until one event is left to blame.
        """
        try:
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                moved = await self._projection.apply(self._place.generation, after, events)
        except Exception as error:
            if is_store_failure(error):
                raise
            if len(events) == 1:
                raise CannotApply(_blame(events[0], error)) from error
            return await self._advance(after, events[: len(events) // 2])
        return events[-1].position if moved else await self._resume()


class Projector:
    """All followers of a process: one for each projection, active generation and shard."""

    def __init__(
        self, engine: AsyncEngine, projections: Sequence[Projection], *, pace_ms: int
    ) -> None:
        self._engine = engine
        self._projections = {projection.name: projection for projection in projections}
        self._pace_ms = pace_ms
        self._tails: dict[int, ShardTail] = {}
        self._followers: dict[Place, asyncio.Task[None]] = {}
        self._unknown_shard = asyncio.Event()  # set when one that has no followers has news
        self._heads_at_start: dict[int, int] | None = None
        self._outage = Outage("The projector", {})

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen(self._engine, self._wake), name="listen for events")
            while True:
                self._unknown_shard.clear()
                await self._manage_once(tasks)
                heed_cancellation()
                await is_set_within(self._unknown_shard, POLL_S)

    async def _manage_once(self, tasks: asyncio.TaskGroup) -> None:
        try:
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                await self._manage(tasks)
        except Exception as error:
            if not is_store_failure(error):
                raise
            await self._outage.wait(error)
        else:
            self._outage.over()

    async def _manage(self, tasks: asyncio.TaskGroup) -> None:
        async with driver_connection(self._engine) as driver:
            heads = await read_heads(driver)
            if self._heads_at_start is None:
                await self._prepare(driver)
                self._heads_at_start = heads
            generations = await read_generations(driver)
        mine = [g for g in generations if g.projection in self._projections]
        active = [g for g in mine if g.state in ACTIVE_STATES]
        self._keep_followers(tasks, active, heads)
        live = {g.projection for g in mine if g.live}
        for generation in active:
            if generation.projection not in live:
                await self._go_live_if_caught_up(generation)

    async def _prepare(self, driver: asyncpg.Connection) -> None:
        await retry_failed(driver)
        for projection in self._projections.values():
            await ensure_generation(driver, projection.name, projection.tables)

    def _keep_followers(
        self, tasks: asyncio.TaskGroup, active: Sequence[Generation], heads: Mapping[int, int]
    ) -> None:
        places = {Place(g.projection, g.generation, shard) for g in active for shard in heads}
        for place in self._followers.keys() - places:
            self._followers.pop(place).cancel()
        # One that has stopped at an event stays in the dict, so that it is not started again.
        for place in places - self._followers.keys():
            name = f"{place.projection} generation {place.generation} shard {place.shard}"
            self._followers[place] = tasks.create_task(self._follower(place).run(), name=name)

    def _follower(self, place: Place) -> Follower:
        tail = self._tails.get(place.shard)
        if tail is None:
            tail = self._tails[place.shard] = ShardTail(self._engine, place.shard)
        projection = self._projections[place.projection]
        return Follower(self._engine, projection, place, tail, self._pace_ms)

    async def _go_live_if_caught_up(self, generation: Generation) -> None:
        """Let queries read a projection's first generation, once it is where the log was."""
        wanted = self._heads_at_start or {}
        projection = self._projections[generation.projection]
        reached = await projection.reached(generation.generation, list(wanted))
        if has_reached(reached, wanted):
            async with driver_connection(self._engine) as driver:
                await switch_live(driver, generation.projection, generation.generation)
            fields = {"projection": generation.projection, "generation": generation.generation}
            logger.info("A projection went live", extra=fields)

    def _wake(self, shard: int) -> None:
        tail = self._tails.get(shard)
        if tail is None:
            self._unknown_shard.set()
        else:
            tail.wake()


def all_projections(engine: AsyncEngine, redis: Redis) -> list[Projection]:
    return [
        instruments_projection(engine),
        orders_projection(engine),
        trades_projection(engine),
        positions_projection(engine),
        BookProjection(engine, redis),
    ]


async def run_projector(engine: AsyncEngine, redis: Redis, *, pace_ms: int = PACE_MS) -> None:
    """Keep all read models up with the log until cancelled.

    Args:
        engine: The process's pool. One connection listens, the followers share the others.
        redis: Where the books are kept.
        pace_ms: See ``PACE_MS``.
    """
    await Projector(engine, all_projections(engine, redis), pace_ms=pace_ms).run()


def _blame(decided: DecidedEvent, error: Exception) -> str:
    kind = type(decided.event).__name__
    return f"{kind} at position {decided.position} of shard {decided.shard}: {error!r}"
