"""Appending a batch: its events, the head and its mark in ``batches``, as one.

Read ``APPEND_BATCH``: one statement moves the head by compare-and-set and appends the
events only if it moved. It is the fence that no paused or duplicated writer passes.
Positions come from the writer, not from a sequence, so they have no gaps and become
visible in order.
"""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from exchange.log.writing.rows import telling_rows
from exchange.ports import Head, StaleWriter, StoredEvent, Trace

TRACED_EVENTS_MAX: Final = 100_000  # newest events of which traces are kept

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


async def append_batch(
    connection: asyncpg.Connection,
    events: Sequence[StoredEvent],
    *,
    expected: Head,
    head: Head,
    links: bytes,
    traces: Sequence[Trace] = (),
) -> None:
    """Append a batch durably, as ``EventStore.append`` says."""
    with telling_rows():
        if traces:
            async with connection.transaction():
                await _append(connection, events, expected, head, links)
                await _note(connection, traces, expected)
        else:
            await _append(connection, events, expected, head, links)


async def _append(
    connection: asyncpg.Connection,
    events: Sequence[StoredEvent],
    expected: Head,
    head: Head,
    links: bytes,
) -> None:
    moved = await connection.fetch(
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
        raise StaleWriter(
            f"the head of shard {expected.shard} is no longer at epoch {expected.epoch},"
            f" position {expected.position}: another matcher took over"
        )


async def _note(connection: asyncpg.Connection, traces: Sequence[Trace], expected: Head) -> None:
    await connection.execute(
        NOTE_TRACES,
        expected.shard,
        expected.position - TRACED_EVENTS_MAX,
        [trace.position for trace in traces],
        [trace.traceparent for trace in traces],
    )


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
