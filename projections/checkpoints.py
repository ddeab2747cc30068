"""How far the read models are, for those who read them.

A query says what it saw by reading the checkpoint first: what it reads afterwards is
at least that new. No live generation means that the model is unavailable, which is
not the same as empty.

``SequenceWaits`` is how a reader waits until a model has seen a position. One query
at a time serves all waiters of a process, however many they are.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.cancellation import retrieve_error
from exchange.schema import CHECKPOINTS, LIVE

# Projectors do not notify of checkpoints: every NOTIFY makes commits queue for one lock, the
# matcher's too. Asking often costs one query per interval and process, and only while one waits.
WAIT_POLL_S: Final = 0.01
QUERY_TIMEOUT_S: Final = 2  # all waiters share the query: a connection that hangs holds all of them

READ_LIVE_CHECKPOINTS = select(
    LIVE.c.projection, CHECKPOINTS.c.shard, CHECKPOINTS.c.position
).outerjoin_from(
    LIVE,
    CHECKPOINTS,
    (CHECKPOINTS.c.projection == LIVE.c.projection)
    & (CHECKPOINTS.c.generation == LIVE.c.generation),
)


class ReadModelUnavailable(Exception):
    """The model is not there (never built, lost, or its store away): it is not empty."""


class ReadModelStale(Exception):
    """The model has not reached the wanted position in time."""


async def read_live_generation(connection: AsyncConnection, projection: str) -> int:
    """Return the generation that queries read now.

    Raises:
        ReadModelUnavailable: There is none yet.
    """
    query = select(LIVE.c.generation).where(LIVE.c.projection == projection)
    generation: int | None = await connection.scalar(query)
    if generation is None:
        raise ReadModelUnavailable(f"{projection} has no live generation yet")
    return generation


async def read_checkpoints(connection: AsyncConnection, projection: str) -> dict[int, int]:
    """Return the position that the live generation has reached, by shard.

    Raises:
        ReadModelUnavailable: There is no live generation.
    """
    query = READ_LIVE_CHECKPOINTS.where(LIVE.c.projection == projection)
    rows = (await connection.execute(query)).all()
    if not rows:
        raise ReadModelUnavailable(f"{projection} has no live generation yet")
    return {shard: position for _, shard, position in rows if shard is not None}


async def read_all_checkpoints(connection: AsyncConnection) -> dict[str, dict[int, int]]:
    """Return the positions of every live projection in Postgres, by name and shard."""
    reached: dict[str, dict[int, int]] = {}
    for name, shard, position in await connection.execute(READ_LIVE_CHECKPOINTS):
        positions = reached.setdefault(name, {})
        if shard is not None:
            positions[shard] = position
    return reached


class SequenceWaits:
    """Waits of this process for positions in the Postgres read models."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._polls: asyncio.Task[dict[str, dict[int, int]]] | None = None

    async def reach(
        self, projection: str, wanted: Mapping[int, int], *, timeout_ms: int
    ) -> dict[int, int]:
        """Wait until the live generation has every wanted position; return where it is.

        Args:
            projection: The projection's name.
            wanted: A position for each shard of interest.
            timeout_ms: How long to wait at most.

        Raises:
            ReadModelUnavailable: There is no live generation, and none came.
            ReadModelStale: It did not get there in time.
        """
        reached: dict[int, int] | None = None
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while True:
                    reached = (await self._poll()).get(projection)
                    if reached is not None and has_reached(reached, wanted):
                        return reached
                    await asyncio.sleep(WAIT_POLL_S)
        except TimeoutError:
            if reached is None:
                raise ReadModelUnavailable(f"{projection} has no live generation yet") from None
            raise ReadModelStale(f"{projection} is at {reached}, not yet at {wanted}") from None

    async def _poll(self) -> dict[str, dict[int, int]]:
        # A waiter that gives up must not cancel the query that others wait for.
        if self._polls is None or self._polls.done():
            self._polls = asyncio.create_task(self._read())
            self._polls.add_done_callback(retrieve_error)
        return await asyncio.shield(self._polls)

    async def _read(self) -> dict[str, dict[int, int]]:
        async with asyncio.timeout(QUERY_TIMEOUT_S), self._engine.connect() as connection:
            return await read_all_checkpoints(connection)


def has_reached(reached: Mapping[int, int], wanted: Mapping[int, int]) -> bool:
    """Tell whether ``reached`` has every position of ``wanted``."""
    return all(reached.get(shard, 0) >= position for shard, position in wanted.items())
