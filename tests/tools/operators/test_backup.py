"""A backup is one snapshot of the database, and its manifest tells what is in it."""

import asyncio
import fcntl
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from exchange.config import Settings
from exchange.tools.operators.backups import dumping as dumping_module
from exchange.tools.operators.backups import programs as programs_module
from exchange.tools.operators.backups.backup import backup
from exchange.tools.operators.backups.manifests import (
    Backup,
    BackupDamaged,
    backups_in,
    check_bytes,
    find_backup,
)
from exchange.tools.operators.backups.programs import Programs, programs_for, running
from exchange.tools.terminal import ToolError
from tests.projections.logs import LogWriter

pytestmark = pytest.mark.anyio

READ_HEADS = """
select shard, epoch, position, topic_id, next_offset, encode(chain, 'hex') as chain,
    encode(state_digest, 'hex') as state_digest
from head order by shard
"""


@pytest.fixture
def chosen(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(Settings, "load", lambda: settings)
    return settings


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


async def write_log(database_url: str, commands: int = 50) -> None:
    """Append a random log to each of two shards."""
    for shard in (0, 1):
        async with LogWriter.open(database_url, shard) as writer:
            await writer.append_random(random.Random(shard), commands)


async def take(directory: Path) -> Backup:
    await asyncio.to_thread(backup, to=directory, as_json=False)
    return backups_in(directory)[0]


async def test_the_manifest_tells_the_heads_that_the_dump_holds(
    chosen: Settings, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await write_log(chosen.database_url)

    taken = await take(tmp_path / "new" / "backups")

    heads = [dict(row) for row in await connection.fetch(READ_HEADS)]
    told = [{name: getattr(one, name) for name in heads[0]} for one in taken.manifest.shards]
    assert told == heads
    assert taken.manifest.log_id == await connection.fetchval("select id from log")
    check_bytes(taken, lambda *_: None)
    assert taken.dump.stat().st_mode & 0o077 == 0, "others could read it"
    assert {path.suffix for path in taken.dump.parent.iterdir()} == {".dump", ".json"}


async def test_a_script_reads_the_manifest_alone(
    chosen: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await write_log(chosen.database_url)

    await asyncio.to_thread(backup, to=tmp_path, as_json=True)

    written = capsys.readouterr()
    told = json.loads(written.out)
    assert (tmp_path / told["file"]).stat().st_size == told["file_bytes"]
    assert [one["shard"] for one in told["shards"]] == [0, 1]
    assert written.err == ""


async def test_people_are_told_what_it_costs_and_what_was_written(
    chosen: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await write_log(chosen.database_url)

    taken = await take(tmp_path)

    written = capsys.readouterr()
    assert "The database has" in written.err
    head = taken.manifest.shards[0]
    assert f"--expect 0:{head.position}:{head.chain}" in written.out
    assert written.out.splitlines()[-1].startswith(f"Wrote {taken.dump}")


@pytest.mark.parametrize("harm", ["cut", "changed", "deleted"])
async def test_a_damaged_dump_is_told(chosen: Settings, tmp_path: Path, harm: str) -> None:
    await write_log(chosen.database_url)
    taken = await take(tmp_path)
    whole = taken.dump.read_bytes()
    middle = len(whole) // 2
    match harm:
        case "cut":
            taken.dump.write_bytes(whole[:middle])
        case "changed":
            changed = bytes([whole[middle] ^ 1])
            taken.dump.write_bytes(whole[:middle] + changed + whole[middle + 1 :])
        case _:
            taken.dump.unlink()

    with pytest.raises(BackupDamaged, match=taken.dump.name):
        check_bytes(taken, lambda *_: None)


def test_a_file_that_is_no_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"file": 7}')

    with pytest.raises(BackupDamaged, match=r"x\.json is no manifest"):
        find_backup(tmp_path / "x.dump")
    with pytest.raises(BackupDamaged, match=r"y\.json cannot be read: No such file"):
        find_backup(tmp_path / "y.dump")


async def test_only_one_backup_is_written_to_a_directory_at_a_time(
    chosen: Settings, tmp_path: Path
) -> None:
    await write_log(chosen.database_url)
    (tmp_path / "left-by-one-that-was-killed.unfinished").write_text("half")
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ToolError, match="Another backup is being written"):
        await take(tmp_path)
    os.close(held)

    await take(tmp_path)

    assert {path.suffix for path in tmp_path.iterdir()} == {".dump", ".json"}


KILLED_BETWEEN_DUMP_AND_MANIFEST = """
import asyncio, os, pathlib, sys
from exchange.tools.operators.backups.dumping import take

rename = pathlib.Path.rename

def renamed(path, target):
    rename(path, target)
    os._exit(9)

pathlib.Path.rename = renamed
asyncio.run(take(sys.argv[1], pathlib.Path(sys.argv[2]), lambda *_: None))
"""


async def test_a_whole_dump_without_a_manifest_is_deleted_by_the_next_backup(
    chosen: Settings, tmp_path: Path
) -> None:
    await write_log(chosen.database_url)
    (tmp_path / "copied-by-somebody.dump").write_text("not ours")
    program = [sys.executable, "-c", KILLED_BETWEEN_DUMP_AND_MANIFEST]
    killed = await asyncio.create_subprocess_exec(*program, chosen.database_url, str(tmp_path))
    assert await killed.wait() == 9
    (left,) = tmp_path.glob("exchange-*.dump")
    left = left.rename(left.with_name("exchange-20200101T000000Z.dump"))
    (unfinished,) = tmp_path.glob("*.unfinished")
    unfinished.rename(left.with_suffix(".json.unfinished"))

    taken = await take(tmp_path)

    whole = {"copied-by-somebody.dump", taken.dump.name, taken.dump.with_suffix(".json").name}
    assert {path.name for path in tmp_path.iterdir()} == whole


@pytest.mark.usefixtures("chosen")
async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ToolError, match=r"No backup was written to .*file/backups"):
        await take(tmp_path / "file" / "backups")


async def test_a_database_without_a_log_is_told(
    chosen: Settings, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await connection.execute("drop table head cascade")

    with pytest.raises(ToolError, match="has no log of an exchange"):
        await take(tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert chosen.database_url


async def test_a_database_that_does_not_answer_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    away = replace(settings, database_url="postgresql://exchange@127.0.0.1:1/exchange")
    monkeypatch.setattr(Settings, "load", lambda: away)

    with pytest.raises(ToolError, match="PostgreSQL does not answer"):
        await take(tmp_path)


def test_programs_that_are_too_old_for_the_server_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, major in (("older", 15), ("fits", 17), ("newer", 99)):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "pg_dump"
        program.write_text(f'#!/bin/sh\necho "pg_dump (PostgreSQL) {major}.1"\n')
        program.chmod(0o755)
    places = [tmp_path / name for name in ("newer", "older", "fits", "nowhere")]
    monkeypatch.setattr(programs_module, "_installed", lambda: places)

    assert programs_for(16).directory == tmp_path / "fits"
    with pytest.raises(ToolError, match="No pg_dump of PostgreSQL 100 or newer is here"):
        programs_for(100)


async def test_a_password_is_no_argument_of_a_program(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$@"\necho "$PGPASSWORD"\n')
    program.chmod(0o755)
    url = "postgresql://a:s%40cret@h:1/d?sslmode=require"

    pipe = asyncio.subprocess.PIPE
    async with running(str(program), "-x", database_url=url, stdout=pipe) as (process, said):
        assert process.stdout is not None
        told = (await process.stdout.read()).decode().splitlines()
        await said.check()

    assert told == ["--dbname=postgresql://a@h:1/d?sslmode=require -x", "s@cret"]


async def test_why_a_program_failed_is_told_and_nothing_is_left(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await write_log(chosen.database_url)
    failing = tmp_path / "pg_dump"
    failing.write_text('#!/bin/sh\necho "pg_dump: error: no room" >&2\nexit 1\n')
    failing.chmod(0o755)
    found = Programs(tmp_path, 99)
    monkeypatch.setattr(dumping_module, "programs_for", lambda _major: found)

    with pytest.raises(ToolError, match=r"No backup was written: pg_dump: no room\. Ask again"):
        await take(tmp_path / "backups")

    assert list((tmp_path / "backups").iterdir()) == []
