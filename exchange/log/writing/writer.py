"""The log in Postgres as its single writer sees it; ``reader`` is how others read it.

Read ``PostgresEventStore.take_over``: it raises the epoch, so that nothing of an earlier writer is
appended any more.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import asyncpg

from exchange.domain.events import Event
from exchange.domain.values import Offset, Position, Shard
from exchange.durability import check_durable, unsafe_database
from exchange.log.command_form import commands_version
from exchange.log.replay import replay
from exchange.log.snapshot_store import stored_snapshots
from exchange.log.writing.appending import append_batch
from exchange.log.writing.claiming import take_claims
from exchange.log.writing.lease import Lease
from exchange.log.writing.waking import Waker
from exchange.ports import (
    EMPTY_CHAIN,
    Claim,
    ForeignTopic,
    Head,
    LastRecord,
    LeaseLost,
    LogCorrupt,
    StoredEvent,
    StoredSnapshot,
    Trace,
)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 30  # a batch takes milliseconds; beyond this the process should exit
ANSWER_TIMEOUT_S: Final = STATEMENT_TIMEOUT_S + 10  # a live server reports its own timeout first
FORGIVE_AGAIN_S: Final = 1.0  # between two tries while the store is away
FORGIVE_TRY_S: Final = 2.0  # then on another connection: a stop from outside leaves 10 s for both
FORGIVE_STOP_S: Final = 60.0  # how long a matcher that failed waits for a silent store to answer
TERMINATE_WAIT_MS: Final = 5_000  # for an ended session to be gone: it rolls one batch back
LEASE_POLL_S: Final = 0.1  # a lock that is free is taken within this
LEASE_TIMEOUT_S: Final = 3.0  # three beats: a writer that misses them is frozen or cut off
WRITER_LOCK_CLASS: Final = 0x45584348  # "EXCH": keeps our advisory locks apart from others'

# Errors of a statement that are the store's fault, not its caller's.
STORE_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

# A writer that freezes inside a transaction would hold its locks for ever. A successor ends its
# session; without a successor the server does, after this time.
WRITER_SETTINGS: Final = {
    "idle_in_transaction_session_timeout": f"{ANSWER_TIMEOUT_S + 5}s",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "jit": "off",
    # Every statement of a writer has an index. A plan that was made while a table was small must
    # not go on reading all of it when it is large.
    "enable_seqscan": "off",
}

# Keeps what a fresh session has for as long as it lives: a reload of the server cannot lower it.
PIN_DURABILITY = """
select current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
    set_config('synchronous_commit', current_setting('synchronous_commit'), false)
        as synchronous_commit
"""

# Tried again and again, not queued for: a waiter that is frozen must not be handed the lock.
TRY_WRITER_LOCK = "select pg_try_advisory_lock($1, $2)"

AWAIT_WRITER_LOCK = "select pg_advisory_lock($1, $2)"

# A session with the writer's name holds the shard, so a successor may end it; one that waits has
# another name.
NAME_SESSION = "select set_config('application_name', $1, false)"

READ_LEASE = "select beat from leases where shard = $1"

READ_POSITION = "select position from heads() where shard = $1"

# By name, and by the lock: a session may freeze after it got the lock and before it set its name.
TERMINATE_EARLIER_WRITERS = """
select pg_terminate_backend(session.pid, $3)
from pg_stat_activity as session
where session.datname = current_database() and session.pid <> $2 and (
    session.application_name = $1
    or exists (
        select from pg_locks
        where pg_locks.pid = session.pid and pg_locks.database = session.datid
            and locktype = 'advisory' and granted and (classid, objid, objsubid) = ($4, $5, 2)
    )
)
"""

READ_END = """
select
    (select kafka_offset from events where shard = $1 and position = $2) as kafka_offset,
    (select min(position) from events where shard = $1 and position > $2) as event,
    (select min(position) from batches where shard = $1 and position > $2) as batch
