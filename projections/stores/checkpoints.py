"""How far the read models are, for their readers.

A query reads the checkpoint first, so the rows that it reads afterwards are at least that new.
Without a live generation the model is unavailable, which is not the same as empty.

``SequenceWaits`` lets a reader wait until a model in Postgres has seen a position.
"""

import asyncio
from collections.abc import Mapping, Set
from typing import Final

from msgspec import Struct
from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.stores.schema import CHECKPOINTS, GENERATIONS, LIVE
from projections.stores.waits import PositionWaits, has_reached

QUERY_TIMEOUT_S: Final = 2  # all waiters share the query: a connection that hangs holds all of them

READ_LIVE_CHECKPOINTS = select(
    LIVE.c.projection, CHECKPOINTS.c.shard, CHECKPOINTS.c.position
).outerjoin_from(
    LIVE,
    CHECKPOINTS,
    (CHECKPOINTS.c.projection == LIVE.c.projection)
    & (CHECKPOINTS.c.generation == LIVE.c.generation),
)

READ_LIVE_GENERATIONS = select(
    LIVE.c.projection, LIVE.c.generation, GENERATIONS.c.state, GENERATIONS.c.failure
).join_from(
    LIVE,
    GENERATIONS,
    (GENERATIONS.c.projection == LIVE.c.projection)
    & (GENERATIONS.c.generation == LIVE.c.generation),
)


class LiveGeneration(Struct, frozen=True):
    """The generation of a projection that queries read; ``failure`` says why it failed."""

    generation: int
    state: str
    failure: str | None


class ReadModelUnavailable(Exception):
    """The model cannot be read: it was never built, is lost, or its store is away."""


class ReadModelStale(Exception):
    """The model has not reached the wanted position in time."""


def stale_text(projection: str, reached: Mapping[int, int], wanted: Mapping[int, int]) -> str:
    """Return a sentence on how far a model is, with positions as ``min_sequence`` takes them."""
    at, not_yet_at = (
        ",".join(f"{shard}:{position}" for shard, position in sorted(parts.items()))
        for parts in (reached, wanted)
    )
    return f"{projection} is at {at}, not yet at {not_yet_at}"


def is_live(table: Table, projection: str) -> ColumnElement[bool]:
    """Return the SQL condition that a row belongs to the live generation."""
    live = select(LIVE.c.generation).where(LIVE.c.projection == projection).scalar_subquery()
    return table.c.generation == live


async def read_live_generation(connection: AsyncConnection, projection: str) -> int:
    """Return the generation that queries read now.

    Raises:
        ReadModelUnavailable: There is no live generation yet.
    """
    query = select(LIVE.c.generation).where(LIVE.c.projection == projection)
    generation: int | None = await connection.scalar(query)
    if generation is None:
        raise ReadModelUnavailable(f"{projection} has no live generation yet")
    return generation


async def read_live_generations(connection: AsyncConnection) -> dict[str, LiveGeneration]:
    """Return the live generation of every projection that has one, by name."""
    return {
        name: LiveGeneration(generation, state, failure)
        for name, generation, state, failure in await connection.execute(READ_LIVE_GENERATIONS)
    }


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


async def read_checkpoint(
    connection: AsyncConnection, projection: str, shard: int
) -> tuple[int, int]:
    """Return the position that the live generation has reached on a shard, and its event's time.

    Both are 0 if it has seen nothing of the shard.

    Raises:
        ReadModelUnavailable: There is no live generation.
    """
    generation = await read_live_generation(connection, projection)
    query = select(CHECKPOINTS.c.position, CHECKPOINTS.c.time_ms).where(
        CHECKPOINTS.c.projection == projection,
        CHECKPOINTS.c.generation == generation,
        CHECKPOINTS.c.shard == shard,
    )
    row = (await connection.execute(query)).first()
    return (0, 0) if row is None else (row.position, row.time_ms)


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
        self._waits: PositionWaits[tuple[str, int]] = PositionWaits(self._ask)

    async def reach(
        self, projection: str, wanted: Mapping[int, int], *, timeout_ms: int
    ) -> dict[int, int]:
        """Wait until the live generation has every wanted position; return its positions by shard.

        Args:
            projection: The projection's name.
            wanted: A position for each shard of interest.
            timeout_ms: How long to wait at most.

        Raises:
            ReadModelUnavailable: There was no live generation, to the end.
            ReadModelStale: The model did not get there in time.
            TooManyWait: ``WAITERS_MAX`` wait already.
        """
        parts = {(projection, shard): position for shard, position in wanted.items()}
        found = await self._waits.reach(parts, timeout_ms=timeout_ms)
        reached = {
            shard: found[projection, shard] for shard in wanted if (projection, shard) in found
        }
        if wanted and not reached:
            raise ReadModelUnavailable(f"{projection} has no live generation yet")
        if not has_reached(reached, wanted):
            raise ReadModelStale(stale_text(projection, reached, wanted))
        return reached

    async def _ask(self, parts: Set[tuple[str, int]]) -> dict[tuple[str, int], int]:
        async with asyncio.timeout(QUERY_TIMEOUT_S), self._engine.connect() as connection:
            reached = await read_all_checkpoints(connection)
        # A shard of which the live generation has seen nothing yet has no checkpoint.
        return {(name, s): reached[name].get(s, 0) for name, s in parts if name in reached}
