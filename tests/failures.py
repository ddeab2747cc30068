"""Planted failures of PostgreSQL: a trigger raises the error that the server would raise."""

import asyncpg

PLANT = """
create sequence failures_{table};
create function fail_{table}() returns trigger language plpgsql as $$
begin
    -- A sequence does not roll back, so it counts what failed too.
    if nextval('failures_{table}') <= {times} then
        raise exception 'planted' using errcode = '{code}';
    end if;
    return null;
end $$;
create trigger fail after insert or update on {table}
    for each statement execute function fail_{table}();
"""

UPROOT = """
drop trigger fail on {table};
drop function fail_{table}();
drop sequence failures_{table};
"""

COUNT = "select case when is_called then last_value else 0 end from failures_{table}"


async def plant_failures(database_url: str, table: str, code: str, times: int = 1_000) -> None:
    """Let the next ``times`` statements that write to a table fail with an SQLSTATE."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(PLANT.format(table=table, code=code, times=times))
    await connection.close()


async def count_failures(database_url: str, table: str) -> int:
    """Return how many statements have written to the table since, or tried to."""
    connection = await asyncpg.connect(database_url)
    met: int = await connection.fetchval(COUNT.format(table=table))
    await connection.close()
    return met


async def uproot_failures(database_url: str, table: str) -> None:
    """Take them out."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(UPROOT.format(table=table))
    await connection.close()
