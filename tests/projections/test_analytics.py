"""The views for analysts: what they add up to, which generation they show, and who reads them."""

import asyncio
import random
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

import exchange.analysis
from exchange.cli import app
from exchange.config import PROJECT
from exchange.domain.commands import CloseSettlementCycle
from exchange.export.columns import EVENTS, TRADES
from exchange.tools.terminal import ToolError
from projections.lifecycle.switching import rollback
from projections.registry import IN_POSTGRES, all_projections
from projections.stores.partitions import drop_partition
from tests.conftest import Services, drop_database, new_database
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR, begin_generation, go_live, projection_of
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

PASSWORD = "secret"

PAGE = (PROJECT / "docs/analytics.md").read_text().partition("\n## Events in Kafka")[0]
EXAMPLES = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

READ_COMMENTS = """
select relname as view, attname as name, col_description(pg_class.oid, attnum) as told,
    obj_description(pg_class.oid) as of_view
from pg_class join pg_attribute on attrelid = pg_class.oid
where relnamespace = 'analytics'::regnamespace and attnum > 0
order by relname, attnum
"""

# Each pair is the same number: of the views' decimals, and of the log's integers.
TOTALS = (
    (
        "select instrument, count(*), sum(price), sum(quantity), sum(notional) from {trades}",
        """
        select instrument, count(*),
            sum((data->>'price')::numeric * {price}),
            sum((data->>'quantity')::numeric * {quantity}),
            sum((data->>'price')::numeric * (data->>'quantity')::numeric * {price} * {quantity})
        from public.events join public.instruments using (instrument)
        where events.type = 'TradeExecuted'
        """,
    ),
    (
        (
            "select instrument, sum(trade_count), sum(price_sum), sum(quantity), sum(volume)"
            " from {minutes}"
        ),
        (
            "select instrument, count(*), sum(price), sum(quantity), sum(notional)"
            " from analytics.trades"
        ),
    ),
    (
        (
            "select instrument, count(*), sum(price), sum(quantity), sum(filled_quantity)"
            " from {orders}"
        ),
        """
        select instrument, count(*), sum(price * {price}), sum(quantity * {quantity}),
            sum(filled_quantity * {quantity})
        from public.orders left join public.instruments using (instrument)
        """,
    ),
    (
        (
            "select instrument, sum(total_cost), sum(realised_pnl), sum(abs(net_quantity))"
            " from {positions}"
        ),
        """
        select instrument, sum(total_cost * {price} * {quantity}),
            sum(realised_pnl * {price} * {quantity}), sum(abs(net_quantity) * {quantity})
        from public.positions join public.instruments using (instrument)
        """,
    ),
    (
        "select instrument, sum(abs(net_quantity)), sum(abs(net_amount)) from {settlement}",
        """
        select instrument, sum(abs(net_quantity) * {quantity}),
            sum(abs(net_amount) * {price} * {quantity})
        from public.obligations join public.instruments using (instrument)
        """,
    ),
    (
        (
            "select instrument, count(*), sum(price), sum(quantity), sum(taker_remaining)"
            " from {events}"
        ),
        """
        select events.instrument, count(*), sum((data->>'price')::numeric * {price}),
            sum((data->>'quantity')::numeric * {quantity}),
            sum((data->>'taker_remaining')::numeric * {quantity})
        from public.events left join public.instruments
            on instruments.instrument = events.instrument
            and data->>'reason' is distinct from 'unknown_instrument'
        """,
    ),
)


def analytics_role(name: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["analytics-role", name, *options])


async def run(name: str, *options: str) -> Result:
    """Run the command where no loop runs."""
    return await anyio.to_thread.run_sync(lambda: analytics_role(name, *options))


@asynccontextmanager
async def session_of(database_url: str, user: str) -> AsyncIterator[asyncpg.Connection]:
    session = await asyncpg.connect(database_url, user=user, password=PASSWORD, ssl=False)
    try:
        yield session
    finally:
        await session.close()


