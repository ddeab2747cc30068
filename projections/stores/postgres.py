"""A projection in Postgres: a batch's changes and the checkpoint are one transaction.

Read ``PostgresProjection.apply``. The checkpoint moves first, by compare-and-set. Its row lock
makes a second projector of the same generation wait, which then finds the checkpoint moved and
applies nothing.

The engine's sessions do not wait for the disk (``synchronous_commit=off``). A crash of the server
loses a model's last batches together with their checkpoints, and they are applied again from the
log. This saves a flush for each batch and projection, which would delay the matcher's commits.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import asyncpg
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.log.events import DecidedEvent
from projections.folding import Fold
from projections.stores.batches import Batch
from projections.stores.fingerprints import fingerprint

MOVE_CHECKPOINT = """
update checkpoints set position = $5, time_ms = $6
where projection = $1 and generation = $2 and shard = $3 and position = $4
"""

CREATE_CHECKPOINT = """
insert into checkpoints (projection, generation, shard, position, time_ms)
values ($1, $2, $3, 0, 0)
on conflict do nothing
"""

READ_CHECKPOINT = "select position from checkpoints_of($1, $2) where shard = $3"

READ_CHECKPOINTS = "select shard, position from checkpoints_of($1, $2)"

HOLD_CHECKPOINTS = """
select shard, position from checkpoints where projection = $1 and generation = $2
order by shard
for update
"""

Project = Callable[[asyncpg.Connection, int, Sequence[DecidedEvent]], Awaitable[None]]
"""Changes a generation's tables by a batch of one shard's events, in the open transaction."""


@asynccontextmanager
async def driver_connection(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """Lend a pooled connection as the driver's own, for what SQLAlchemy Core cannot do.

    The pool does not see errors of the driver, so it may hold a connection that the server has
    closed. Such a connection is replaced here.
    """
    async with engine.connect() as connection:
        driver = await _driver(connection)
        if driver.is_closed():
            await connection.invalidate()
            driver = await _driver(connection)
        try:
            yield driver
        except BaseException:
            driver.terminate()  # its state is not known, so the pool must not lend it again
            await connection.invalidate()
            raise


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    return driver


@dataclass(frozen=True, slots=True)
class PostgresProjection:
    """A read model in Postgres; ``tables`` are partitioned by generation.

    ``version`` is that of its rules, which ``project`` and ``fold`` share. ``last_event`` has, for
    each table, the column with the position of the last event that changed a row. Of a table
    without such a column (None), the fold's rows have that position behind the columns.
    """

    engine: AsyncEngine
    name: str
    tables: tuple[Table, ...]
    project: Project
    version: int
    fold: type[Fold] | None
    last_event: Mapping[str, str | None]
    needs_command_ids: bool = False
    pace_ms_max: ClassVar[int | None] = None  # nobody waits for each event

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.version, self.tables)

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from: the stored one, or 0."""
        async with driver_connection(self.engine) as driver:
            part = (self.name, generation, shard)
            position: int | None = await driver.fetchval(READ_CHECKPOINT, *part)
            if position is not None:
                return position
            await driver.execute(CREATE_CHECKPOINT, *part)
            stored: int = await driver.fetchval(READ_CHECKPOINT, *part)
            return stored

    async def reached(self, generation: int, shards: Sequence[int]) -> dict[int, int]:
        """Return the stored positions by shard, without shards that have none."""
        async with driver_connection(self.engine) as driver:
            rows = await driver.fetch(READ_CHECKPOINTS, self.name, generation)
        return {row["shard"]: row["position"] for row in rows if row["shard"] in shards}

    async def apply(self, generation: int, batch: Batch) -> bool:
        """Apply a batch if the checkpoint is the position before it.

        Returns:
            Whether the checkpoint was there. If not, nothing changed.
        """
        move = (batch.shard, batch.after, batch.up_to, batch.time_ms)
        async with driver_connection(self.engine) as driver, driver.transaction():
            moved = await driver.execute(MOVE_CHECKPOINT, self.name, generation, *move)
            if moved != "UPDATE 1":
                return False
            if batch.events:
                await self.project(driver, generation, batch.events)
        return True

    async def hold(
        self, connection: asyncpg.Connection, generation: int, shards: Sequence[int]
    ) -> dict[int, int]:
        """Keep a generation at its positions, and return them, until the transaction ends."""
        rows = await connection.fetch(HOLD_CHECKPOINTS, self.name, generation)
        return {row["shard"]: row["position"] for row in rows if row["shard"] in shards}

    async def release(self, generation: int, shards: Sequence[int]) -> None:
        """Do nothing: the end of the transaction lets the generation go on."""


def columns(rows: Iterable[Sequence[object]]) -> list[tuple[object, ...]]:
    """Turn rows, at least one, into the columns that ``unnest`` takes."""
    return list(zip(*rows, strict=True))
