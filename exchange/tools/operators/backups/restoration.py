"""Putting a backup in the place of a database, in one transaction.

Read ``restore``. ``pg_restore`` writes the dump as a script, and one session of ``psql`` runs it
between our own beginning and end: it takes the lock of every shard as a matcher does, drops what is
there, runs the script, compares the heads with the manifest and commits. So a restore that fails or
is killed at any moment has changed nothing, and no process ever sees a half of it.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import IO, Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange.domain.values import SHARDS_MAX
from exchange.log.reader import read_log_id
from exchange.log.writing.writer import WRITER_LOCK_CLASS
from exchange.tools.operators.backups.dumping import LOOK_AGAIN_S, place_in
from exchange.tools.operators.backups.manifests import Backup, Manifest
from exchange.tools.operators.backups.programs import (
    Process,
    Programs,
    Said,
    programs_for,
    running,
)
from exchange.tools.telling import Tell
from exchange.tools.terminal import connect

RELAY_BYTES: Final = 1 << 18
SHOWN_CHARACTERS: Final = 40  # of the statement that runs
LOCK_TIMEOUT_S: Final = 10  # nobody of the exchange is connected, so only people hold locks
# A writer of the log as it was before may be frozen somewhere, and its epoch is unknown. No shard
# is ever taken over so often between a backup and its restore.
EPOCHS_APART: Final = 1_000_000

READ_PRESENT = """
select
    to_regclass('public.events') is not null as has_log,
    (select count(*) from pg_tables where schemaname = 'public') as tables,
    current_setting('server_version_num')::integer / 10000 as server_major
"""

READ_HELD = "select shard, epoch, position from head order by shard"

READ_STATEMENT = "select query from pg_stat_activity where application_name = $1"

ANALYZE = "analyze"  # a dump has no statistics, and plans need them

HAS_EVENTS = "select exists (select from events)"

# By name, and matchers also by their lock: one may be frozen before it set its name.
READ_SESSIONS = """
select pid, application_name, coalesce(host(client_addr), 'this machine') as address
from pg_stat_activity as session
where datname = current_database() and pid <> pg_backend_pid() and (
    application_name like 'exchange%' or exists (
        select from pg_locks
        where pg_locks.pid = session.pid and locktype = 'advisory' and granted
            and database = datid and classid::bigint = $1
    )
)
order by application_name, pid
"""

BEGIN = f"""
begin;
set local statement_timeout = 0;
set local lock_timeout = '{LOCK_TIMEOUT_S}s';
-- Else the locks of a restore that was killed are held until its statement ends.
set local client_connection_check_interval = '1s';
do $$ begin
    for shard in 0..{SHARDS_MAX - 1} loop
        if not pg_try_advisory_xact_lock({WRITER_LOCK_CLASS}, shard) then
            raise exception 'a matcher has shard %: stop it first', shard;
        end if;
    end loop;
end $$;
"""

# As ``initdb`` makes it.
DROP_ALL = """
drop schema public cascade;
create schema public;
alter schema public owner to pg_database_owner;
grant usage on schema public to public;
"""

# The views went with their tables; a schema that has anything of somebody else is not dropped.
DROP_EMPTY: Final = "drop schema if exists analytics;"

# ``pg_restore``'s script has left the search path empty. A command that was being tried when the
# backup was taken crashed nobody.
END = """
do $$ begin
    if exists (
        select
        from public.head
        full join jsonb_to_recordset({heads}) as told (
            shard integer, position bigint, topic_id text, next_offset bigint, offset_base bigint,
            chain text, state_digest text
        ) using (shard)
        where (
            head.position, head.topic_id, head.next_offset, head.offset_base,
            encode(head.chain, 'hex'), encode(head.state_digest, 'hex'),
            coalesce((select max(position) from public.events where shard = head.shard), 0)
        ) is distinct from (
            told.position, told.topic_id, told.next_offset, told.offset_base,
            told.chain, told.state_digest, told.position
        )
    ) then
        raise exception 'the heads of the dump are not those that the manifest tells';
    end if;
