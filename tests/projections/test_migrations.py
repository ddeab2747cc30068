"""The migrations make exactly the tables that the code describes, and keep what is in them."""

import asyncio

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from redis.asyncio import Redis
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

import projections.projector.projector  # noqa: F401  registers the tables of every projection
from exchange.log.schema import BATCHES_UPKEEP, CLAIMS_UPKEEP, EVENTS_UPKEEP, metadata
from exchange.stack.migrations import MIGRATIONS, migrate
from projections.lifecycle.changes import retry
from projections.lifecycle.generations import generations_of
from projections.lifecycle.retiring import droppable
from projections.registry import READ_MODELS, all_projections
from projections.stores.partitions import GROWING_UPKEEP, create_partitions
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds

pytestmark = pytest.mark.anyio

READ_PARTITIONED = """
select relname, pg_get_partkeydef(oid) from pg_class where relkind = 'p' order by relname
"""

READ_UPKEEP = """
select split_part(setting, '=', 1) as name, split_part(setting, '=', 2)::int as value
from pg_class, unnest(reloptions) as setting
where oid = $1::regclass
"""

# The file of a table changes if it is rewritten, and the row's transaction if the row is.
READ_FILE_AND_ROW = """
select pg_relation_filenode('claims') as file, xmin::text, name, body_hash from claims
"""

ADD_CLAIM = "insert into claims values ('order:old', 0, 7, '\\x01')"

OF_THEN = {*READ_MODELS} - {"accounts"}  # whose tables are as old as lifecycles

# A former one, the live one, and one that stopped before it was live.
ADD_OF_BEFORE = """
with added as (
    insert into generations (projection, generation, state, failure)
    values ($1, 1, 'retired', null), ($1, 2, 'live', null), ($1, 3, 'failed', 'an event')
)
insert into live (projection, generation) values ($1, 2)
"""


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_server_default": True})
    return [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)]


async def test_the_database_has_the_tables_of_the_code(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize(
    ("table", "upkeep"),
    [("events", EVENTS_UPKEEP), ("claims", CLAIMS_UPKEEP), ("batches", BATCHES_UPKEEP)],
)
async def test_upkeep_of_what_only_grows_waits_for_no_share_of_it(
    connection: asyncpg.Connection, table: str, upkeep: dict[str, int]
) -> None:
    assert dict(await connection.fetch(READ_UPKEEP, table)) == upkeep


async def test_upkeep_is_set_without_touching_old_rows(
    database_url: str, connection: asyncpg.Connection
) -> None:
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    await asyncio.to_thread(command.downgrade, configuration(url), "0015")
    assert await connection.fetch(READ_UPKEEP, "claims") == []
    await connection.execute(ADD_CLAIM)
    before = await connection.fetch(READ_FILE_AND_ROW)

    await migrate(url)

    assert await connection.fetch(READ_FILE_AND_ROW) == before
    assert dict(await connection.fetch(READ_UPKEEP, "claims")) == CLAIMS_UPKEEP


async def test_generations_that_only_grow_are_kept_up_as_the_log(
    database_url: str, connection: asyncpg.Connection
) -> None:
    tables = ["order_events", "orders", "trades"]
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    await asyncio.to_thread(command.downgrade, configuration(url), "0016")
    for table in tables:  # as an older build made them
        await connection.execute(f"create table {table}_g8 partition of {table} for values in (8)")

    await migrate(url)
    await create_partitions(connection, tables, 9)

    for generation in (8, 9):
        made = [f"{table}_g{generation}" for table in tables]
        found = [dict(await connection.fetch(READ_UPKEEP, name)) for name in made]
        assert found == [GROWING_UPKEEP, {}, GROWING_UPKEEP]


async def test_read_models_are_partitioned_by_generation(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        rows = (await connection.execute(text(READ_PARTITIONED))).all()

    names = ["accounts", "instruments", "keys", "minutes", "obligations", "order_events", "orders"]
    names += ["positions", "settlement_cycles", "trades"]
    assert [tuple(row) for row in rows] == [(name, "LIST (generation)") for name in names]


async def test_generations_of_before_lifecycles_are_kept_up_and_dropped_as_all_others(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("projections.lifecycle.retiring.GRACE_S", 0)
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    await asyncio.to_thread(command.downgrade, configuration(url), "0010")
    for projection in all_projections(engine, redis):
        if projection.name in OF_THEN:
            await create_partitions(connection, [table.name for table in projection.tables], 2)
    await connection.executemany(ADD_OF_BEFORE, [(name,) for name in OF_THEN])

    await migrate(url)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        assert await retry(connection, "orders", 3, OPERATOR) == 3
        failed_before = (await generations_of(connection, "orders"))[-1]

    await assert_models_equal_folds(connection, redis)
    assert failed_before.state == "catching-up"
    assert {name for name, *_ in await droppable(connection)} == OF_THEN


def configuration(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["sqlalchemy_url"] = url
    return config
