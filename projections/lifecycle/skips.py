"""Events that a definition cannot apply and that an operator lets it pass over, for ever.

Every fold of the definition obeys a skip: following, building, verifying. A later definition, with
another fingerprint, does not. Read models tell of the skips in their answers.
"""

from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from projections.lifecycle.changes import By, Refused, changing, note_operation
from projections.lifecycle.generations import FAILED

READ_SKIPS = """
select projection, fingerprint, shard, position, reason, skipped_by, skipped_at
from skips
where $1::text is null or projection = $1
order by projection, fingerprint, shard, position
"""

ADD_SKIP = """
insert into skips (projection, fingerprint, shard, position, reason, skipped_by)
values ($1, $2, $3, $4, $5, $6)
on conflict do nothing
"""


class Skip(Struct, frozen=True):
    """An event that a definition passes over, who decided so, and why."""

    projection: str
    fingerprint: str
    shard: int
    position: int
    reason: str
    skipped_by: str
    skipped_at: object


async def read_skips(connection: asyncpg.Connection, projection: str | None = None) -> list[Skip]:
    """Return the skips of a projection, or of all."""
    return [Skip(*row) for row in await connection.fetch(READ_SKIPS, projection)]


def skipped(skips: Sequence[Skip], projection: str, fingerprint: str) -> set[tuple[int, int]]:
    """Return shard and position of each event that a definition passes over."""
    return {
        (skip.shard, skip.position)
        for skip in skips
        if (skip.projection, skip.fingerprint) == (projection, fingerprint)
    }


async def skip_event(
    connection: asyncpg.Connection,
    projection: str,
    fingerprint: str,
    at: tuple[int, int],
    by: By,
) -> int:
    """Let a definition pass over the event at which a generation of it failed; return its number.

    The generation goes on when it is retried. ``at`` is the event's shard and position.

    Raises:
        Refused: No generation of the projection failed at this event, or no reason is given.
    """
    if not by.reason:
        raise Refused("A skip is for ever: say why.")
    async with changing(connection, projection) as life:
        for one in life.generations:
            if one.state == FAILED and (one.failed_shard, one.failed_position) == at:
                break
        else:
            failed = [
                f"generation {g.generation} at {g.failed_shard}:{g.failed_position}"
                for g in life.generations
                if g.state == FAILED and g.failed_position
            ]
            told = ", ".join(failed) or "nothing"
            raise Refused(f"No generation failed at {at[0]}:{at[1]}; failed: {told}.")
        made_by = one.fingerprint or fingerprint
        row = (projection, made_by, *at, by.reason, by.operator)
        await connection.execute(ADD_SKIP, *row)
        await note_operation(connection, by, f"skip {at[0]}:{at[1]}", projection, one.generation)
        return one.generation
