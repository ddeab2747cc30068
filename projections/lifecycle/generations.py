"""Generations of read models, and the states of their lives.

A generation consists of its own tables (partitions of the projection's parent tables) or its own
keys in Redis, a row in ``generations`` and a checkpoint per shard. ``live`` is the pointer that
every query reads.

``building``: a builder folds the log for it. ``catching-up``: followers keep it up, and no query
reads it yet. ``live``. ``kept``: it was live before; followers keep it up, so that switching back
loses nothing. ``retired``: nobody keeps it up, and its rows are deleted. ``paused``: an operator
stopped it. ``failed``: it stopped at an event, or differed from the log. A paused or failed one may
be the live one: queries then read what it has.
"""

from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct

BUILDING: Final = "building"
CATCHING_UP: Final = "catching-up"
LIVE: Final = "live"
KEPT: Final = "kept"
RETIRED: Final = "retired"
PAUSED: Final = "paused"
FAILED: Final = "failed"

# A reader may still hold the pointer to a generation that has just been retired: a read takes a
# second at most, and two for one that waits.
GRACE_S: Final = 10

READ_GENERATIONS: Final = """
select g.projection, g.generation, g.state, live.generation is not null as live,
    g.fingerprint, g.failure, g.failed_shard, g.failed_position, g.created_at, g.begun_by,
    g.built_at, g.kept_at, g.retired_at, g.dropped_at, g.verified, g.digest, g.replaces
from generations g
left join live on live.projection = g.projection and live.generation = g.generation
"""
READ_ALL: Final = f"{READ_GENERATIONS} order by g.projection, g.generation"
READ_OF_PROJECTION: Final = f"{READ_GENERATIONS} where g.projection = $1 order by g.generation"


class Generation(Struct, frozen=True):
    """One generation of a projection; ``live`` says whether queries read it.

    The times say since when it is kept up by followers (``built_at``), was the former one
    (``kept_at``), was retired, and has no rows any more (``dropped_at``). ``verified`` is up to
    where its rows were last compared with the log. ``replaces`` is the live generation that it
    takes over from as soon as it is verified.
    """

    projection: str
    generation: int
    state: str
    live: bool
    fingerprint: str | None = None
    failure: str | None = None
    failed_shard: int | None = None
    failed_position: int | None = None
    created_at: datetime | None = None
    begun_by: str | None = None
    built_at: datetime | None = None
    kept_at: datetime | None = None
    retired_at: datetime | None = None
    dropped_at: datetime | None = None
    verified: str | None = None
    digest: str | None = None
    replaces: int | None = None

    @property
    def is_followed(self) -> bool:
        """Whether followers keep it up, or have stopped at an event of it."""
        return self.built_at is not None and self.state in (CATCHING_UP, LIVE, KEPT, FAILED)

    @property
    def is_built(self) -> bool:
        """Whether its rows are complete up to its checkpoints, so that they can be compared."""
        return self.built_at is not None and self.state != RETIRED

    @property
    def is_verified(self) -> bool:
        """Whether its rows were compared with the log. Without a shard, that is up to nowhere."""
        return self.verified is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether it was never live and may yet be."""
        return not self.live and self.kept_at is None and self.state != RETIRED


async def read_generations(connection: asyncpg.Connection) -> list[Generation]:
    """Return all generations of all projections."""
    return [Generation(*row) for row in await connection.fetch(READ_ALL)]


async def generations_of(connection: asyncpg.Connection, projection: str) -> list[Generation]:
    """Return all generations of one projection, oldest first."""
    return [Generation(*row) for row in await connection.fetch(READ_OF_PROJECTION, projection)]