"""

CREATE_HEAD = """
insert into head (shard, epoch, position, topic_id, next_offset, chain, state_digest)
select $1, 0, 0, $2, 0, $3, $4 where not exists (select from heads() where shard = $1)
"""

# A new head begins the first life of its topic, and the first head makes the log's id. A build that
# is older than the two tables made heads without either, so both are added where missing.
BEGIN_LOG = """
with named as (
    insert into log (id)
    select gen_random_uuid()::text where not exists (select from log)
    on conflict do nothing
)
insert into topic_lives (shard, topic_id, offset_base, first_offset)
select shard, topic_id, 0, 0
from head
where shard = $1 and offset_base = 0 and not exists (select from topic_lives where shard = $1)
on conflict do nothing
"""

# ``reads`` counts only with its epoch: an older writer raises the epoch and leaves ``reads`` as it
# was.
RAISE_EPOCH = """
update head set epoch = epoch + 1, reads = $3, reads_epoch = epoch + 1
where shard = $1 and topic_id = $2
returning shard, epoch, position, topic_id, next_offset, chain, state_digest, offset_base,
    last_offset, last_epoch, last_digest
"""

COUNT_START = """
insert into crash_watch (shard, started_at_offset, starts, tried_offset, attempts)
values ($1, $2, 1, -1, 0)
on conflict (shard) do update set
    started_at_offset = excluded.started_at_offset,
    starts = case
        when crash_watch.started_at_offset = excluded.started_at_offset
        then crash_watch.starts + 1
        else 1
    end
returning starts > 1 or tried_offset = started_at_offset
"""

COUNT_ATTEMPT = """
update crash_watch set
    attempts = case when tried_offset = $2 then attempts + 1 else 1 end,
    tried_offset = $2