end $$;
update public.head set epoch = greatest(epoch, {epoch}) + {epochs_apart};
delete from public.crash_watch;
commit;
"""


PIPE: Final = asyncio.subprocess.PIPE
Running = AbstractAsyncContextManager[tuple[Process, Said]]


class Present(Struct, frozen=True):
    """What the database has now: whether an exchange's log, and how far each shard of it is."""

    has_log: bool
    has_events: bool
    log_id: str | None
    tables: int
    server_major: int
    positions: dict[int, int]
    epoch: int
    sessions: list[str]


async def read_present(database_url: str) -> Present:
    """Look at the database that would be replaced."""
    connection = await connect(database_url)
    try:
        found = await connection.fetchrow(READ_PRESENT)
        has_log = found["has_log"]
        held = await connection.fetch(READ_HELD) if has_log else []
        sessions = await connection.fetch(READ_SESSIONS, WRITER_LOCK_CLASS)
        return Present(
            has_log=has_log,
            has_events=has_log and await connection.fetchval(HAS_EVENTS),
            log_id=await read_log_id(connection) if has_log else None,
            tables=found["tables"],
            server_major=found["server_major"],
            positions={row["shard"]: row["position"] for row in held},
            epoch=max((row["epoch"] for row in held), default=0),
            sessions=_described(sessions),
        )
    finally:
        await connection.close()


def _described(sessions: Sequence[asyncpg.Record]) -> list[str]:
    return [
        f"{row['application_name'] or 'a session'} (session {row['pid']}, from {row['address']})"
        for row in sessions
    ]


async def restore(database_url: str, backup: Backup, present: Present, tell: Tell) -> None:
    """Put the backup in the place of all that the database has.

    Raises:
        ProgramFailed: It could not be done; the database is as it was.
    """
    programs = programs_for(max(present.server_major, backup.manifest.server_major))
    name = f"exchange restore {os.getpid()}"
    with backup.dump.open("rb") as file:
        async with (
            _script_of(programs, file) as (script, said),
            _session(programs, database_url, name) as (psql, answers),
        ):
            size = backup.manifest.file_bytes
            watch = _watch(database_url, name, file.fileno(), size, tell)
            watching = asyncio.create_task(watch)
            try:
                await _run(script, said, psql, backup.manifest, present)
                await answers.check()
            finally:
                watching.cancel()
                await asyncio.wait({watching})
    connection = await connect(database_url)
    await connection.execute(ANALYZE)
    await connection.close()


def _script_of(programs: Programs, dump: IO[bytes]) -> Running:
    """Run a ``pg_restore`` that writes the dump as a script."""
    options = ("--no-owner", "--no-privileges", "--file=-")
    return running(programs.path("pg_restore"), *options, stdin=dump, stdout=PIPE)


def _session(programs: Programs, database_url: str, name: str) -> Running:
    """Run a ``psql`` that ends at the first error."""
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1")
    psql = programs.path("psql")
    return running(psql, *options, database_url=database_url, name=name, stdin=PIPE)


async def _run(
    script: Process, said: Said, psql: Process, manifest: Manifest, present: Present
) -> None:
    """Have ``psql`` run the whole script between our beginning and end."""
    assert script.stdout is not None
    assert psql.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):  # it ended, and its answers say why
        psql.stdin.write((BEGIN + (DROP_ALL if present.tables else "") + DROP_EMPTY).encode())
        while part := await script.stdout.read(RELAY_BYTES):
            psql.stdin.write(part)
            await psql.stdin.drain()
        await said.check()  # before the commit: a script that was cut must not count
        psql.stdin.write(_end(manifest, present).encode())
        await psql.stdin.drain()
    psql.stdin.close()


def _end(manifest: Manifest, present: Present) -> str:
    told = msgspec.json.encode(manifest.shards).decode().replace("'", "''")
    return END.format(heads=f"'{told}'::jsonb", epoch=present.epoch, epochs_apart=EPOCHS_APART)


async def _watch(database_url: str, name: str, descriptor: int, size: int, tell: Tell) -> None:
    """Show which statement runs and how much of the dump is read, until cancelled."""
    connection = await connect(database_url)
    try:
        while True:
            query = await connection.fetchval(READ_STATEMENT, name)
            statement = " ".join((query or "").split())[:SHOWN_CHARACTERS]
            place = place_in(descriptor)
            # With all of the dump read, indexes are being built, and nobody knows how far.
            tell(statement or "beginning", *((place, size) if place < size else (0, 0)))
            await asyncio.sleep(LOOK_AGAIN_S)
    finally:
        connection.terminate()
