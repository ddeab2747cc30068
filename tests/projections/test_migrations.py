"""The migrations make exactly the tables that the code describes."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

import projections.projector.projector  # noqa: F401  registers the tables of every projection
from exchange.log.schema import metadata

pytestmark = pytest.mark.anyio

READ_PARTITIONED = """
select relname, pg_get_partkeydef(oid) from pg_class where relkind = 'p' order by relname
"""


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_server_default": True})
    return [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)]


async def test_the_database_has_the_tables_of_the_code(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_read_models_are_partitioned_by_generation(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        rows = (await connection.execute(text(READ_PARTITIONED))).all()

    names = ["instruments", "minutes", "obligations", "order_events", "orders", "positions"]
    names += ["settlement_cycles", "trades"]
    assert [tuple(row) for row in rows] == [(name, "LIST (generation)") for name in names]
