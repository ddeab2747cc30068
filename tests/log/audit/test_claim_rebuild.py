"""Claims that are rebuilt from a log alone equal those that its matcher took."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from exchange.domain.commands import RetriedRecord
from exchange.domain.values import Shard
from exchange.log.audit import claim_rebuild
from exchange.log.audit.claim_rebuild import ClaimRebuild, Comparison
from exchange.log.audit.verify import verify
from exchange.log.identity import body_hash
from exchange.tools.operators.claims import rebuild_claims
from tests.builders import account_commands
from tests.projections.logs import LogWriter, registrations, retried

pytestmark = pytest.mark.anyio

READ = "select name, shard, kafka_offset, body_hash from claims order by name"
# But for the registrations and keys that were refused, whose events do not tell what was asked.
READ_TOLD = """
select name, shard, kafka_offset, body_hash from claims where not exists (
    select from events where type in ('InstrumentRejected', 'KeyRejected')
        and (events.shard, events.kafka_offset) = (claims.shard, claims.kafka_offset)
) order by name
"""
READ_RIGHTS_AND_UPKEEP = """
select relowner::regrole::text as owner, reloptions as upkeep,
    (select array_agg(acl::text order by acl::text) from unnest(relacl) as acl) as of_table,
    (select array_agg(attname || ' ' || attacl::text order by attname)
        from pg_attribute where attrelid = pg_class.oid and attacl is not null) as of_columns
from pg_class where oid = 'claims'::regclass
"""
LEFT = "insert into claims select 'order:left', 0, next_offset + 5, 'x' from head where shard = 0"
BATCHES = 4


@pytest.fixture
async def connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncpg.Connection]:
    """Logs of two shards that want the same order ids; one claim is left to the next batch."""
    monkeypatch.setattr(claim_rebuild, "READ_EVENTS_MAX", 7)  # parts end within commands
    chance, taken = random.Random(3), set[str]()
    for shard in (0, 1):
        async with LogWriter.open(database_url, shard, taken=taken) as writer:
            await writer.append(registrations(shard))
            await writer.append(retried(shard))
            await writer.append(account_commands())
            for _ in range(BATCHES):
                await writer.append_random(chance, 30)
    connection = await asyncpg.connect(database_url)
    await connection.execute(LEFT)
    await connection.execute("alter table claims disable trigger refuse_changes")
    yield connection
    await connection.close()


async def test_a_retried_order_s_id_may_be_claimed_where_its_record_was_quarantined(
    database_url: str,
) -> None:
    stand_in, retry = retried(0, order_id="left")
    asked = retry.command if isinstance(retry, RetriedRecord) else retry
    async with LogWriter.open(database_url, taken={"left"}) as writer:
        await writer.append(registrations(0))
        await writer.append([stand_in, retry])
    connection = await asyncpg.connect(database_url)
    await connection.execute("insert into claims values ('order:left', 0, 2, $1)", body_hash(asked))
    rebuild = ClaimRebuild(connection)
    await rebuild.build()

    found = await rebuild.compare()
    verified = await verify(connection, Shard(0))
    await connection.close()

    assert (verified.problem, found.same) == (None, True)


async def test_claims_that_are_as_the_log_has_them_stay(connection: asyncpg.Connection) -> None:
    rebuild = ClaimRebuild(connection)
    await rebuild.build()

    found = await rebuild.compare()

    count = await connection.fetchval("select count(*) from claims")
    assert found == Comparison(count, 0, 0, 0, 0)
    assert found.same


async def test_lost_and_changed_claims_are_made_anew(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    before = await connection.fetch(READ_TOLD)
    await connection.execute(
        "delete from claims where kafka_offset % 3 = 0 and name <> 'order:left'"
    )
    await connection.execute("update claims set body_hash = 'x' where kafka_offset % 3 = 1")
    await connection.execute("insert into claims values ('order:nobody', 0, 1, 'x')")

    await asyncio.to_thread(rebuild_claims, yes=True)

    assert await connection.fetch(READ_TOLD) == before
    assert (await verify(connection, Shard(0))).problem is None
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("delete from claims")
    await asyncio.to_thread(rebuild_claims, yes=True)
    assert await connection.fetchval("select to_regclass('claims_rebuilt')") is None


async def test_what_an_older_log_does_not_tell_is_believed_or_unknown(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute(
        """update events set data = regexp_replace(data::text, ',"asked_by":[^,}]*', '')::json"""
    )
    before = await connection.fetch(READ)
    first = ClaimRebuild(connection)
    await first.build()
    assert (await first.compare()).same

    await connection.execute("delete from claims")
    await first.build()
    await first.swap()

    told = [row for row in before if row["name"] != "order:left"]
    after = await connection.fetch(READ)
    unknown = [row for row in after if row["body_hash"] == b""]
    assert [row[:3] for row in after] == [row[:3] for row in told]
    assert 0 < len(unknown) < len(after) / 2
    assert {tuple(row) for row in after} - {tuple(row) for row in before} == {
        tuple(row) for row in unknown
    }


async def test_the_swap_keeps_who_may_write_claims_and_their_upkeep(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        """
        grant select, insert on claims to public;
        grant update (body_hash) on claims to pg_monitor with grant option;
        alter table claims owner to pg_database_owner;
        revoke truncate on claims from pg_database_owner;
        alter default privileges grant delete on tables to pg_monitor;
        """
    )
    before = await connection.fetchrow(READ_RIGHTS_AND_UPKEEP)
    rebuild = ClaimRebuild(connection)
    await rebuild.build()

    await rebuild.swap()

    assert await connection.fetchrow(READ_RIGHTS_AND_UPKEEP) == before
    await connection.execute("set role pg_monitor")
    await connection.execute("insert into claims values ('order:new', 0, 1, '')")


async def test_what_comes_while_the_table_is_made_is_in_it(
    connection: asyncpg.Connection, database_url: str
) -> None:
    await connection.execute("delete from claims where name <> 'order:left'")
    rebuild = ClaimRebuild(connection)
    await rebuild.build()
    async with LogWriter.open(database_url, 2) as writer:
        await writer.append(registrations(2))

    await rebuild.swap()

    assert (await verify(connection, Shard(2))).problem is None
    assert (await verify(connection, Shard(0))).problem is None
