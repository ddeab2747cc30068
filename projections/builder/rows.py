"""Where the rows of a generation go that is built in bulk: tables in PostgreSQL, keys in Redis.

In PostgreSQL they are copied into tables without indexes, which are indexed and attached at the
end. In Redis all are written at the end: a model there is small. Nobody reads a generation before
its end, so a build that dies leaves nothing that a reader could see.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import asyncpg
from redis.asyncio import Redis
from sqlalchemy import Table

from exchange.log.reader import read_log_id
from projections.folding import Rows
from projections.lifecycle.retiring import delete_keys
from projections.registry import Projection
from projections.stores.partitions import (
    attach_partitions,
    create_unattached,
    partition,
    read_index_texts,
)
from projections.stores.postgres import PostgresProjection
from projections.stores.redis import RedisProjection, begin_filling, end_filling

COUNT_INDEXES: Final = "select count(*) from pg_index where indrelid = $1::regclass"

# For the session that makes the indexes: a sort in memory is faster than one on disk.
INDEX_MEMORY: Final = "set maintenance_work_mem = '256MB'"
ONE_PROCESSOR: Final = "set max_parallel_maintenance_workers = 0"

PUT_CHECKPOINT: Final = """
with moved as (
    update checkpoints set position = $4, time_ms = $5
    where projection = $1 and generation = $2 and shard = $3
    returning shard
)
insert into checkpoints (projection, generation, shard, position, time_ms)
select $1, $2, $3, $4, $5 where not exists (select from moved)
"""

Positions = Mapping[int, int]  # by shard


class Store(Protocol):
    """Where a generation's rows go; ``write`` may be called with the same rows only once."""

    async def prepare(self, connection: asyncpg.Connection) -> None:
        """Make room for the rows, without any that an earlier try left."""
        ...

    async def write(self, connection: asyncpg.Connection, rows: Rows) -> None:
        """Add rows, in the open transaction if the store is PostgreSQL."""
        ...

    async def index(self, *connections: asyncpg.Connection) -> None:
        """Make what readers need to find the rows; a second call goes on with the first.

        That takes one processor of the server over each connection.
        """
        ...

    async def finish(
        self, connection: asyncpg.Connection, positions: Positions, times_ms: Positions
    ) -> None:
        """Make the generation complete at these positions, in the open transaction."""
        ...


class Tables:
    """The tables of a generation in PostgreSQL."""

    def __init__(self, projection: PostgresProjection, generation: int) -> None:
        self._projection = projection
        self._generation = generation
        self._names = [table.name for table in projection.tables]
        self._columns = {t.name: [c.name for c in t.columns][1:] for t in projection.tables}

    async def prepare(self, connection: asyncpg.Connection) -> None:
        await create_unattached(connection, self._names, self._generation)

    async def write(self, connection: asyncpg.Connection, rows: Rows) -> None:
        for name, some in rows.items():
            if not some:
                continue
            width = len(self._columns[name])
            # A row of a table without a column for its last event has it behind the others.
            records = some if len(some[0]) == width else (row[:width] for row in some)
            await connection.copy_records_to_table(
                partition(name, self._generation), records=records, columns=self._columns[name]
            )

    async def index(self, *connections: asyncpg.Connection) -> None:
        every = (
            self._index(connection, self._names[number :: len(connections)])
            for number, connection in enumerate(connections)
        )
        await asyncio.gather(*every)

    async def _index(self, connection: asyncpg.Connection, names: Sequence[str]) -> None:
        await connection.execute(INDEX_MEMORY)
        await connection.execute(ONE_PROCESSOR)
        for name in names:
            table = partition(name, self._generation)
            done = await connection.fetchval(COUNT_INDEXES, table)
            for text in (await read_index_texts(connection, name))[done:]:
                try:
                    await connection.execute(text.format(name=table))
                except asyncpg.UniqueViolationError:
                    last = self._projection.last_event[name]
                    if last is None:  # then no log gives two rows with the same key
                        raise
                    parent = next(one for one in self._projection.tables if one.name == name)
                    await connection.execute(delete_older(table, parent, last))
                    await connection.execute(text.format(name=table))

    async def finish(
        self, connection: asyncpg.Connection, positions: Positions, times_ms: Positions
    ) -> None:
        await attach_partitions(connection, self._names, self._generation)
        place = (self._projection.name, self._generation)
        for shard, position in sorted(positions.items()):
            row = (*place, shard, position, times_ms.get(shard, 0))
            await connection.execute(PUT_CHECKPOINT, *row)


class Keys:
    """The keys of a generation in Redis, which are written together at the end."""

    def __init__(self, redis: Redis, projection: RedisProjection, generation: int) -> None:
        self._redis = redis
        self._projection = projection
        self._generation = generation
        self._rows: Rows = {}

    async def prepare(self, connection: asyncpg.Connection) -> None:  # noqa: ARG002
        await delete_keys(self._redis, self._projection.name, self._generation)

    async def write(self, connection: asyncpg.Connection, rows: Rows) -> None:  # noqa: ARG002
        for name, some in rows.items():
            self._rows.setdefault(name, []).extend(some)

    async def index(self, *connections: asyncpg.Connection) -> None:
        """Do nothing: keys need no index."""

    async def finish(
        self, connection: asyncpg.Connection, positions: Positions, times_ms: Positions
    ) -> None:
        await delete_keys(self._redis, self._projection.name, self._generation)  # of a dead try
        kept = self._projection.rows
        if kept is None:  # followers begin with the newest events by themselves
            return
        place = (self._redis, self._projection.name, self._generation)
        for shard, position in sorted(positions.items()):
            mine = [row for rows in self._rows.values() for row in rows if row[0] == shard]
            await begin_filling(*place, shard)
            await kept.fill(self._redis, self._generation, shard, mine)
            log = str(await read_log_id(connection))
            await end_filling(*place, shard, log, position, times_ms.get(shard, 0))


def store_of(projection: Projection, redis: Redis, generation: int) -> Tables | Keys:
    """Return where the rows of a generation go."""
    if isinstance(projection, PostgresProjection):
        return Tables(projection, generation)
    return Keys(redis, projection, generation)


def delete_older(name: str, parent: Table, last_event: str) -> str:
    """Return what keeps the newer of two rows with the same key: an order may have begun twice.

    Args:
        name: The table, which has the parent's key.
        parent: The table of the model.
        last_event: The column that tells which row is newer.
    """
    keys = [column.name for column in parent.primary_key if column.name != "generation"]
    older, newest = (", ".join(f"{side}.{key}" for key in keys) for side in ("older", "newest"))
    return (
        f"delete from {name} as older using ("
        f"select {', '.join(keys)}, max({last_event}) as last from {name}"
        f" group by {', '.join(keys)} having count(*) > 1) as newest"
        f" where ({older}) = ({newest}) and older.{last_event} < newest.last"
    )
