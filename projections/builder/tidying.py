"""What retires former generations and deletes retired ones, beside the building.

Read ``Tidier.tidy``. Dropping a table waits for all who read its parent, which a backup does for as
long as it takes. So it has a connection of its own, gives up after ``DETACH_S``, and is tried again
a minute later. A build of the same model waits as long, others for nothing.
"""

import logging
import time
from collections.abc import Sequence
from typing import Final

import asyncpg
from redis.asyncio import Redis

from projections.builder.working import Connect, alone, work
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.retiring import drop, droppable, retire_overdue
from projections.registry import Projection
from projections.stores.fingerprints import has_shape_of

logger = logging.getLogger(__name__)

AGAIN_S: Final = 60.0


class Tidier:
    """Retires what was kept for long enough, and deletes what is retired."""

    def __init__(
        self,
        connect: Connect,
        redis: Redis,
        definitions: Definitions[Projection],
        *,
        keep_former_hours: int,
    ) -> None:
        self._connect = connect
        self._redis = redis
        self._definitions = definitions
        self._keep_hours = keep_former_hours
        self._again_s: dict[str, float] = {}  # when a projection is tried again

    async def run(self) -> None:
        """Tidy until cancelled."""
        await work(self._connect, self.tidy, "The builder's tidying")

    async def tidy(self, connection: asyncpg.Connection) -> bool:
        """Retire what was kept for long enough, and delete what is retired; tell if any was."""
        any_dropped = False
        for projection, generation in await retire_overdue(connection, self._keep_hours):
            fields = {"projection": projection, "generation": generation}
            logger.info("Retired the former generation: its time is over", extra=fields)
        for projection, generation, made_by in await droppable(connection):
            tables = self._tables(projection, made_by)
            if tables is None or time.monotonic() < self._again_s.get(projection, 0.0):
                continue
            async with alone(connection, projection) as is_mine:
                if is_mine:
                    any_dropped |= await self._drop(connection, tables, projection, generation)
        return any_dropped

    def _tables(self, projection: str, made_by: str | None) -> Sequence[str] | None:
        """Return the tables of a generation; None if this build cannot tell which they are."""
        mine = [
            definition
            for definition in self._definitions.of_projection(projection)
            if not definition.tables or has_shape_of(made_by, definition.fingerprint)
        ]
        if not mine:
            return None
        return sorted({table.name for definition in mine for table in definition.tables})

    async def _drop(
        self,
        connection: asyncpg.Connection,
        tables: Sequence[str],
        projection: str,
        generation: int,
    ) -> bool:
        """Delete a retired generation; tell whether nobody reads it any more.

        A parent has at most one partition that is being detached: until that is done, PostgreSQL
        refuses to detach another.
        """
        fields = {"projection": projection, "generation": generation}
        try:
            await drop(connection, self._redis, list(tables), projection, generation)
        except (TimeoutError, asyncpg.ObjectNotInPrerequisiteStateError):
            self._again_s[projection] = time.monotonic() + AGAIN_S
            logger.info("A retired generation is still read", extra=fields)
            return False
        logger.info("Deleted a retired generation", extra=fields)
        return True
