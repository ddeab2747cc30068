"""Where engine snapshots are kept: a table that may be emptied at any time.

The snapshotter writes them, a matcher that restores and the snapshotter itself read them, and a
gateway asks for one by a row in ``snapshot_wishes``.
"""

from collections.abc import AsyncIterator
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.domain.engine import State
from exchange.domain.values import Position
from exchange.log.snapshots import FORMAT_VERSION
from exchange.ports import StoredSnapshot

KEPT_MAX: Final = 5  # of each shard; the older ones serve only if the newer are damaged

# A table that was restored from elsewhere may have another log's snapshots: no batch has their
# state.
READ_NEWEST = """
select
    shard, position, version, digest, resting_orders, size_bytes, taken_at,
    (select id from log) as log_id
from snapshots join batches using (shard, position)
where shard = $1 and position >= $2 and version = $3 and digest = state_digest
order by position desc
limit 1
"""

# With the digest and time that the log has there, by which another log's snapshot is found out.
READ_SNAPSHOT = """
select
    snapshots.position, snapshots.version, snapshots.data, batches.state_digest as digest,
    (events.data->>'time_ms')::bigint as time_ms
from snapshots join batches using (shard, position) join events using (shard, position)
where shard = $1 and snapshots.position <= $2
order by snapshots.position desc
limit 1
"""

# A snapshot of the same position is written again if it was damaged or is of another version.
INSERT_SNAPSHOT = """
insert into snapshots (shard, position, version, digest, resting_orders, size_bytes, data)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (shard, position) do update set
    version = excluded.version, digest = excluded.digest,
    resting_orders = excluded.resting_orders, size_bytes = excluded.size_bytes,
    data = excluded.data, taken_at = excluded.taken_at
"""

DELETE_OLD = """
delete from snapshots
where shard = $1 and position < (
    select min(position) from (
        select position from snapshots where shard = $1 order by position desc limit $2
    ) as kept
)
"""

READ_BOUNDARY = """
select position, state_digest from batches
where shard = $1 and position >= $2
order by position
limit 1
"""

WISH = """
insert into snapshot_wishes (shard, position) values ($1, $2)
on conflict (shard) do update set position = greatest(snapshot_wishes.position, excluded.position)
"""

READ_WISH = "select position from snapshot_wishes where shard = $1"

NOTE_FAILURE = """
insert into snapshot_failures (shard, failure) values ($1, $2)
on conflict (shard) do update set failure = excluded.failure, failed_at = now()
"""

FORGET_FAILURE = "delete from snapshot_failures where shard = $1"

READ_FAILURES = "select shard, failure from snapshot_failures"


class SnapshotRow(Struct, frozen=True):
    """What is known of a stored snapshot without reading it, and the id of the log it is of."""

    shard: int
    position: int
    version: int
    digest: bytes
    resting_orders: int
    size_bytes: int
    taken_at: object
    log_id: str


async def store(connection: asyncpg.Connection, shard: int, state: State, data: bytes) -> None:
    """Store a snapshot and delete all but the newest ``KEPT_MAX``; forget an earlier failure."""
    orders = sum(len(book.orders) for book in state.books.values())
    row = (shard, state.position, FORMAT_VERSION, state.digest, orders, len(data), data)
    await connection.execute(INSERT_SNAPSHOT, *row)
    await connection.execute(DELETE_OLD, shard, KEPT_MAX)
    await connection.execute(FORGET_FAILURE, shard)


async def read_failures(connection: asyncpg.Connection) -> dict[int, str]:
    """Return why snapshotters stopped, by shard; a shard whose snapshotter runs is left out."""
    return {row["shard"]: row["failure"] for row in await connection.fetch(READ_FAILURES)}


async def newest(
    connection: asyncpg.Connection, shard: int, *, at_least: int = 0
) -> SnapshotRow | None:
    """Return the newest snapshot at or after a position that this version reads, or None."""
    row = await connection.fetchrow(READ_NEWEST, shard, at_least, FORMAT_VERSION)
    return None if row is None else SnapshotRow(**row)


async def stored_snapshots(
    connection: asyncpg.Connection, shard: int, *, up_to: Position
) -> AsyncIterator[StoredSnapshot]:
    """Yield a shard's snapshots at batches' ends up to a position, newest first."""
    while row := await connection.fetchrow(READ_SNAPSHOT, shard, up_to):
        yield StoredSnapshot(**row)
        up_to = Position(row["position"] - 1)
