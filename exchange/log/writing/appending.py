"""One batch of a writer: its claims, then its events and the head, in one transaction.

Read ``APPEND_BATCH``: one statement moves the head by compare-and-set and appends the
events only if it moved. It is the fence that no paused or duplicated writer passes.
Positions come from the writer, not from a sequence, so they have no gaps and become
visible in order.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg

from exchange.log.identity import command_claim, is_keyed, unkeyed_claim
from exchange.log.reader import LOCATIONS_OF_UNKEYED_COMMANDS, find_unkeyed, read_claims
from exchange.log.writing.waking import Waker
from exchange.ports import Claim, Head, StaleWriter, StoredEvent, Trace, UnstorableRows

TRACED_EVENTS_MAX: Final = 100_000  # newest events of which traces are kept

# SQLSTATE classes of errors that the rows cause: data exceptions, and limits that rows exceed.
ROW_CLASSES: Final = frozenset({"22", "54"})

# Keys and what else a command takes, in one statement. The second insert reads the first one's
# result, so it begins when that has ended. Both insert in the order of names, so that two shards
# that want the same names cannot deadlock. ``known`` is what the log has of commands without a key.
TAKE_CLAIMS = f"""
with known as materialized ({LOCATIONS_OF_UNKEYED_COMMANDS}), taken as (
    insert into claims (name, shard, kafka_offset, body_hash)
    select name, shard, kafka_offset, body_hash
    from unnest($2::text[], $3::smallint[], $4::bigint[], $5::bytea[])
        as wanted (name, shard, kafka_offset, body_hash)
    order by name
    on conflict (name) do nothing
    returning name
), taken_with as (
    insert into claims (name, shard, kafka_offset, body_hash)
    select distinct on (name) name, shard, kafka_offset, body_hash
    from unnest($6::text[], $7::smallint[], $8::bigint[], $9::bytea[], $10::text[], $11::uuid[])
        as wanted (name, shard, kafka_offset, body_hash, key, unkeyed)
    where key in (select name from taken)
        or unkeyed is not null and unkeyed not in (select command_id from known)
    order by name, kafka_offset
    on conflict (name) do nothing
    returning name
)
select name, null::uuid as command_id, null::smallint as shard, null::bigint as kafka_offset
from taken
union all select name, null, null, null from taken_with
union all select null, command_id, shard, kafka_offset from known
"""

APPEND_BATCH = """
with moved as (
    update head set position = $5, next_offset = $6, chain = $7, state_digest = $8,
        last_offset = $17, last_epoch = $18, last_digest = $19
    where shard = $1 and epoch = $2 and position = $3 and next_offset = $4
    returning shard, epoch, position, next_offset, chain, state_digest
), appended as (
    insert into events
        (shard, position, instrument, type, version, data, command_id, kafka_offset)
    select
        moved.shard, event.position, event.instrument, event.type, event.version, event.data,
        event.command_id, event.kafka_offset
    from moved, unnest(
        $9::bigint[], $10::text[], $11::text[], $12::smallint[], $13::json[], $14::uuid[],
        $15::bigint[]
    ) as event (position, instrument, type, version, data, command_id, kafka_offset)
), noted as (
    insert into batches (shard, position, epoch, next_offset, chain, state_digest, links)
    select shard, position, epoch, next_offset, chain, state_digest, $16
    from moved
    where position > $3
)
select position from moved
"""


# Only for batches with sampled commands. A projector that is further behind than the events whose
# traces are kept is too late to be part of a trace.
NOTE_TRACES = """
with outdated as (delete from traces where shard = $1 and position < $2)
insert into traces (shard, position, traceparent)
select $1, position, traceparent
from unnest($3::bigint[], $4::text[]) as noted (position, traceparent)
"""


class PostgresBatch:
    """One transaction; it begins with the first claim, and a batch without any is one statement."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        idle: asyncio.Queue[asyncpg.Connection],
        waker: Waker,
    ) -> None:
        self._connection = connection
        self._idle = idle
        self._waker = waker
        self._begun = False

    async def claim(self, claims: Sequence[Claim], *, unkeyed: Sequence[UUID] = ()) -> list[Claim]:
        if not claims:  # nothing to roll back, so no transaction yet
            return await find_unkeyed(self._connection, unkeyed) if unkeyed else []
        with _telling_rows():
            return await self._claim(claims, unkeyed)

    async def append(
        self,
        events: Sequence[StoredEvent],
        *,
        expected: Head,
        head: Head,
        links: bytes,
        traces: Sequence[Trace] = (),
    ) -> None:
        if traces:
            await self._begin()
        with _telling_rows():
            moved = await self._connection.fetch(
                APPEND_BATCH,
                expected.shard,
                expected.epoch,
                expected.position,
                expected.next_offset,
                head.position,
                head.next_offset,
                head.chain,
                head.state_digest,
                *_columns(events),
                links,
                *_last(head),
            )
        if not moved:
            await self.abandon()
            raise StaleWriter(
                f"the head of shard {expected.shard} is no longer at epoch {expected.epoch},"
                f" position {expected.position}: another matcher took over"
            )
        if traces:
            await self._note(traces, expected)
        if self._begun:
            await self._connection.execute("commit")
        if head.position > expected.position:
            self._waker.wake(head.position)
        self._idle.put_nowait(self._connection)

    async def abandon(self) -> None:
        if self._begun:
            await self._connection.execute("rollback")
        self._idle.put_nowait(self._connection)

    async def _claim(self, claims: Sequence[Claim], unkeyed: Sequence[UUID]) -> list[Claim]:
        await self._begin()
        alone = [claim for claim in claims if claim.of is None]
        of_commands = [(claim, claim.of) for claim in claims if claim.of is not None]
        rows = await self._connection.fetch(
            TAKE_CLAIMS,
            unkeyed,
            *_claim_columns(alone),
            *_claim_columns([claim for claim, _ in of_commands]),
            [command_claim(of) if is_keyed(of) else None for _, of in of_commands],
            [None if is_keyed(of) else of for _, of in of_commands],
        )
        known = [unkeyed_claim(*row[1:]) for row in rows if row["command_id"] is not None]
        missed = {claim.name for claim in claims}.difference(row["name"] for row in rows)
        return known + (await read_claims(self._connection, list(missed)) if missed else [])

    async def _begin(self) -> None:
        if not self._begun:
            await self._connection.execute("begin")
            self._begun = True

    async def _note(self, traces: Sequence[Trace], expected: Head) -> None:
        await self._connection.execute(
            NOTE_TRACES,
            expected.shard,
            expected.position - TRACED_EVENTS_MAX,
            [trace.position for trace in traces],
            [trace.traceparent for trace in traces],
        )


