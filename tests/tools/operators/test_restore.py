"""A backup that was taken under load is put back, and the log goes on to the same events."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import typer
from msgspec import structs
from redis.asyncio import Redis

from exchange import cli
from exchange.config import PROJECT, Settings
from exchange.domain.values import Shard
from exchange.log.audit.verify import verify
from exchange.ports import StaleWriter
from exchange.processes.projector import run_projections
from exchange.tools.operators.backups import restoration as restoration_module
from exchange.tools.operators.backups.backup import backup
from exchange.tools.operators.backups.manifests import Backup, backups_in, encoded
from exchange.tools.operators.backups.programs import ProgramFailed
from exchange.tools.operators.backups.restoration import read_present
from exchange.tools.operators.backups.restore import restore
from exchange.tools.terminal import ToolError
from tests.checks import check_history, check_log
from tests.conftest import free_ports
from tests.faults.test_kills import until_models_equal_folds
from tests.load import Load
from tests.projections.logs import LogWriter, registrations
from tests.running import INSTRUMENTS, running
from tests.tools.operators.test_adoption import matching
from tests.tools.operators.test_backup import write_log

pytestmark = pytest.mark.anyio

TIMEOUT_S = 60
LET_GO_S = 30  # half of what the last statement sleeps
COMMANDS = 60
READ_LOG = """
select shard, position, instrument, type, version, data::text, command_id, kafka_offset
from events order by shard, position
"""
READ_HEADS = """
select shard, position, topic_id, next_offset, chain, state_digest from head order by shard
"""
IS_RESTORING = """
select exists (
    select from pg_stat_activity
    where datname = current_database() and application_name like 'exchange restore %'
)
"""
FIND_SLEEPER = """
select pid from pg_stat_activity
where datname = current_database() and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()
"""
# What must come back byte for byte.
KEPT = ("claims", "log", "topic_lives", "batches", "alembic_version", "generations", "live")


async def read_all(connection: asyncpg.Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(query)]


async def read_kept(connection: asyncpg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: sorted(await read_all(connection, f"select {table}::text from {table}"))
        for table in KEPT
    }


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def take(settings: Settings, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Backup:
    monkeypatch.setattr(Settings, "load", lambda: settings)
    await asyncio.to_thread(backup, to=directory, as_json=False)
    return backups_in(directory)[0]


async def put_back(settings: Settings, file: Path, *, replace: bool = False) -> None:
    await restore(settings, file, replace=replace, yes=True, as_json=False)


async def test_a_backup_under_load_is_put_back_and_the_rest_is_decided_to_the_same_events(
    settings: Settings,
    make_topic: Callable[..., str],
    make_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two = replace(settings, shards=2, kafka_topic=make_topic(2), port=free_ports(1)[0])
    other = replace(two, database_url=make_database())
    async with running(two, tmp_path / "run") as exchange:
        names = [str(i["instrument"]) for i in INSTRUMENTS]
        async with Load(exchange.urls, names) as load:
            await load.until_resolved(COMMANDS)
            before = load.history.resolved
            taken = await take(two, tmp_path / "backups", monkeypatch)
            during = load.history.resolved - before
            await load.until_resolved(COMMANDS)

    await put_back(other, taken.dump)

    assert during > 0, "nothing was decided while the backup was taken"
    told = capsys.readouterr()
    async with connected(two.database_url) as old, connected(other.database_url) as new:
        log, heads = await read_all(old, READ_LOG), await read_all(old, READ_HEADS)
        restored = await read_all(new, READ_LOG)
        positions = {one.shard: one.position for one in taken.manifest.shards}
        assert restored == [row for row in log if row[1] <= positions[row[0]]]
        assert 0 < len(restored) < len(log)
        to_decide = sum(
            head[3] - one.next_offset
            for head, one in zip(heads, taken.manifest.shards, strict=True)
        )
        assert f"decide {to_decide:,} records of Kafka again" in told.out

        await decide_up_to(other, new, {head[0]: head[3] for head in heads})

        assert await read_all(new, READ_LOG) == log
        assert await read_all(new, READ_HEADS) == heads
        for shard in (0, 1):
            assert (await verify(new, Shard(shard))).problem is None
        check_history(load.history, await check_log(new))


async def decide_up_to(
    settings: Settings, connection: asyncpg.Connection, wanted: dict[int, int]
) -> None:
    """Run matchers and the projector until the log is there and the read models equal it."""
    projecting = asyncio.create_task(run_projections(settings))
    # The models in Redis are beyond the restored head, and must come back to it first.
    async with Redis.from_url(settings.redis_url) as redis:
        await until_models_equal_folds(connection, redis)
    async with matching(settings, settings.shards), asyncio.timeout(TIMEOUT_S):
        while {row[0]: row[3] for row in await connection.fetch(READ_HEADS)} != wanted:
            await asyncio.sleep(0.05)
    async with Redis.from_url(settings.redis_url) as redis:
        await until_models_equal_folds(connection, redis)
    projecting.cancel()
    await asyncio.wait({projecting})


# Small logs, of a topic that is not there: what is put back, and what is refused.


@pytest.fixture
async def taken(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backup:
    """A backup of a log of two shards, which has grown since."""
    chance = random.Random(1)
    url = settings.database_url
    async with LogWriter.open(url) as first, LogWriter.open(url, 1) as second:
        for writer in (first, second):
            await writer.append_random(chance, 50)
        backup = await take(settings, tmp_path, monkeypatch)
        for writer in (first, second):
            await writer.append_random(chance, 50)
    return backup


@pytest.fixture
def empty(settings: Settings, make_database: Callable[[], str]) -> Settings:
    return replace(settings, database_url=make_database())


async def put_back_alone(settings: Settings, file: Path, *, replace: bool = False) -> None:
    """Restore; matchers cannot go on, since the topic is another one."""
    with pytest.raises(typer.Exit):
        await put_back(settings, file, replace=replace)


async def test_all_tables_come_back_byte_for_byte(
    settings: Settings,
    empty: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await write_log(settings.database_url)
    async with LogWriter.open(settings.database_url) as writer:
        await writer.begin_life(settings.database_url, known=3)
    backup = await take(settings, tmp_path, monkeypatch)

    await put_back_alone(empty, backup.dump.with_suffix(".json"))

    assert "the topic is another one than that of the backup" in capsys.readouterr().out
    async with connected(settings.database_url) as old, connected(empty.database_url) as new:
        assert await read_all(new, READ_LOG) == await read_all(old, READ_LOG)
        assert await read_all(new, READ_HEADS) == await read_all(old, READ_HEADS)
        assert await read_kept(new) == await read_kept(old)
        for table in ("events", "batches", "claims", "log", "topic_lives"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await new.execute(f"delete from {table}")


async def test_a_script_is_told_where_the_backup_ends_and_what_kafka_has(
    empty: Settings,
    taken: Backup,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Settings, "load", lambda: empty)
    capsys.readouterr()

    with pytest.raises(typer.Exit):
        await asyncio.to_thread(cli.restore, taken.dump, replace=False, yes=False, as_json=True)

    written = capsys.readouterr()
    told = msgspec.json.decode(written.out)
    assert told["manifest"]["sha256"] == taken.manifest.sha256
    assert [one["next_record"] for one in told["following"]] == [50, 50]
    assert "the topic is another one" in told["problems"][0]
    assert written.err == ""


async def test_a_log_that_went_on_is_replaced_if_that_is_typed(
    settings: Settings, taken: Backup
) -> None:
    async with connected(settings.database_url) as connection:
        await connection.execute("update head set epoch = epoch + 3")
        await connection.execute("create table orders_g9 (name text)")
        log, before = await read_all(connection, READ_LOG), await read_epochs(connection)

        with pytest.raises(ToolError, match=r"has events.*--replace"):
            await put_back(settings, taken.dump)
        assert await read_all(connection, READ_LOG) == log
        await put_back_alone(settings, taken.dump, replace=True)

        positions = {one.shard: one.position for one in taken.manifest.shards}
        restored = await read_all(connection, READ_LOG)
        assert restored == [row for row in log if row[1] <= positions[row[0]]]
        assert await connection.fetchval("select to_regclass('orders_g9')") is None
        after = await read_epochs(connection)
    assert all(after[shard] > epoch + 1_000 for shard, epoch in before.items())


async def read_epochs(connection: asyncpg.Connection) -> dict[int, int]:
    return dict(await read_all(connection, "select shard, epoch from head"))


async def test_a_writer_of_the_log_as_it_was_appends_nothing_any_more(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LogWriter.open(settings.database_url) as writer:
        await writer.append(registrations(0))
        backup = await take(settings, tmp_path, monkeypatch)
        with pytest.raises(ToolError, match=r"exchange matcher shard 0 \(session [0-9]+, from"):
            await put_back(settings, backup.dump, replace=True)
        present = await read_present(settings.database_url)
        replaced = (settings.database_url, backup, present, told_nothing)
        with pytest.raises(ProgramFailed, match="a matcher has shard 0: stop it first"):
            await restoration_module.restore(*replaced)
        # As if it was cut off, and stands where the backup was taken.
        monkeypatch.setattr(restoration_module, "BEGIN", "begin;")
        await restoration_module.restore(*replaced)

        with pytest.raises(StaleWriter):
            await writer.append(registrations(0))


def told_nothing(_what: str, _done: int, _all_of_them: int) -> None:
    """Show nothing."""


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("dump", r"is damaged: its bytes are not those"),
        ("another", r"is damaged: it has [0-9,]+ bytes, and"),
        ("head", r"the heads of the dump are not those that the manifest tells"),
        ("log", r"has the log .*, and the backup is of another: is it the right one"),
    ],
)
async def test_a_backup_that_does_not_fit_changes_nothing(
    settings: Settings, taken: Backup, harm: str, why: str
) -> None:
    manifest = taken.manifest
    match harm:
        case "dump":
            whole = bytearray(taken.dump.read_bytes())
            whole[-100] ^= 1
            taken.dump.write_bytes(whole)
        case "another":
            manifest = structs.replace(manifest, file_bytes=manifest.file_bytes + 1)
        case "head":
            first = structs.replace(manifest.shards[0], chain="00" * 32)
            manifest = structs.replace(manifest, shards=[first, *manifest.shards[1:]])
        case _:
            manifest = structs.replace(manifest, log_id="another")
    taken.dump.with_suffix(".json").write_bytes(encoded(manifest))
    async with connected(settings.database_url) as connection:
        log, kept = await read_all(connection, READ_LOG), await read_kept(connection)

        with pytest.raises(ToolError, match=f"Nothing was changed: .*{why}"):
            await put_back(settings, taken.dump, replace=True)

        assert await read_all(connection, READ_LOG) == log
        assert await read_kept(connection) == kept


async def test_a_restore_that_is_killed_changes_nothing(
    settings: Settings, taken: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(settings.database_url) as connection:
        kept = await read_kept(connection)
        monkeypatch.setattr(restoration_module, "END", "\n select pg_sleep(60);")
        restoring = asyncio.create_task(put_back(settings, taken.dump, replace=True))
        await until_at_the_end(connection)

        restoring.cancel()
        await asyncio.wait({restoring})

        async with asyncio.timeout(LET_GO_S):
            assert await read_kept(connection) == kept


async def test_a_restore_whose_process_is_killed_changes_nothing(
    settings: Settings, taken: Backup
) -> None:
    command = ("-m", "exchange", "restore", str(taken.dump), "--replace", "--yes")
    url = settings.database_url
    async with connected(url) as connection, connected(url) as holder:
        kept = await read_kept(connection)
        async with holder.transaction():
            await holder.execute("select from events")  # keeps the restore from dropping it
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, env=settings.environment(), cwd=PROJECT
            )
            await until(connection, IS_RESTORING, expected=True)
            process.kill()
            await process.wait()
        await until(connection, IS_RESTORING, expected=False)

        assert await read_kept(connection) == kept


async def until(connection: asyncpg.Connection, query: str, *, expected: bool) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await connection.fetchval(query) is not expected:
            await asyncio.sleep(0.05)


async def test_a_restore_whose_connection_breaks_does_not_say_that_nothing_was_changed(
    settings: Settings, taken: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(settings.database_url) as connection:
        kept = await read_kept(connection)
        monkeypatch.setattr(restoration_module, "END", "\n select pg_sleep(60);")
        restoring = asyncio.create_task(put_back(settings, taken.dump, replace=True))
        await until_at_the_end(connection)

        await connection.execute("select pg_terminate_backend($1)", await sleeper(connection))
        with pytest.raises(ToolError, match="It is done whole or not at all, ask again: psql"):
            await restoring

        assert await read_kept(connection) == kept


async def until_at_the_end(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await sleeper(connection) is None:
            await asyncio.sleep(0.05)


async def sleeper(connection: asyncpg.Connection) -> int | None:
    pid: int | None = await connection.fetchval(FIND_SLEEPER)
    return pid


async def test_a_database_of_somebody_else_is_left_alone(empty: Settings, taken: Backup) -> None:
    async with connected(empty.database_url) as connection:
        await connection.execute("drop table events cascade; drop table head cascade")

        with pytest.raises(ToolError, match="tables and no log of an exchange"):
            await put_back(empty, taken.dump, replace=True)


async def test_a_database_without_any_table_is_filled(
    empty: Settings, taken: Backup, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connected(empty.database_url) as connection:
        await connection.execute("drop schema public cascade; create schema public")

        await put_back_alone(empty, taken.dump)

        log = await read_all(connection, READ_LOG)
    assert len(log) == sum(one.position for one in taken.manifest.shards)
    head = taken.manifest.shards[0]
    assert f"exchange verify --expect 0:{head.position}:{head.chain}" in capsys.readouterr().out