where shard = $1
returning attempts
"""

FORGIVE_ATTEMPT = """
update crash_watch set attempts = attempts - 1
where shard = $1 and tried_offset = $2 and attempts > 0
"""

READ_QUARANTINED = """
select kafka_offset, data ->> 'sha256' as sha256
from events
where shard = $1 and kafka_offset = any($2::bigint[]) and type = 'CommandQuarantined'
"""

READ_TOPIC_ID = "select topic_id from head where shard = $1"


async def pin_durability(
    connection: asyncpg.Connection, allow_unsafe: Collection[str]
) -> dict[str, str]:
    """Keep a session as durable as it began, and return the settings that make it so.

    Raises:
        UnsafeSettings: The server may lose what it commits, and nobody allowed it.
    """
    found: dict[str, str] = dict(await connection.fetchrow(PIN_DURABILITY))
    check_durable(unsafe_database(found), allow_unsafe)
    return found


class PostgresEventStore:
    """The writer's connections to one shard's log: an ``EventStore``.

    While another matcher holds the shard's advisory lock and its lease beats, the shard is not free
    and a second matcher waits; it overtakes one that is frozen. Lock and lease only save needless
    take-overs; the epoch in the head is the fence.
    """

    def __init__(
        self, database_url: str, shard: Shard, *, allow_unsafe: Collection[str] = ()
    ) -> None:
        self._database_url = database_url
        self._shard = shard
        self._allow_unsafe = allow_unsafe
        self._pinned: dict[str, str] = {}  # settings of the first session, for all later ones
        self._application_name = f"exchange matcher shard {shard}"
        self._control: asyncpg.Connection
        self._epoch: int
        self._claiming: asyncpg.Connection | None = None  # while the batch before is appended
        self._appending: asyncpg.Connection | None = None
        self._locked = False
        self._beat = -1  # of another writer, and when this beat was first seen
        self._beaten_s = 0.0
        self._lease: Lease | None = None
        self._waker: Waker | None = None
        self._forgiving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        waiting = f"{self._application_name} waiting"
        self._control = await self._connect(application_name=waiting)
        try:
            found = await pin_durability(self._control, self._allow_unsafe)
        except BaseException:
            self._control.terminate()
            raise
        self._pinned = {"synchronous_commit": found["synchronous_commit"]}
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._forgiving is not None:
                await asyncio.wait({self._forgiving}, timeout=FORGIVE_STOP_S)
                self._forgiving.cancel()
        finally:  # or its thread would outlive the store
            if self._lease is not None:
                await self._lease.stop()
            if self._waker is not None:
                self._waker.stop()
        for connection in (self._claiming, self._appending, self._control):
            if connection is not None:
                connection.terminate()

    async def is_free(self) -> bool:
        self._locked = await self._control.fetchval(TRY_WRITER_LOCK, WRITER_LOCK_CLASS, self._shard)
        if self._locked:
            return True
        beat, now_s = await self._control.fetchval(READ_LEASE, self._shard), time.monotonic()
        if beat != self._beat:
            self._beat, self._beaten_s = beat, now_s
        if now_s - self._beaten_s >= LEASE_TIMEOUT_S:
            return True
        await asyncio.sleep(LEASE_POLL_S)
        return False

    async def position(self) -> Position:
        return Position(await self._control.fetchval(READ_POSITION, self._shard) or 0)

    async def take_over(self, topic_id: str) -> Head:
        await self._terminate_earlier_writers()
        if not self._locked:  # its holder was frozen, and has just been ended
            await self._control.execute(AWAIT_WRITER_LOCK, WRITER_LOCK_CLASS, self._shard)
        await self._control.execute(NAME_SESSION, self._application_name)
        self._lease = Lease(self._shard, self._connect_for_hints)
        self._waker = Waker(self._shard, self._connect_for_hints, STORE_ERRORS)
        await self._control.execute(
            CREATE_HEAD, self._shard, topic_id, EMPTY_CHAIN, bytes(len(EMPTY_CHAIN))
        )
        await self._control.execute(BEGIN_LOG, self._shard)
        row = await self._control.fetchrow(RAISE_EPOCH, self._shard, topic_id, commands_version())
        if row is None:
            stored = await self._control.fetchval(READ_TOPIC_ID, self._shard)
            raise ForeignTopic(
                f"shard {self._shard} was written from the Kafka topic with id {stored}, but the"
                f" topic now has id {topic_id}: it was recreated. Its commands are not the ones"
                " that the log continues. Restore the topic, or go on with this one by"
                " `exchange adopt-topic`; what was decided is whole."
            )
        self._claiming = await self._connect(synchronous_commit="off")  # ``claiming`` says why
        self._appending = await self._connect()
        self._epoch = row["epoch"]
        return head_of(row)

    async def check_end(self, head: Head) -> None:
        row = await self._control.fetchrow(READ_END, head.shard, head.position)
        offset, stray = row["kafka_offset"], row["event"] or row["batch"]
        if stray is not None:
            raise LogCorrupt(
                f"shard {head.shard}: the head is at {head.position}, and there is an event or a"
                f" batch at {stray}: no matcher wrote it. `exchange verify` says more."
            )
        if offset is not None and offset >= head.next_offset:
            raise LogCorrupt(
                f"shard {head.shard}: the command at offset {offset} is in the log, and the head"
                f" would decide it again from {head.next_offset} on: the head was changed. Restore"
                " it from a backup; its last batch has what it was."
            )

    async def hold(self) -> None:
        assert self._lease is not None, "the shard was taken over"
        try:
            await self._lease.hold()
        except STORE_ERRORS as error:  # a successor ended the connection, or will come soon anyway
            raise LeaseLost(
                f"shard {self._shard}: another matcher took over, or PostgreSQL is away: {error}"
            ) from error

    def replay(self, *, after: Position, up_to: Position) -> AsyncIterator[list[Event]]:
        return replay(self._control, self._shard, after=after, up_to=up_to)

    async def snapshots(self, *, up_to: Position) -> AsyncIterator[StoredSnapshot]:
        async for snapshot in stored_snapshots(self._control, self._shard, up_to=up_to):
            yield snapshot

    async def count_start(self, offset: Offset) -> bool:
        suspicious: bool = await self._control.fetchval(COUNT_START, self._shard, offset)
        return suspicious

    async def count_attempt(self, offset: Offset) -> int:
        try:
            attempts: int = await self._control.fetchval(COUNT_ATTEMPT, self._shard, offset)
        except BaseException:  # a stop as well: the server may have counted
            self._forgive(offset)
            raise
        return attempts

    async def forgive_attempt(self, offset: Offset) -> None:
        await asyncio.shield(self._forgive(offset))

    async def quarantined(self, offsets: Sequence[Offset]) -> dict[Offset, str]:
        rows = await self._control.fetch(READ_QUARANTINED, self._shard, offsets)
        return {row["kafka_offset"]: row["sha256"] for row in rows}

    async def claim(self, claims: Sequence[Claim], *, unkeyed: Sequence[UUID] = ()) -> list[Claim]:
        assert self._claiming is not None, "the shard was taken over"
        return await take_claims(self._claiming, self._shard, self._epoch, claims, unkeyed)

    async def append(
        self,
        events: Sequence[StoredEvent],
        *,
        expected: Head,
        head: Head,
        links: bytes,
        traces: Sequence[Trace] = (),
    ) -> None:
        assert self._appending is not None, "the shard was taken over"
        assert self._waker is not None, "the shard was taken over"
        await append_batch(
            self._appending, events, expected=expected, head=head, links=links, traces=traces
        )
        if head.position > expected.position:
            self._waker.wake(head.position)

    @property
    def _where(self) -> dict[str, object]:
        return {"shard": self._shard}

    def _forgive(self, offset: Offset) -> asyncio.Task[None]:
        """Begin to take a count back; a stop waits for it, for ``FORGIVE_STOP_S`` at most."""
        self._forgiving = asyncio.create_task(self._forgive_until_told(offset))
        return self._forgiving

    async def _forgive_until_told(self, offset: Offset) -> None:
        try:
            await self._control.execute(FORGIVE_ATTEMPT, self._shard, offset, timeout=FORGIVE_TRY_S)
            return
        except STORE_ERRORS as error:
            fields = {**self._where, "offset": offset, "error": repr(error)}
            logger.warning("Cannot take the count of an attempt back yet", extra=fields)
        while True:
            await asyncio.sleep(FORGIVE_AGAIN_S)
            if await self._forgave_anew(offset):
                return

    async def _forgave_anew(self, offset: Offset) -> bool:
        """Try on a new connection: the failure may have broken the other one."""
        try:
            connection = await self._connect()
        except STORE_ERRORS:
            return False
        try:
            await connection.execute(FORGIVE_ATTEMPT, self._shard, offset, timeout=FORGIVE_TRY_S)
        except STORE_ERRORS:
            return False
        finally:
            connection.terminate()
        return True

    async def _connect_for_hints(self) -> asyncpg.Connection:
        # A crash of the server may lose a beat or a notification, so neither waits for a slow disk.
        return await self._connect(synchronous_commit="off")

    async def _connect(self, **settings: str) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=ANSWER_TIMEOUT_S,
            server_settings={
                **WRITER_SETTINGS,
                "application_name": self._application_name,
                **self._pinned,
                **settings,
            },
        )

    async def _terminate_earlier_writers(self) -> None:
        # Without this a writer stopped between its statements and its commit holds the head's
        # row lock, and its successor waits until the server's timeout ends it.
        ended = await self._control.fetch(
            TERMINATE_EARLIER_WRITERS,
            self._application_name,
            self._control.get_server_pid(),
            TERMINATE_WAIT_MS,
            WRITER_LOCK_CLASS,
            self._shard,
        )
        if ended:
            logger.warning(
                "Ended the connections of an earlier matcher",
                extra={**self._where, "connections": len(ended)},
            )


def head_of(row: asyncpg.Record) -> Head:
    """Return a row of the table ``head`` as a ``Head``."""
    fields = dict(row)
    offset, epoch, digest = (fields.pop(f"last_{name}") for name in ("offset", "epoch", "digest"))
    return Head(**fields, last=None if offset is None else LastRecord(offset, epoch, digest))
