"""Taking a backup: one snapshot of the whole database, while the exchange runs.

Read ``take``. What the manifest tells is read in a transaction whose snapshot ``pg_dump`` takes
over, so both see the same log. The dump is written under another name, read back whole and synced
before it gets its own, and its manifest comes last: whoever finds a manifest has a backup. What a
killed backup leaves is deleted by the next one. A whole dump whose manifest has not got its name is
known by the manifest, which is written before the dump gets its own.
"""

import asyncio
import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg
from msgspec import Struct, structs

from exchange import BUILD
from exchange.tools.operators.backups.manifests import (
    DUMP_SUFFIX,
    MANIFEST_SUFFIX,
    Backup,
    Manifest,
    ShardHead,
    digest_of,
    encoded,
)
from exchange.tools.operators.backups.programs import Programs, Said, programs_for, running
from exchange.tools.telling import Tell
from exchange.tools.terminal import ToolError, connect

LOOK_AGAIN_S: Final = 0.5
UNFINISHED_SUFFIX: Final = ".unfinished"
NAME_FORMAT: Final = "exchange-%Y%m%dT%H%M%SZ"
# Beyond it gzip takes far more of the processors that decide orders, and saves a few per cent.
COMPRESSION: Final = "--compress=1"
BEGUN_TABLE: Final = re.compile(r'dumping contents of table "([^"]+)"')

DUMPING: Final = "dumping"
READING_BACK: Final = "reading it back"

# The transaction is idle while pg_dump begins, and must outlive that.
BEGIN_SNAPSHOT = """
begin isolation level repeatable read, read only;
set local idle_in_transaction_session_timeout = 0
"""

EXPORT_SNAPSHOT = "select pg_export_snapshot()"

READ_FACTS = """
select
    (select id from log) as log_id,
    (select version_num from alembic_version) as schema,
    current_setting('server_version_num')::integer / 10000 as server_major,
    pg_database_size(current_database()) as database_bytes
"""

READ_SHARD_HEADS = """
select shard, epoch, position, topic_id, next_offset, offset_base, last_offset,
    encode(chain, 'hex') as chain, encode(state_digest, 'hex') as state_digest
from head
order by shard
"""

READ_TABLE_SIZES = """
select nspname || '.' || relname as name, pg_table_size(pg_class.oid) as size
from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where relkind = 'r' and nspname not in ('pg_catalog', 'information_schema')
"""

READ_DATABASE_BYTES = "select pg_database_size(current_database())"

# Which share of the table that it copies now a session has passed.
READ_COPIED = """
select least(1, tuples_processed / greatest(reltuples, 1)) as share
from pg_stat_progress_copy
join pg_stat_activity using (pid)
join pg_class on pg_class.oid = relid
where application_name = $1
"""


class Snapshot(Struct, frozen=True):
    """A snapshot that ``pg_dump`` can take over, and what it shows of the log."""

    name: str
    manifest: Manifest
    table_bytes: dict[str, int]


async def take(database_url: str, directory: Path, tell: Tell) -> Backup:
    """Write a backup of the database into a directory, and return it.

    Raises:
        ToolError: Another backup is being written there, or the database is no exchange's.
        ProgramFailed: ``pg_dump`` failed, or what it wrote cannot be read.
        OSError: The directory cannot be written to.
    """
    begun, begun_s = datetime.now(UTC), time.monotonic()
    dump = directory / f"{begun:{NAME_FORMAT}}{DUMP_SUFFIX}"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone_in(directory), _unfinished(dump) as file:
        async with _snapshot(database_url, begun) as snapshot:
            programs = programs_for(snapshot.manifest.server_major)
            await _dump(programs, database_url, snapshot, file, tell)
        _sync(file)
        await read_back(programs, file, tell)
        manifest = structs.replace(
            snapshot.manifest,
            seconds=round(time.monotonic() - begun_s, 3),
            file=dump.name,
            file_bytes=file.stat().st_size,
            sha256=await asyncio.to_thread(digest_of, file, lambda *_: None),
        )
        _name(dump, file, encoded(manifest))
        _sync(directory)
    return Backup(dump, manifest)


async def database_bytes(database_url: str) -> int:
    """Return the size of the database, indexes included."""
    connection = await connect(database_url)
    try:
        size: int = await connection.fetchval(READ_DATABASE_BYTES)
        return size
    finally:
        await connection.close()


