"""The states of folds, kept in the background so that every question finds one close before it.

A question that passes a place where a state belongs keeps it too, so this is no other work: it is
done before somebody waits for it, and for the whole of a log that an earlier build wrote.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.analyst.asking import Analyst
from exchange.log.events import UnknownEvent
from exchange.log.reader import read_heads
from exchange.ports import LogCorrupt
from exchange.waiting import heed_cancellation
from projections.past.folded import FOLDED, fold_up_to
from projections.past.states import STATE_EVENTS, newest_position
from projections.stores.failures import Outage, is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

LOOK_S: Final = 5.0  # a shard writes as many events as are between two states in a minute or more
DAMAGED_S: Final = 600.0  # an operator has to do something about it


class StateKeeper:
    """Keeps states of each shard's folds up to its head, whenever nobody asks anything."""

    def __init__(self, engine: AsyncEngine, analyst: Analyst, every: int = STATE_EVENTS) -> None:
        self._engine, self._analyst, self._every = engine, analyst, every
        self._damaged_until_s: dict[int, float] = {}  # by shard

    async def run(self) -> None:
        """Keep states until cancelled, and wait while the database is away."""
        outage = Outage("The keeper of states", {})
        while True:
            try:
                await self.keep()
                outage.over()
                await asyncio.sleep(LOOK_S)
            except Exception as error:
                if not is_store_failure(error):
                    raise
                await outage.wait(error)
            heed_cancellation()

    async def keep(self) -> None:
        """Keep the states that are missing at the newest end of each shard's log.

        Which those are is read again each time: a skip deletes states.
        """
        for shard, head in sorted((await self._heads()).items()):
            now_s = asyncio.get_running_loop().time()
            if now_s < self._damaged_until_s.get(shard, 0):
                continue
            try:
                await self._keep_up(shard, head)
            except (UnknownEvent, LogCorrupt) as error:  # which holds up no other shard
                fields = {"shard": shard, "error": str(error)}
                logger.error("States of the past end at an event", extra=fields)
                self._damaged_until_s[shard] = now_s + DAMAGED_S

    async def _keep_up(self, shard: int, head: int) -> None:
        kept = await self._kept(shard)
        while kept + self._every <= head:
            await self._analyst.nobody_asks.wait()
            kept = await self._keep_next(shard, kept)

    async def _heads(self) -> Mapping[int, int]:
        async with driver_connection(self._engine) as connection:
            return await read_heads(connection)

    async def _kept(self, shard: int) -> int:
        """Return up to where every fold has a state."""
        async with driver_connection(self._engine) as connection:
            return min([await newest_position(connection, one, shard) for one in FOLDED.values()])

    async def _keep_next(self, shard: int, kept: int) -> int:
        position = kept + self._every
        async with driver_connection(self._engine) as connection:
            await fold_up_to(connection, list(FOLDED), shard, position, every=self._every)
        return position
