"""A fold's rows in temporary tables of a session, one for each table of the model."""

from collections.abc import Sequence
from typing import Final

import asyncpg
from sqlalchemy import Table

from projections.builder.rows import delete_older
from projections.folding import Fold, Rows
from projections.stores.postgres import PostgresProjection

SORT_MEMORY: Final = "set work_mem = '64MB'"


class ShadowTables:
    """Takes the rows of a fold; the tables end with the session, or by ``drop``."""

    def __init__(
        self, session: asyncpg.Connection, projection: PostgresProjection, tables: Sequence[Table]
    ) -> None:
        self._session = session
        self._projection = projection
        self._tables = tables

    async def make(self) -> None:
        """Make the tables, without rows."""
        await self._session.execute(SORT_MEMORY)
        for table in self._tables:
            await self._session.execute(
                f"create temp table {shadow_of(table)} (like {table.name}, last_event bigint)"
            )
            await self._session.execute(f"alter table {shadow_of(table)} drop column generation")

    async def write(self, rows: Rows) -> None:
        """Add rows; of two with the same key, ``finish`` keeps the newer one."""
        for table in self._tables:
            some = rows.get(table.name)
            if not some:
                continue
            columns = columns_of(table)[1:]
            last = self._projection.last_event[table.name]
            if last is not None:
                at = columns.index(last)
                some = [(*row, row[at]) for row in some]
            await self._session.copy_records_to_table(
                shadow_of(table), records=some, columns=[*columns, "last_event"]
            )

    async def finish(self, fold: Fold) -> None:
        """Add all rows that the fold still has."""
        await self.write(fold.finished())
        await self.write(fold.rows())
        for table in self._tables:
            await self._session.execute(delete_older(shadow_of(table), table, "last_event"))

    async def digest(self) -> tuple[int, str]:
        """Return how many rows there are, and their digest, as a comparison has it."""
        rows, total = 0, 0
        for table in self._tables:
            names = columns_of(table)[1:]
            count, hashes = await read_digest(self._session, names, shadow_of(table))
            rows, total = rows + count, total + hashes
        return rows, digest_of(total)

    async def drop(self) -> None:
        """Remove the tables, so that the session can have others."""
        for table in self._tables:
            await self._session.execute(f"drop table {shadow_of(table)}")


async def read_digest(
    session: asyncpg.Connection, columns: Sequence[str], table: str, generation: int | None = None
) -> tuple[int, int]:
    """Return how many rows a table has, and a sum of their hashes for ``digest_of``."""
    where, values = ("", ()) if generation is None else ("where generation = $1", (generation,))
    count, hashes = await session.fetchrow(
        f"select count(*), coalesce(sum(hashtextextended(row({', '.join(columns)})::text, 0)"
        f"::numeric), 0) from {table} {where}",
        *values,
    )
    return count, int(hashes)


def digest_of(total: int) -> str:
    """Return the digest of rows whose hashes have this sum, in whatever order they are."""
    return f"{total % 2**64:016x}"


def columns_of(table: Table) -> list[str]:
    """Return the names of columns as plain text: SQLAlchemy's own cannot be written as JSON."""
    return [str(column.name) for column in table.columns]


def key_columns(table: Table) -> list[str]:
    """Return the names of the columns that are a row's key within a generation."""
    return [str(column.name) for column in table.primary_key if column.name != "generation"]


def shadow_of(table: Table) -> str:
    """Return the name of the temporary table beside a table."""
    return f"shadow_of_{table.name}"
