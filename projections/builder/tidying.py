"""What retires former generations and deletes retired ones, beside the building.

Read ``Tidier.tidy``. Dropping a table waits for all who read its parent, which a backup does for as
long as it takes. So it has a connection of its own, gives up after ``DETACH_S``, and is tried again
a minute later. A build of the same model waits as long, others for nothing. A generation that
cannot be deleted holds up no other.
"""

import logging
import time
from collections.abc import Sequence
from typing import Final

import asyncpg
from redis.asyncio import Redis

from projections.builder.working import Connect, alone, asking, work
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.retiring import drop, droppable, retire_overdue
from projections.registry import Projection
from projections.stores.failures import is_store_failure
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
        self._told: set[tuple[str, int]] = set()  # what stays until somebody does something

    async def run(self) -> None:
        """Tidy until cancelled."""
        await work(self._connect, self.tidy, "The builder's tidying")

    async def tidy(self, connection: asyncpg.Connection) -> bool:
        """Retire what was kept for long enough, and delete what is retired; tell if any was.

        Raises:
            Exception: A store failed for one of them, after all others had their turn.
        """
        async with asking():
            overdue = await retire_overdue(connection, self._keep_hours)
            retired = await droppable(connection)
        for projection, generation in overdue:
            fields = {"projection": projection, "generation": generation}
            logger.info("Retired the former generation: its time is over", extra=fields)
        any_dropped, failure = False, None
        for projection, generation, made_by in retired:
            try:
                any_dropped |= await self._tidy_one(connection, projection, generation, made_by)
            except Exception as error:
                if connection.is_closed() or not is_store_failure(error):
                    raise
                failure = failure or error
        if failure is not None:
            raise failure
        return any_dropped

    async def _tidy_one(
        self,
        connection: asyncpg.Connection,
        projection: str,
        generation: int,
        made_by: str | None,
    ) -> bool:
        """Delete a retired generation, if it is its turn; tell if it was deleted."""
        tables = self._tables(projection, made_by)
        if tables is None:
            why = f"this build has no definition of its tables ({made_by})"
            self._tell_left(projection, generation, why)
            return False
        if time.monotonic() < self._again_s.get(projection, 0.0):
            return False
        async with alone(connection, projection) as is_mine:
            return is_mine and await self._drop(connection, tables, projection, generation)

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
        except asyncpg.DependentObjectsStillExistError as error:
            self._again_s[projection] = time.monotonic() + AGAIN_S
            self._tell_left(projection, generation, f"{error}: {error.detail}")
            return False
        logger.info("Deleted a retired generation", extra=fields)
        return True

    def _tell_left(self, projection: str, generation: int, why: str) -> None:
        """Say once of a retired generation why its rows stay."""
        if (projection, generation) not in self._told:
            self._told.add((projection, generation))
            fields = {"projection": projection, "generation": generation, "reason": why}
            logger.warning("The rows of a retired generation stay", extra=fields)
