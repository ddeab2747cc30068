"""The tables of a generation: made, filled without indexes, attached to their parents, and dropped.

A generation's table is a partition of its parent (``orders_g2`` of ``orders``). One that a builder
fills is attached only when its rows and indexes are complete. Attaching and detaching do not lock
out those who read or write other generations.
"""

from collections.abc import Sequence
from typing import Final

import asyncpg

from exchange.log.schema import settings_of, upkeep

# Their rows never change, so they are kept up as the log is; PostgreSQL allows such settings on
# partitions only.
ONLY_GROWING: Final = frozenset({"order_events", "trades"})
GROWING_UPKEEP: Final = upkeep(1_000_000)

# DDL takes no parameters, so the names, which come from the code, are put into the text.
READ_INDEXES: Final = """
select pg_get_indexdef(i.indexrelid) as text, i.indisprimary as is_primary,
    pg_get_constraintdef(c.oid) as key
from pg_index i
left join pg_constraint c on c.conindid = i.indexrelid and c.contype = 'p'
where i.indrelid = $1::regclass
order by i.indisprimary desc, i.indexrelid
"""

# Detaching waits, without a lock, for all who read the parent when it began: for a backup, as long
# as it takes. It is tried again. An analyst's transaction takes two minutes at most; a shorter wait
# would never end well where one follows another.
DETACH_S: Final = 150.0

READ_ATTACHED: Final = """
select inhdetachpending from pg_inherits where inhrelid = to_regclass($1)
"""


def partition(table: str, generation: int) -> str:
    """Return the name of a generation's table."""
    return f"{table}_g{generation}"


async def create_partitions(
    connection: asyncpg.Connection, tables: Sequence[str], generation: int
) -> None:
    """Make and attach a generation's tables, with their indexes, in the open transaction."""
    for table in tables:
        name = partition(table, generation)
        await connection.execute(f"create table {name} (like {table} including all)")
        await _attach(connection, table, generation)


async def create_unattached(
    connection: asyncpg.Connection, tables: Sequence[str], generation: int
) -> None:
    """Make a generation's tables without indexes; those that an earlier try left are dropped."""
    for table in tables:
        name = partition(table, generation)
        await connection.execute(f"drop table if exists {name}")
        # With the constraint, attaching does not read the rows.
        await connection.execute(
            f"create table {name} (like {table} including defaults including constraints,"
            f" constraint {name}_only check (generation = {generation}))"
        )
        # So the rows that are copied need not name their generation.
        await connection.execute(
            f"alter table {name} alter column generation set default {generation}"
        )


async def read_index_texts(connection: asyncpg.Connection, table: str) -> list[str]:
    """Return what makes a parent's key and indexes on a partition, ``{name}`` for its name."""
    texts = []
    for number, row in enumerate(await connection.fetch(READ_INDEXES, table)):
        if row["is_primary"]:
            texts.append(f"alter table {{name}} add {row['key']}")
        else:
            unique = "unique " if row["text"].startswith("CREATE UNIQUE") else ""
            _, _, columns = row["text"].partition(" USING ")
            texts.append(f"create {unique}index {{name}}_{number} on {{name}} using {columns}")
    return texts


async def attach_partitions(
    connection: asyncpg.Connection, tables: Sequence[str], generation: int
) -> None:
    """Attach a generation's complete tables to their parents, in the open transaction."""
    for table in tables:
        await _attach(connection, table, generation)
        name = partition(table, generation)
        await connection.execute(
            f"alter table {name} drop constraint {name}_only, alter column generation drop default"
        )


async def drop_partition(connection: asyncpg.Connection, table: str, generation: int) -> None:
    """Detach and drop a generation's table, outside of a transaction; one that is gone is well.

    Raises:
        TimeoutError: Somebody has read the parent for too long; the next try goes on.
    """
    name = partition(table, generation)
    pending = await connection.fetchval(READ_ATTACHED, name)
    if pending is not None:
        how = "finalize" if pending else "concurrently"  # the first try was killed
        detach = f"alter table {table} detach partition {name} {how}"
        await connection.execute(detach, timeout=DETACH_S)
    await connection.execute(f"drop table if exists {name}", timeout=DETACH_S)


async def _attach(connection: asyncpg.Connection, table: str, generation: int) -> None:
    name = partition(table, generation)
    if table in ONLY_GROWING:
        await connection.execute(f"alter table {name} set ({settings_of(GROWING_UPKEEP)})")
    await connection.execute(
        f"alter table {table} attach partition {name} for values in ({generation})"
    )
