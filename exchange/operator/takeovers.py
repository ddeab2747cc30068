"""When matchers took shards over, as the epochs of the log's batches tell it.

Epochs rise along a shard's log, so where one begins is found by halving: some twenty looks over the
primary key, whatever the log has. A take-over that wrote nothing before the next one left no trace.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct

TOLD_MAX: Final = 10  # of each shard; `exchange status` has the epoch of the last one

READ_BATCH_BEFORE: Final = """
select position, epoch, recorded_at from batches
where shard = $1 and position <= $2
order by position desc limit 1
"""


class TakeOver(Struct, frozen=True):
    """The first batch that the writer of an epoch appended: up to where, and when."""

    shard: int
    epoch: int
    position: int
    at: datetime


class TakeOvers:
    """The newest take-overs of each shard. What was found once is not looked for again."""

    def __init__(self) -> None:
        self._found: dict[int, list[TakeOver]] = {}  # by shard, newest first

    async def read(
        self, connection: asyncpg.Connection, heads: Mapping[int, int]
    ) -> list[TakeOver]:
        """Return take-overs by shard, newest first, at most ``TOLD_MAX`` of each."""
        for shard, head in heads.items():
            known = self._found.get(shard, [])
            fresh = await _until(connection, shard, head, known[0].epoch if known else 0)
            self._found[shard] = [*fresh, *known][:TOLD_MAX]
        return [one for shard in sorted(heads) for one in self._found[shard]]


async def _until(
    connection: asyncpg.Connection, shard: int, head: int, known: int
) -> list[TakeOver]:
    """Return take-overs up to the known epoch, newest first."""
    found: list[TakeOver] = []
    before = head
    while before > 0 and len(found) < TOLD_MAX:
        last = await connection.fetchrow(READ_BATCH_BEFORE, shard, before)
        if last is None or last["epoch"] <= known:
            break
        first = await _first_of(connection, shard, last)
        found.append(TakeOver(shard, first["epoch"], first["position"], first["recorded_at"]))
        before = first["position"] - 1
    return found


async def _first_of(
    connection: asyncpg.Connection, shard: int, last: asyncpg.Record
) -> asyncpg.Record:
    """Return the first batch of the epoch of ``last``."""
    older, first = 0, last  # the epoch begins after ``older``, and at ``first`` at the latest
    while older < first["position"] - 1:
        middle = (older + first["position"]) // 2
        batch = await connection.fetchrow(READ_BATCH_BEFORE, shard, middle)
        if batch is not None and batch["epoch"] == last["epoch"]:
            first = batch
        else:
            older = middle
    return first
