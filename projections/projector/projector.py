"""All read models of a process: a follower for each projection, generation and shard.

Read ``Projector.run``. Each follower is a task of its own, so a follower that waits for its store,
or has stopped at an event that it cannot apply, delays no other. Followers are started as
generations and shards appear. A projection's first generation goes live once it has caught up.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import asyncpg
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.reader import read_event_times, read_heads
from exchange.waiting import heed_cancellation, is_set_within
from projections.projector.follower import BATCH_TIMEOUT_S, POLL_S, Follower, Part, Projection
from projections.projector.lifecycle import (
    ACTIVE_STATES,
    Generation,
    ensure_generation,
    read_generations,
    retry_failed,
    switch_live,
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
        self._projections = {projection.name: projection for projection in projections}
        self._pace_ms = pace_ms
        self._snapshots = snapshots
        self._snapshotters: dict[int, asyncio.Task[None]] = {}
        self._tails: dict[int, ShardTail] = {}
        self._followers: dict[Part, asyncio.Task[None]] = {}
        self._unknown_shard = asyncio.Event()  # set when a shard without followers has new events
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
            await self._measure_lag(driver, heads)
        mine = [g for g in generations if g.projection in self._projections]
        active = [g for g in mine if g.state in ACTIVE_STATES]
        self._metrics.failed.set(sum(g.state == "failed" for g in mine))
        self._keep_followers(tasks, active, heads)
        self._keep_snapshotters(tasks, heads)
        live = {g.projection for g in mine if g.live}
        waiting = [generation for generation in active if generation.projection not in live]
        await asyncio.gather(*map(self._go_live_if_caught_up, waiting))

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

    async def _prepare(self, driver: asyncpg.Connection) -> None:
        await retry_failed(driver)
        for projection in self._projections.values():
            await ensure_generation(driver, projection.name, projection.tables)

    def _keep_followers(
        self, tasks: asyncio.TaskGroup, active: Sequence[Generation], heads: Mapping[int, int]
    ) -> None:
        parts = {Part(g.projection, g.generation, shard) for g in active for shard in heads}
        for part in self._followers.keys() - parts:
            self._followers.pop(part).cancel()
            self._watches.pop(part).forget()
        # A follower that has stopped at an event stays in the dict, so that it is not started
        # again.
        for part in parts - self._followers.keys():
            name = f"{part.projection} generation {part.generation} shard {part.shard}"
            self._followers[part] = tasks.create_task(self._follower(part).run(), name=name)

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

    def _follower(self, part: Part) -> Follower:
        tail = self._tail(part.shard)
        projection = self._projections[part.projection]
        watch = FollowerWatch(self._metrics, part.projection, part.generation, part.shard)
        self._watches[part] = watch
        return Follower(self._engine, projection, part, tail, self._pace_ms, watch)

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
        projection = self._projections[generation.projection]
        reached = await projection.reached(generation.generation, list(wanted))
        # A shard without events needs no checkpoint.
        if all(reached.get(shard, 0) >= position for shard, position in wanted.items()):
            async with driver_connection(self._engine) as driver:
                await switch_live(driver, generation.projection, generation.generation)
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
