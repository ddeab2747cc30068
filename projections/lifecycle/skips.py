"""Events that a definition cannot apply and that an operator lets it pass over, for ever.

Every fold of the definition obeys a skip: following, building, verifying, telling the past. A later
definition, with another fingerprint, does not. Read models tell of the skips in their answers.
"""

from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from projections.lifecycle.changes import By, Refused, changing, restore
from projections.lifecycle.generations import FAILED, Generation

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

# States of folds that have the event. Whoever is about to keep another one waits, and then sees the
# skip (``projections.past.states``).
LOCK_STATES = "lock table fold_states in share row exclusive mode"
DELETE_STATES = """
delete from fold_states
where projection = $1 and fingerprint = $2 and shard = $3 and position >= $4
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


async def read_skipped(
    connection: asyncpg.Connection, projection: str, fingerprint: str
) -> set[tuple[int, int]]:
    """Return shard and position of each event that a definition passes over by now."""
    return skipped(await read_skips(connection, projection), projection, fingerprint)


async def skip_event(
    connection: asyncpg.Connection,
    projection: str,
    fingerprint: str,
    at: tuple[int, int],
    by: By,
    *,
    expect_live: int | None = None,
) -> list[int]:
    """Let a definition pass over an event at which generations of it failed, and let these go on.

    If those of several definitions failed there, it is the definition of the live one.

    Args:
        connection: The database.
        projection: The projection.
        fingerprint: The definition of a generation that is older than fingerprints.
        at: The event's shard and position.
        by: Who wants it, and why.
        expect_live: The generation that the operator believes to be live.

    Returns:
        The generations that go on.

    Raises:
        Refused: No generation of the projection failed at this event, no reason is given, or
            ``expect_live`` is not live.
    """
    if not by.reason:
        raise Refused("A skip is for ever: say why.")
    async with changing(connection, projection) as life:
        life.expect(expect_live)
        failed = [g for g in life.generations if g.state == FAILED]
        here = [g for g in failed if (g.failed_shard, g.failed_position) == at]
        if not here:
            raise Refused(f"No generation failed at {at[0]}:{at[1]}; failed: {_places(failed)}.")
        first = next((g for g in here if g.live), here[0])
        made_by = first.fingerprint or fingerprint
        await connection.execute(LOCK_STATES)
        await connection.execute(ADD_SKIP, projection, made_by, *at, by.reason, by.operator)
        await connection.execute(DELETE_STATES, projection, made_by, *at)
        mine = [g for g in here if (g.fingerprint or fingerprint) == made_by]
        for one in mine:
            await restore(connection, one, by, f"skip {at[0]}:{at[1]}")
        return [one.generation for one in mine]


def _places(failed: Sequence[Generation]) -> str:
    """Return which generations failed at an event, and where."""
    told = [
        f"generation {g.generation} at {g.failed_shard}:{g.failed_position}"
        for g in failed
        if g.failed_position
    ]
    return ", ".join(told) or "nothing"
