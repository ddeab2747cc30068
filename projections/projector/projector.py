"""All read models of a process: a follower for each projection, generation and shard.

Read ``Projector.run``. Each follower is a task of its own, so a follower that waits for its store,
or has stopped at an event that it cannot apply, delays no other. Followers are started as
generations and shards appear. A projection's first generation goes live once it has caught up.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

import asyncpg
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.reader import read_event_times, read_heads
from exchange.waiting import heed_cancellation, is_set_within
from projections.lifecycle.changes import By, Refused, clear_failure, ensure_generation, retry_all
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import FAILED, RETIRED, Generation, read_generations
from projections.lifecycle.skips import Skip, read_skips, skipped
from projections.lifecycle.switching import switch
from projections.projector.follower import (
    BATCH_TIMEOUT_S,
    POLL_S,
    Follower,
    Part,
    Precedence,
    Projection,
)
from projections.projector.metrics import FollowerWatch, ProjectorMetrics
from projections.projector.snapshotter import SnapshotPace, Snapshotter
from projections.projector.tail import ShardTail, listen
from projections.registry import all_projections
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.failures import Outage, is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

PACE_MS: Final = 100
"""The least time between the starts of a follower's batches.

So a busy log makes larger batches, not more of them. An idle follower still applies at once. With a
shorter pace the transactions of nine projections take processor time from the matcher; with a
longer one readers wait.
"""


class Following(NamedTuple):
    """A follower, and the task in which it runs."""

    follower: Follower
    task: asyncio.Task[None]


class Projector:
    """All followers of a process: one for each projection, active generation and shard."""

    def __init__(
        self,
        engine: AsyncEngine,
        projections: Sequence[Projection],
        *,
        pace_ms: int,
        snapshots: SnapshotPace | None = None,
        metrics: ProjectorMetrics | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics or ProjectorMetrics()
        self._watches: dict[Part, FollowerWatch] = {}
        self._definitions: Definitions[Projection] = Definitions(projections)
        self._precedence = Precedence()
        self._pace_ms = pace_ms
        self._snapshots = snapshots
        self._snapshotters: dict[int, asyncio.Task[None]] = {}
        self._tails: dict[int, ShardTail] = {}
        self._followers: dict[Part, Following] = {}
        self._unknown_shard = asyncio.Event()  # set when a shard without followers has new events
        self._heads_at_start: dict[int, int] | None = None
        self._told: set[tuple[str, int]] = set()
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
                await retry_all(driver, self._definitions.all)
                self._heads_at_start = heads
            generations = await self._generations(driver)
            skips = await read_skips(driver)
            await self._measure_lag(driver, heads)
        mine = [g for g in generations if self._definitions.of(g) is not None]
        self._tell_of_others(g for g in generations if g.is_followed and g not in mine)
        self._precedence.live = {(g.projection, g.generation) for g in mine if g.live}
        failed = [g for g in mine if g.state == FAILED]
        self._metrics.failed.set(len(failed))
        self._keep_followers(tasks, [g for g in mine if g.is_followed], heads, skips)
        self._keep_snapshotters(tasks, heads)
        live = {g.projection for g in generations if g.live}
        waiting = [g for g in mine if g.is_followed and g.projection not in live]
        await asyncio.gather(*map(self._go_live_if_caught_up, waiting))
        await asyncio.gather(*map(self._clear_if_passed, failed))

    def _tell_of_others(self, generations: Iterable[Generation]) -> None:
        """Say once of each generation that no definition of this build keeps up."""
        for one in generations:
            if (one.projection, one.generation) not in self._told:
                self._told.add((one.projection, one.generation))
                fields = {"projection": one.projection, "generation": one.generation}
                logger.warning(
                    "A generation stands as it is: this build has no definition that built it",
                    extra={**fields, "fingerprint": one.fingerprint or ""},
                )

    async def _measure_lag(self, driver: asyncpg.Connection, heads: Mapping[int, int]) -> None:
        """Set the gauges of how far each follower is behind: events, and the age of the oldest."""
        behind = {part: heads[part.shard] - watch.position for part, watch in self._watches.items()}
        waiting = {
            (part.shard, self._watches[part].position + 1) for part, n in behind.items() if n > 0
        }
        times_ms = await read_event_times(driver, sorted(waiting)) if waiting else {}
        now_ms = time.time_ns() // 1_000_000
        for part, watch in self._watches.items():
            time_ms = times_ms.get((part.shard, watch.position + 1), now_ms)
            watch.lags(max(0, behind[part]), max(0, now_ms - time_ms) / 1000)

    async def _generations(self, driver: asyncpg.Connection) -> list[Generation]:
        """Return all generations; a projection that has none, or only retired ones, gets one."""
        generations = await read_generations(driver)
        there = {g.projection for g in generations if g.state != RETIRED}
        missing = [one for one in self._definitions.current if one.name not in there]
        if not missing:
            return generations
        for projection in missing:
            names = [table.name for table in projection.tables]
            await ensure_generation(driver, projection.name, projection.fingerprint, names)
        return await read_generations(driver)

    def _keep_followers(
        self,
        tasks: asyncio.TaskGroup,
        followed: Sequence[Generation],
        heads: Mapping[int, int],
        skips: Sequence[Skip],
    ) -> None:
        parts = {Part(g.projection, g.generation, shard): g for g in followed for shard in heads}
        for part in self._followers.keys() - parts.keys():
            self._followers.pop(part).task.cancel()
            self._watches.pop(part).forget()
        for part, generation in parts.items():
            passed_over = self._passed_over(part, generation, skips)
            running = self._followers.get(part)
            # One that has stopped at an event is started again when the failure is taken back.
            if running is None or (running.task.done() and generation.state != FAILED):
                name = f"{part.projection} generation {part.generation} shard {part.shard}"
                follower = self._follower(part, generation, passed_over)
                task = tasks.create_task(follower.run(), name=name)
                self._followers[part] = Following(follower, task)
            else:
                running.follower.skips = passed_over

    def _keep_snapshotters(self, tasks: asyncio.TaskGroup, shards: Iterable[int]) -> None:
        for shard in shards:
            if self._snapshots is not None and shard not in self._snapshotters:
                snapshotter = Snapshotter(
                    self._engine, self._tail(shard), self._snapshots, self._metrics
                )
                self._snapshotters[shard] = tasks.create_task(snapshotter.run())

    def _tail(self, shard: int) -> ShardTail:
        if shard not in self._tails:
            self._tails[shard] = ShardTail(self._engine, shard)
        return self._tails[shard]

    def _passed_over(
        self, part: Part, generation: Generation, skips: Sequence[Skip]
    ) -> frozenset[int]:
        """Return the positions of the events that a follower passes over."""
        if not skips:  # as nearly always
            return frozenset()
        projection = self._definitions.of(generation)
        assert projection is not None
        every = skipped(skips, part.projection, projection.fingerprint)
        return frozenset(position for shard, position in every if shard == part.shard)

    def _follower(self, part: Part, generation: Generation, skips: Set[int]) -> Follower:
        projection = self._definitions.of(generation)
        assert projection is not None
        watch = self._watches.get(part)
        if watch is None:
            watch = FollowerWatch(self._metrics, part.projection, part.generation, part.shard)
            self._watches[part] = watch
        most_ms = projection.pace_ms_max
        return Follower(
            self._engine,
            projection,
            part,
            self._tail(part.shard),
            self._pace_ms if most_ms is None else min(self._pace_ms, most_ms),
            watch,
            self._precedence,
            skips,
        )

    async def _clear_if_passed(self, generation: Generation) -> None:
        """Take back the failure of a generation that another projector has brought past it."""
        projection = self._definitions.of(generation)
        shard, position = generation.failed_shard, generation.failed_position
        if projection is None or shard is None or position is None:
            return
        try:
            reached = await projection.reached(generation.generation, [shard])
            if reached.get(shard, 0) >= position:
                async with driver_connection(self._engine) as driver:
                    await clear_failure(driver, generation)
        except Exception as error:
            if not (isinstance(error, ReadModelUnavailable) or is_store_failure(error)):
                raise

    async def _go_live_if_caught_up(self, generation: Generation) -> None:
        """Let queries read a projection's first generation once it has caught up with the log.

        It has caught up when it has seen what was in the log at this process's start. If its store
        is away it does not go live yet, while others may.
        """
        try:
            await self._go_live_if_at(generation, self._heads_at_start or {})
        except Exception as error:
            if not (isinstance(error, ReadModelUnavailable) or is_store_failure(error)):
                raise

    async def _go_live_if_at(self, generation: Generation, wanted: Mapping[int, int]) -> None:
        fields = {"projection": generation.projection, "generation": generation.generation}
        projection = self._definitions.of(generation)
        assert projection is not None
        reached = await projection.reached(generation.generation, list(wanted))
        # A shard without events needs no checkpoint.
        if all(reached.get(shard, 0) >= position for shard, position in wanted.items()):
            part = (generation.projection, generation.generation)
            try:
                async with driver_connection(self._engine) as driver:
                    by = By("projector", "the first generation has caught up")
                    await switch(driver, self._definitions.all, *part, by, unverified=True)
            except Refused as error:  # another projector was faster, or it has failed since
                logger.info("A projection did not go live", extra={**fields, "error": str(error)})
            else:
                logger.info("A projection went live", extra=fields)

    def _wake(self, shard: int) -> None:
        tail = self._tails.get(shard)
        if tail is None:
            self._unknown_shard.set()
        else:
            tail.wake()


async def run_projector(
    engine: AsyncEngine,
    redis: Redis,
    *,
    pace_ms: int = PACE_MS,
    snapshots: SnapshotPace | None = None,
    metrics: ProjectorMetrics | None = None,
) -> None:
    """Keep all read models up with the log until cancelled.

    Args:
        engine: The process's pool. One connection listens, the followers share the others.
        redis: The store of some of the models.
        pace_ms: See ``PACE_MS``.
        snapshots: When engine snapshots are taken; None takes none.
        metrics: The metrics to set; by default nobody reads them.
    """
    models = all_projections(engine, redis)
    projector = Projector(engine, models, pace_ms=pace_ms, snapshots=snapshots, metrics=metrics)
    await projector.run()
