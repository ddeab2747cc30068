"""Generations of read models: several may be filled side by side, and one of them is live.

A generation consists of its own tables (partitions of the projection's parent tables) or its own
keys in Redis, a row in ``generations`` and a checkpoint per shard. ``live`` is the pointer that
every query reads; only ``switch_live`` moves it.

States: ``building`` (never live yet), ``catching-up``, ``live``, ``retired``, ``paused``,
``failed``. A projector works on all generations but the retired and paused ones. It tries failed
ones again when it starts, since a newer version may be able to go on.

Every change of a projection's generations holds its advisory lock, so that two projectors that
start at once make one generation, not two.
"""

from collections.abc import Sequence
from typing import Final

import asyncpg
from msgspec import Struct
from sqlalchemy import Table

LIFECYCLE_LOCK_CLASS: Final = 0x50524F4A  # "PROJ"; keeps these advisory locks apart from others

ACTIVE_STATES: Final = frozenset({"building", "catching-up", "live", "failed"})

LOCK_PROJECTION = "select pg_advisory_xact_lock($1, hashtext($2))"

READ_GENERATIONS = """
select g.projection, g.generation, g.state, live.generation is not null as live
from generations g
left join live on live.projection = g.projection and live.generation = g.generation
order by g.projection, g.generation
"""

READ_LAST_GENERATION = "select max(generation) from generations where projection = $1"

CREATE_GENERATION = """
insert into generations (projection, generation, state) values ($1, $2, 'building')
"""

# The checkpoints of the old generation are locked, so it cannot run ahead during the switch.
READ_BEHIND = """
with old as (
    select shard, position from checkpoints
    where projection = $1
        and generation = (select generation from live where projection = $1)
        and generation <> $2
    order by shard
    for update
)
select old.shard
from old
left join checkpoints new
    on new.projection = $1 and new.generation = $2 and new.shard = old.shard
where coalesce(new.position, 0) < old.position
"""

RETIRE_LIVE = """
update generations set state = 'retired'
where projection = $1 and generation <> $2
    and generation = (select generation from live where projection = $1)
"""

# A failed generation may be read as far as it came, but stays marked as failed.
MARK_LIVE = """
update generations set state = 'live'
where projection = $1 and generation = $2 and state <> 'failed'
"""

POINT_LIVE = """
insert into live (projection, generation) values ($1, $2)
on conflict (projection) do update set generation = excluded.generation
"""

MARK_FAILED = """
update generations set state = 'failed', failure = $3 where projection = $1 and generation = $2
"""

# A failed generation stopped at an event that a newer version of the projector may be able to read.
RETRY_FAILED = """
update generations g
set failure = null, state = case
    when exists (
        select from live where live.projection = g.projection and live.generation = g.generation
    ) then 'live'
    else 'building'
end
where state = 'failed'
"""


class Generation(Struct, frozen=True):
    """One generation of a projection; ``live`` says whether queries read it."""

    projection: str
    generation: int
    state: str
    live: bool


class GenerationBehind(Exception):
    """The generation has not seen everything that readers of the live one have seen."""


async def read_generations(connection: asyncpg.Connection) -> list[Generation]:
    """Return all generations of all projections."""
    return [Generation(*row) for row in await connection.fetch(READ_GENERATIONS)]


async def ensure_generation(
    connection: asyncpg.Connection, projection: str, tables: Sequence[Table]
) -> None:
    """Make the first generation of a projection, unless it has one."""
    async with connection.transaction():
        await connection.execute(LOCK_PROJECTION, LIFECYCLE_LOCK_CLASS, projection)
        if await connection.fetchval(READ_LAST_GENERATION, projection) is None:
            await _create(connection, projection, tables, 1)


async def create_generation(
    connection: asyncpg.Connection, projection: str, tables: Sequence[Table]
) -> int:
    """Make a new generation, which projectors begin to fill; the existing ones stay."""
    async with connection.transaction():
        await connection.execute(LOCK_PROJECTION, LIFECYCLE_LOCK_CLASS, projection)
        last = await connection.fetchval(READ_LAST_GENERATION, projection)
        generation = 1 + (last or 0)
        await _create(connection, projection, tables, generation)
    return generation


async def switch_live(connection: asyncpg.Connection, projection: str, generation: int) -> None:
    """Let queries read ``generation`` from now on, and retire the one that they read before.

    The retired generation keeps its tables, so that switching back is possible.

    Raises:
        GenerationBehind: Readers would go back in time. Nothing changed. The checkpoints of a
            projection in Redis are not compared here: the caller does that.
    """
    async with connection.transaction():
        await connection.execute(LOCK_PROJECTION, LIFECYCLE_LOCK_CLASS, projection)
        behind = [
            row["shard"] for row in await connection.fetch(READ_BEHIND, projection, generation)
        ]
        if behind:
            raise GenerationBehind(f"{projection} generation {generation} on shards {behind}")
        for statement in (RETIRE_LIVE, MARK_LIVE, POINT_LIVE):
            await connection.execute(statement, projection, generation)


async def mark_failed(
    connection: asyncpg.Connection, projection: str, generation: int, failure: str
) -> None:
    """Record why a generation stopped. If it is live, queries still read what it has."""
    await connection.execute(MARK_FAILED, projection, generation, failure)


async def retry_failed(connection: asyncpg.Connection) -> None:
    """Clear the failures, so that the projector tries these generations again."""
    await connection.execute(RETRY_FAILED)


async def _create(
    connection: asyncpg.Connection, projection: str, tables: Sequence[Table], generation: int
) -> None:
    for table in tables:
        # DDL takes no parameters, so the names, which come from the code, are put into the text. A
        # partition is made first and attached then, which does not lock out readers of the parent.
        partition = f"{table.name}_g{generation}"
        await connection.execute(f"create table {partition} (like {table.name} including all)")
        await connection.execute(
            f"alter table {table.name} attach partition {partition} for values in ({generation})"
        )
    await connection.execute(CREATE_GENERATION, projection, generation)
