"""What is left of retired generations: their rows and keys are deleted, after a grace.

Each table goes in a step of its own, and keys go by the hundred, so that nobody waits for it. A
kept generation is retired when its time is over.
"""

from typing import Final

import asyncpg
from redis.asyncio import Redis

from projections.lifecycle.changes import By, Refused, note_operation, retire
from projections.lifecycle.generations import GRACE_S
from projections.stores.partitions import drop_partition

KEYS_AT_ONCE: Final = 500

READ_OVERDUE: Final = """
select g.projection, g.generation
from generations g
left join live on live.projection = g.projection and live.generation = g.generation
where g.state in ('kept', 'failed', 'paused') and live.generation is null
    and g.kept_at < now() - make_interval(hours => $1)
"""

READ_DROPPABLE: Final = """
select projection, generation, fingerprint from generations
where state = 'retired' and dropped_at is null
    and retired_at < now() - make_interval(secs => $1)
order by retired_at
"""

MARK_DROPPED: Final = """
update generations set dropped_at = now()
where projection = $1 and generation = $2 and dropped_at is null
"""

DELETE_REST: Final = """
with gone as (delete from builds where projection = $1 and generation = $2)
delete from checkpoints where projection = $1 and generation = $2
"""


async def retire_overdue(connection: asyncpg.Connection, keep_hours: int) -> list[tuple[str, int]]:
    """Retire the former generations that were kept for longer than ``keep_hours``."""
    retired = []
    for projection, generation in await connection.fetch(READ_OVERDUE, keep_hours):
        by = By("builder", f"it was kept for {keep_hours} hours")
        try:
            await retire(connection, projection, generation, by)
        except Refused:  # an operator was faster
            continue
        retired.append((projection, generation))
    return retired


async def droppable(connection: asyncpg.Connection) -> list[tuple[str, int, str | None]]:
    """Return the retired generations that no reader can hold any more, oldest first.

    Each comes with the fingerprint of the definition that built it.
    """
    return [tuple(row) for row in await connection.fetch(READ_DROPPABLE, GRACE_S)]


async def drop(
    connection: asyncpg.Connection,
    redis: Redis,
    tables: list[str],
    projection: str,
    generation: int,
) -> None:
    """Delete what is left of a retired generation; one that was begun is finished."""
    for table in tables:
        await drop_partition(connection, table, generation)
    if not tables:  # one in PostgreSQL does not wait for Redis
        await delete_keys(redis, projection, generation)
    async with connection.transaction():
        await connection.execute(DELETE_REST, projection, generation)
        if await connection.execute(MARK_DROPPED, projection, generation) == "UPDATE 1":
            part = (projection, generation)
            await note_operation(connection, By("builder"), "delete", *part, generation)


async def delete_keys(redis: Redis, projection: str, generation: int) -> None:
    """Delete all keys of a generation in Redis, some at a time."""
    pattern = f"{{{projection}:{generation}:*}}:*"
    found = []
    async for key in redis.scan_iter(match=pattern, count=KEYS_AT_ONCE):
        found.append(key)
        if len(found) >= KEYS_AT_ONCE:
            await redis.unlink(*found)
            found = []
    if found:
        await redis.unlink(*found)
