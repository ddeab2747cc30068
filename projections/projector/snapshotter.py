"""Takes engine snapshots: follows a shard's log and keeps the same state as the matcher.

The matcher itself takes none, since writing out a large book would stall it. A snapshot is taken at
the end of a batch, where the matcher recorded the digest of its state, and only if the state here
has the same digest. A difference means that the log does not give the state that the matcher had.
The snapshotter then logs it and stops.
"""

import asyncio
import logging
import time
from typing import Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.engine import State, evolve
from exchange.domain.values import Position
from exchange.log import snapshot_store
from exchange.log.reader import read_heads
from exchange.log.snapshot_store import NOTE_FAILURE, READ_BOUNDARY, READ_WISH, stored_snapshots
from exchange.log.snapshots import encode, newest_usable
from exchange.waiting import heed_cancellation, is_set_within
from projections.projector.metrics import ProjectorMetrics
from projections.projector.tail import ShardTail
from projections.stores.failures import Outage, is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

READ_EVENTS_MAX: Final = 500  # applying them holds the event loop for some milliseconds
WISH_EVERY_S: Final = 0.2  # how long a wish may go unnoticed
PAUSE_S: Final = 0.1  # between reads, so that followers come first


class SnapshotPace(Struct, frozen=True):
    """Take a snapshot after ``events`` new events, or after ``seconds`` if any event is new."""

    events: int
    seconds: int


class StateDiffers(Exception):
    """The log does not give the state whose digest the matcher recorded."""


class Snapshotter:
    """Keeps the state of one shard and writes it out from time to time."""

    def __init__(
        self,
        engine: AsyncEngine,
        tail: ShardTail,
        pace: SnapshotPace,
        metrics: ProjectorMetrics | None = None,
    ) -> None:
        self._engine = engine
        self._tail = tail
        self._pace = pace
        metrics = metrics or ProjectorMetrics()
        self._count = metrics.snapshots.labels(str(tail.shard))
        self._stopped = metrics.snapshots_stopped.labels(str(tail.shard))
        self._state = State()
        self._taken = 0  # the position of the last snapshot
        self._taken_s = time.monotonic()
        self._looked_s = 0.0
        self._difference: str | None = None
        self._outage = Outage("The snapshotter", self._fields)

    async def run(self) -> None:
        """Follow until cancelled, or until the state differs from the recorded one."""
        news = self._tail.follow()
        try:
            while True:
                try:
                    await self._follow_until_it_differs(news)
                    return
                except Exception as error:
                    if not is_store_failure(error):
                        raise
                    await self._outage.wait(error)
        finally:
            self._tail.unfollow(news)

    @property
    def _fields(self) -> dict[str, object]:
        return {"shard": self._tail.shard}

    async def _follow_until_it_differs(self, news: asyncio.Event) -> None:
        """Follow the log. A difference is stored where gateways see it, also on a second try."""
        try:
            if self._difference is None:
                await self._follow(news)
        except StateDiffers as error:
            logger.critical("%s", error, extra=self._fields)
            self._difference = str(error)
            self._stopped.set(1)
        async with driver_connection(self._engine) as driver:
            await driver.execute(NOTE_FAILURE, self._tail.shard, self._difference)

    async def _follow(self, news: asyncio.Event) -> None:
        await self._begin()
        while True:
            news.clear()
            read = await self._advance(READ_EVENTS_MAX)
            if await self._is_due():
                await self._take()
            self._outage.over()
            heed_cancellation()
            if read < READ_EVENTS_MAX:
                await is_set_within(news, WISH_EVERY_S)
                await asyncio.sleep(PAUSE_S)

    async def _begin(self) -> None:
        """Start from the newest snapshot, unless the state is further already."""
        async with driver_connection(self._engine) as driver:
            shard = self._tail.shard
            head = Position((await read_heads(driver)).get(shard, 0))
            found = await newest_usable(stored_snapshots(driver, shard, up_to=head))
        if found is None:
            return
        state, snapshot = found
        self._taken = snapshot.position
        if self._state.position < self._taken:
            self._state = state

    async def _advance(self, limit: int) -> int:
        """Apply the next events and return how many there were."""
        chunk = await self._tail.read(after=self._state.position, limit=limit)
        if not chunk.events and chunk.unreadable is not None:
            raise StateDiffers(f"Snapshots end at an unknown event: {chunk.unreadable.error}")
        for decided in chunk.events:
            try:
                evolve(self._state, decided.event)
            except (KeyError, AssertionError) as error:
                raise StateDiffers(
                    f"Snapshots end at {decided.position}, which cannot be applied: {error!r}"
                ) from error
        return len(chunk.events)

    async def _is_due(self) -> bool:
        new = self._state.position - self._taken
        if new >= self._pace.events:
            return True
        now_s = time.monotonic()
        if new and now_s - self._taken_s >= self._pace.seconds:
            return True
        if now_s - self._looked_s < WISH_EVERY_S:
            return False
        self._looked_s = now_s
        return self._taken < await self._wish() <= self._state.position

    async def _wish(self) -> int:
        async with driver_connection(self._engine) as driver:
            return await driver.fetchval(READ_WISH, self._tail.shard) or 0

    async def _take(self) -> None:
        """Go on to the end of the batch and write the state out."""
        async with driver_connection(self._engine) as driver:
            boundary = await driver.fetchrow(READ_BOUNDARY, self._tail.shard, self._state.position)
        assert boundary is not None, "every event is in a batch"
        while self._state.position < boundary["position"]:
            await self._advance(boundary["position"] - self._state.position)
        if self._state.digest != boundary["state_digest"]:
            raise StateDiffers(
                f"The log up to {self._state.position} gives another state than the matcher had"
            )
        begun_s = time.monotonic()
        data = await asyncio.to_thread(encode, self._state)
        async with driver_connection(self._engine) as driver, driver.transaction():
            await snapshot_store.store(driver, self._tail.shard, self._state, data)
        self._taken, self._taken_s = self._state.position, time.monotonic()
        self._count.inc()
        fields = {"position": self._taken, "bytes": len(data)}
        seconds = round(self._taken_s - begun_s, 3)
        logger.info("Took a snapshot", extra={**self._fields, **fields, "seconds": seconds})