def _claim_columns(claims: Sequence[Claim]) -> list[list[Any]]:
    return [
        [claim.name for claim in claims],
        [claim.shard for claim in claims],
        [claim.kafka_offset for claim in claims],
        [claim.body_hash for claim in claims],
    ]


@contextmanager
def _telling_rows() -> Iterator[None]:
    """Tell rows that cannot be stored from a store that fails."""
    try:
        yield
    except (asyncpg.PostgresError, ValueError) as error:  # the driver's, of a value it cannot send
        if isinstance(error, asyncpg.PostgresError) and not _is_of_rows(error):
            raise
        raise UnstorableRows(f"PostgreSQL cannot store the rows: {error}") from error


def _is_of_rows(error: asyncpg.PostgresError) -> bool:
    return (error.sqlstate or "")[:2] in ROW_CLASSES


def _last(head: Head) -> tuple[int | None, int | None, bytes | None]:
    last = head.last
    return (None, None, None) if last is None else (last.offset, last.leader_epoch, last.digest)


def _columns(events: Sequence[StoredEvent]) -> list[list[Any]]:
    if not events:
        return [[] for _ in range(7)]
    columns = zip(
        *(
            (e.position, e.instrument, e.type, e.version, e.data, e.command_id, e.kafka_offset)
            for e in events
        ),
        strict=True,
    )
    return [list(column) for column in columns]
