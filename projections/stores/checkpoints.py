"""Which generation readers read, and how far it is.

Read ``read_live``. It comes before every query: one statement tells the live generation, who built
it, and its checkpoints. The query then reads rows of this generation, whatever becomes live
meanwhile, and they are at least as new as the checkpoints. Without a live generation the model is
unavailable, which is not the same as empty.

``SequenceWaits`` lets a reader wait until a model in Postgres has seen a position.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from msgspec import Struct
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.stores.schema import GENERATIONS, LIVE
from projections.stores.waits import PositionWaits, has_reached

QUERY_TIMEOUT_S: Final = 2  # all waiters share the query: a connection that hangs holds all of them

# A generation without a fingerprint is of the first version, whatever the shape of its tables.
READ_LIVE = text("""
select live.generation, made.fingerprint, reached.shards, reached.positions, reached.times_ms,
    passed_over.events
from live
join generations as made using (projection, generation)
cross join lateral (
    select array_agg(shard order by shard) as shards,
        array_agg(position order by shard) as positions,
        array_agg(time_ms order by shard) as times_ms
    from checkpoints_of(live.projection, live.generation)
) as reached
cross join lateral (
    select array_agg(shard || ':' || position order by shard, position) as events
    from skips
    where skips.projection = live.projection and (
        skips.fingerprint = made.fingerprint
        or made.fingerprint is null and starts_with(skips.fingerprint, '1-')
    )
) as passed_over
where live.projection = :projection
""")

# Null as the names stands for all.
READ_LIVE_CHECKPOINTS = text("""
select live.projection, reached.shard, reached.position
from live
left join lateral checkpoints_of(live.projection, live.generation) as reached on true
where live.projection = any(coalesce(cast(:projections as text[]), array[live.projection]))
""")

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


class Live(Struct, frozen=True):
    """The generation of a projection that a query reads.

    ``fingerprint`` is that of the definition that built it, None if that was the first version.
    ``reached`` and ``times_ms`` are the position and the time of its last event, by shard; a model
    in Redis keeps them there. ``skipped`` are the events that it lacks because an operator let the
    definition pass over them, as ``shard:position``.
    """

    projection: str
    generation: int
    fingerprint: str | None = None
    reached: dict[int, int] = {}
    times_ms: dict[int, int] = {}
    skipped: tuple[str, ...] = ()


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


# The events that the models lack which this task and its children have read, as far as one asks.
_noted: ContextVar[set[str]] = ContextVar("skipped events")


@contextmanager
def noting_skips() -> Iterator[set[str]]:
    """Collect what the models lack that are read in this context, as ``shard:position``."""
    noted: set[str] = set()
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def note_skips(skipped: Iterable[str]) -> None:
    """Note what a model lacks that was read, for whoever collects it."""
    _noted.get(set()).update(skipped)


async def read_live(connection: AsyncConnection, projection: str) -> Live:
    """Return the generation that a query is to read.

    Raises:
        ReadModelUnavailable: There is no live generation yet.
    """
    row = (await connection.execute(READ_LIVE, {"projection": projection})).first()
    if row is None:
        raise ReadModelUnavailable(f"{projection} has no live generation yet")
    generation, fingerprint, shards, positions, times_ms, skipped = row
    if skipped:
        note_skips(skipped)
    return Live(
        projection,
        generation,
        fingerprint,
        dict(zip(shards or (), positions or (), strict=True)),
        dict(zip(shards or (), times_ms or (), strict=True)),
        tuple(skipped or ()),
    )


async def read_live_generations(connection: AsyncConnection) -> dict[str, LiveGeneration]:
    """Return the live generation of every projection that has one, by name."""
    return {
        name: LiveGeneration(generation, state, failure)
        for name, generation, state, failure in await connection.execute(READ_LIVE_GENERATIONS)
    }


async def read_live_checkpoints(
    connection: AsyncConnection, projections: Sequence[str] | None = None
) -> dict[str, dict[int, int]]:
    """Return the positions of live projections in Postgres, all or these, by name and shard."""
    reached: dict[str, dict[int, int]] = {}
    names = None if projections is None else list(projections)
    for name, shard, position in await connection.execute(
        READ_LIVE_CHECKPOINTS, {"projections": names}
    ):
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
            reached = await read_live_checkpoints(connection, sorted({name for name, _ in parts}))
        # A shard of which the live generation has seen nothing yet has no checkpoint.
        return {(name, s): reached[name].get(s, 0) for name, s in parts if name in reached}