@pytest.fixture
async def role(
    database_url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """Yield the name of a role that the test may make; roles are common to all databases."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    name = f"analyst_{secrets.token_hex(4)}"
    yield name
    if await connection.fetchval("select to_regrole($1)", name) is not None:
        await connection.execute(f"grant {name} to exchange")
        await connection.execute(f"drop owned by {name}")
        await connection.execute(f"drop role {name}")


async def write_log(database_url: str, chance: random.Random) -> None:
    for shard in (0, 1):
        async with LogWriter.open(database_url, shard) as writer:
            await writer.append(registrations(shard))
            await writer.append_random(chance, 300)
            offset = writer.head.next_offset
            await writer.append_events(writer.execute(CloseSettlementCycle(1), offset))
            await writer.append_random(chance, 100)


async def test_views_add_up_to_the_log_follow_switches_and_are_all_that_their_role_reads(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    role: str,
) -> None:
    await write_log(database_url, random.Random(7))
    async with projector():
        await catch_up(engine, redis, connection)
    made = await run(role)
    assert made.exit_code == 0, made.output
    assert (await run(role)).exit_code == 0, "again, to bring it back to its bounds"
    await connection.execute(f"alter role {role} password '{PASSWORD}'")

    async with session_of(database_url, role) as analyst:
        await assert_totals(connection, analyst)
        await assert_examples_answer(analyst)
        await assert_nothing_else_is_allowed(analyst)
    url = re.sub(r"://[^@]+@", f"://{role}:{PASSWORD}@", database_url)
    events = await anyio.to_thread.run_sync(count_events, url)
    assert events == await connection.fetchval("select sum(position) from head")
    await assert_views_follow_a_switch(engine, redis, connection, database_url, role)


def count_events(database_url: str) -> int:
    """Count the events that a program of the role's finds."""
    with exchange.analysis.open(database_url) as log:
        return sum(batch.num_rows for batch in log.events().reader())


async def assert_totals(connection: asyncpg.Connection, analyst: asyncpg.Connection) -> None:
    for of_view, of_tables in TOTALS:
        shown = re.sub(r"\{(\w+)\}", r"analytics.\1", of_view)
        units = {kind: f"('1e-' || {kind}_scale)::numeric" for kind in ("price", "quantity")}
        summed = of_tables.format(**units)
        column = "events.instrument" if "events.instrument" in summed else "instrument"
        found = await analyst.fetch(f"{shown} group by instrument order by instrument")
        wanted = await connection.fetch(f"{summed} group by {column} order by {column}")
        assert found == wanted, shown
        assert len(found) >= 4, shown


async def assert_examples_answer(analyst: asyncpg.Connection) -> None:
    assert len(EXAMPLES) >= 8
    for example in EXAMPLES:
        assert await analyst.fetch(example), example


async def assert_nothing_else_is_allowed(analyst: asyncpg.Connection) -> None:
    bounds = [
        await analyst.fetchval(f"show {name}")
        for name in (
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "default_transaction_read_only",
        )
    ]
    assert bounds == ["1min", "30s", "on"]
    await analyst.execute("set default_transaction_read_only = off")
    for refused in (
        "select * from public.claims",
        "select * from public.events",
        "select * from public.trades_g1",
        "delete from analytics.instruments",
        "update analytics.instruments set state = 'none'",
        "create table public.mine (only_column integer)",
        "create view analytics.mine as select 1",
        "create temp table mine (only_column integer)",
        "select lo_create(0)",
        "select lo_creat(-1)",
        "select lo_from_bytea(0, 'x')",
        "select * from analytics.instruments for update",
        "do 'begin lock analytics.trades in share mode; end'",
        "alter role current_user superuser",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await analyst.execute(refused)
    await analyst.execute("set statement_timeout = 50")
    with pytest.raises(asyncpg.QueryCanceledError):
        await analyst.execute("select pg_sleep(60)")
    await analyst.execute("reset statement_timeout")


async def assert_views_follow_a_switch(
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    database_url: str,
    role: str,
) -> None:
    """A transaction that reads does not hold up a switch, only the end of a table."""
    definitions = all_projections(engine, redis)
    trades = projection_of(engine, redis, "trades")
    count = "select count(*) from trades"
    async with session_of(database_url, role) as analyst:
        before = await analyst.fetchval(count)
        number = await begin_generation(connection, trades)
        heads = await connection.fetch("select shard, position from head")
        await connection.executemany(
            "insert into checkpoints values ('trades', $1, $2, $3, 0)",
            [(number, row["shard"], row["position"]) for row in heads],
        )
        await analyst.execute("begin isolation level repeatable read")
        assert await analyst.fetchval(count) == before > 0

        await go_live(connection, definitions, "trades", number)

        assert await analyst.fetchval(count) == before, "its snapshot is from before"
        await analyst.execute("commit")
        assert await analyst.fetchval(count) == 0
        await rollback(connection, definitions, "trades", OPERATOR)
        assert await analyst.fetchval(count) == before

        await analyst.execute("begin")
        await analyst.fetchval(count)
        dropping = asyncio.create_task(drop_partition(connection, "trades", number))
        async with session_of(database_url, role) as other, asyncio.timeout(60):
            while not await other.fetchval(
                "select exists(select from pg_inherits where inhdetachpending)"
            ):
                await asyncio.sleep(0.01)
            assert await other.fetchval(count) == before, "others read meanwhile"
        assert not dropping.done()
        await analyst.execute("commit")
        await dropping


async def test_every_view_and_column_says_what_it_is(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch(READ_COMMENTS)
    columns = {
        view: [row["name"] for row in rows if row["view"] == view]
        for view in {row["view"] for row in rows}
    }

    assert [tuple(row) for row in rows if not (row["told"] and row["of_view"])] == []
    assert {view for view in columns if f"| `{view}` |" not in PAGE} == set()
    assert columns["events"] == EVENTS.names
    assert set(TRADES.names) <= set(columns["trades"])
    assert set(IN_POSTGRES) - {"vwap"} <= set(columns)


async def test_where_a_role_cannot_be_made_the_sql_is_printed(
    connection: asyncpg.Connection,
    database_url: str,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await connection.execute(f"create role {role} login password 'secret'")
    url = re.sub(r"://[^@]+@", f"://{role}:secret@", database_url)
    monkeypatch.setenv("DATABASE_URL", url)

    refused = await run(f"{role}_2")
    printed = await run(f"{role}_2", "--sql")

    assert isinstance(refused.exception, ToolError)
    assert "may not make roles" in str(refused.exception)
    assert "revoke execute on function lo_" not in printed.stdout, "nobody can, in this database"
    assert refused.stdout == printed.stdout
    assert f"create role {role}_2 login connection limit 8;" in printed.stdout.splitlines()


async def test_what_only_a_superuser_can_take_from_everybody_is_told(
    services: Services, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of PostgreSQL's own template has its default rights."""
    url = await anyio.to_thread.run_sync(new_database, services, "template0")
    monkeypatch.setenv("DATABASE_URL", url)
    owner = await asyncpg.connect(url, ssl=False)
    await owner.execute("create schema analytics")

    made = await run(role)
    again = await run(role, "--sql")

    await owner.close()
    await anyio.to_thread.run_sync(drop_database, services, url)
    told = "revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea)"
    assert made.exit_code == 0, made
    assert f"{told} from public;" in made.stdout.splitlines()
    assert f"{told} from public;" in again.stdout.splitlines()


async def test_a_role_that_could_do_more_is_refused(
    connection: asyncpg.Connection, role: str
) -> None:
    await connection.execute(f"create role {role} login createdb")
    powerful = await run(role)
    await connection.execute(f"alter role {role} nocreatedb")
    await connection.execute(f"grant select on claims to {role}")
    reaching = await run(role)

    assert "is createdb" in str(powerful.exception)
    assert "could also reach public.claims" in str(reaching.exception)
    granted = "select has_schema_privilege($1, 'analytics', 'usage')"
    assert not await connection.fetchval(granted, role)
    assert analytics_role("Ann; drop").exit_code == 2


async def test_the_exchanges_own_role_is_refused_before_any_sql(
    connection: asyncpg.Connection,
    database_url: str,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = await connection.fetchval("select current_user")
    by_superuser = [await run(own), await run(own, "--sql")]
    await connection.execute(f"create role {role} login password 'secret'")
    url = re.sub(r"://[^@]+@", f"://{role}:secret@", database_url)
    monkeypatch.setenv("DATABASE_URL", url)
    by_another = [await run(own), await run(own, "--sql"), await run(role)]

    for refused in by_superuser + by_another:
        assert refused.stdout == ""
        assert "choose a name that is not in use" in str(refused.exception)
    assert "owner of a database" in str(by_another[0].exception)
    assert "is the user of DATABASE_URL" in str(by_another[2].exception)
    untouched = "select rolconnlimit from pg_roles where rolname = $1"
    assert await connection.fetchval(untouched, own) == -1