async def read_back(programs: Programs, dump: Path, tell: Tell) -> None:
    """Read all of a dump, as a restore would.

    Raises:
        ProgramFailed: It cannot be read to its end.
    """
    with dump.open("rb") as file:
        async with running(programs.path("pg_restore"), "--file=/dev/null", stdin=file) as (
            process,
            said,
        ):
            size = dump.stat().st_size
            while not await ended_within(process, LOOK_AGAIN_S):
                tell(READING_BACK, place_in(file.fileno()), size)
            await said.check()


def place_in(descriptor: int) -> int:
    """Return how far a file has been read by a process that shares the descriptor."""
    return os.lseek(descriptor, 0, os.SEEK_CUR)


async def ended_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Wait for a process, at most so long; tell whether it has ended."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True


@contextmanager
def _unfinished(dump: Path) -> Iterator[Path]:
    """Lend a file to write a dump to, which is deleted unless it becomes a backup."""
    if dump.exists():
        raise ToolError(f"{dump} is there already: ask again in a second.")
    _delete_unfinished(dump.parent)
    file = dump.with_suffix(UNFINISHED_SUFFIX)
    file.touch(mode=0o600)  # it has all that clients ever did
    try:
        yield file
    finally:
        _delete_unfinished(dump.parent)


def _delete_unfinished(directory: Path) -> None:
    for left in directory.glob(f"*{UNFINISHED_SUFFIX}"):
        named = left.with_suffix("")
        if named.suffix == MANIFEST_SUFFIX and not named.exists():
            named.with_suffix(DUMP_SUFFIX).unlink(missing_ok=True)
        left.unlink()


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the directory for this process; the lock ends with it, however it dies."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ToolError(f"Another backup is being written to {directory}: wait for it.") from None


@asynccontextmanager
async def _snapshot(database_url: str, begun: datetime) -> AsyncIterator[Snapshot]:
    """Hold a snapshot of the database as it is now."""
    connection = await connect(database_url)
    try:
        await connection.execute(BEGIN_SNAPSHOT)
        name = await connection.fetchval(EXPORT_SNAPSHOT)
        facts = await connection.fetchrow(READ_FACTS)
        heads = await connection.fetch(READ_SHARD_HEADS)
        sizes = await connection.fetch(READ_TABLE_SIZES)
        manifest = Manifest(
            taken_at=begun,
            build=BUILD,
            shards=[ShardHead(**head) for head in heads],
            seconds=0,
            file="",
            file_bytes=0,
            sha256="",
            **facts,
        )
        yield Snapshot(name, manifest, {row["name"]: row["size"] for row in sizes})
    except asyncpg.UndefinedTableError as error:
        raise ToolError(f"The database has no log of an exchange: {error}.") from error
    finally:
        await connection.close()


async def _dump(
    programs: Programs, database_url: str, snapshot: Snapshot, file: Path, tell: Tell
) -> None:
    name = f"exchange backup {os.getpid()}"
    async with running(
        programs.path("pg_dump"),
        "--format=custom",
        COMPRESSION,
        f"--snapshot={snapshot.name}",
        f"--file={file}",
        "--verbose",
        database_url=database_url,
        name=name,
    ) as (process, said):
        watch = await connect(database_url)
        try:
            progress = _Dumped(said, snapshot.table_bytes)
            while not await ended_within(process, LOOK_AGAIN_S):
                share = await watch.fetchval(READ_COPIED, name)
                tell(DUMPING, progress.bytes_so_far(share or 0), progress.bytes_in_all)
        finally:
            await watch.close()
        await said.check()


class _Dumped:
    """How much of the tables ``pg_dump`` has passed, by what it says of each that it begins."""

    def __init__(self, said: Said, table_bytes: Mapping[str, int]) -> None:
        self._said = said
        self._table_bytes = table_bytes
        self._passed = self._under_way = self._told = 0
        self.bytes_in_all = sum(table_bytes.values())

    def bytes_so_far(self, share: float) -> int:
        """Return the bytes, given the share of the present table; never fewer than before.

        A table that is done has no share any more, until the next one begins.
        """
        for line in self._said.news():
            found = BEGUN_TABLE.search(line)
            if found is not None:
                self._passed += self._under_way
                self._under_way = self._table_bytes.get(found[1], 0)
        self._told = max(self._told, self._passed + int(self._under_way * share))
        return self._told


def _name(dump: Path, file: Path, manifest: bytes) -> None:
    """Give a dump and its manifest their names, the dump first."""
    unfinished = dump.with_suffix(MANIFEST_SUFFIX + UNFINISHED_SUFFIX)
    unfinished.write_bytes(manifest)
    _sync(unfinished)
    file.rename(dump)
    unfinished.rename(dump.with_suffix(MANIFEST_SUFFIX))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
