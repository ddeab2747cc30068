"""Replaying the log in Postgres: in large parts, decoded at once.

A matcher that restores reads so, and whoever builds a read model or compares one with the log. The
server prepares the next part while the caller works on one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Set
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.domain.events import Event
from exchange.log.events import (
    UPCASTERS,
    UnknownEvent,
    decode_event,
    decode_event_lines,
    lift_event_data,
)
from exchange.log.reader import read_events
from exchange.ports import LogCorrupt, StoredEvent
from exchange.waiting import retrieve_error

PART_EVENTS: Final = 1_000  # bounds the memory of one read; larger ones are no faster
ID_BYTES: Final = 16

# Many events as one text, a line for each: as rows they would cost a replay more than all else. The
# aggregate keeps the order of the inner query; ordering the lines again would take a third of the
# time. Position, type and version are returned only for events that may not have the present form.
_LINES: Final = """
select
    count(*) as events, max(position) as position,
    array_agg(position) filter (where versioned) as positions,
    array_agg(type) filter (where versioned) as types,
    array_agg(version) filter (where versioned) as versions,
    string_agg(json_send(data), '\\x0a'::bytea) as lines{more}
from (
    select position, type, version, version <> 1 or type = any($5::text[]) as versioned, data,
        command_id
    from events
    where shard = $1 and position > $2 and position <= $3
    order by position
    limit $4
) as part
"""
READ_LINES: Final = _LINES.format(more="")
READ_LINES_AND_IDS: Final = _LINES.format(
    more=", string_agg(uuid_send(command_id), ''::bytea) as command_ids"
)


class Part(Struct, frozen=True):
    """Consecutive events; ``first`` is the position of the first.

    ``command_ids`` has 16 bytes for each event, if they were asked for.
    """

    first: int
    events: list[Event]
    command_ids: bytes = b""


class Undecodable(UnknownEvent):
    """An event that cannot be decoded; it is at ``position`` of ``shard``."""

    def __init__(self, stored: StoredEvent, error: UnknownEvent) -> None:
        super().__init__(str(error))
        self.shard, self.position = stored.shard, stored.position


async def replay(
    connection: asyncpg.Connection, shard: int, *, after: int, up_to: int
) -> AsyncIterator[list[Event]]:
    """Yield the events after position ``after`` up to ``up_to``, a list at a time.

    Raises:
        LogCorrupt: An event between the two is missing.
        Undecodable: One was written by another version of the software.
    """
    async for part in replay_parts(connection, shard, after=after, up_to=up_to):
        yield part.events


async def replay_parts(
    connection: asyncpg.Connection,
    shard: int,
    *,
    after: int,
    up_to: int,
    with_ids: bool = False,
    skips: Set[int] = frozenset(),
) -> AsyncIterator[Part]:
    """Yield the events after position ``after`` up to ``up_to``, without those at ``skips``.

    Raises:
        LogCorrupt: An event between the two is missing.
        Undecodable: One was written by another version of the software.
    """
    statement = READ_LINES_AND_IDS if with_ids else READ_LINES

    def ask() -> asyncio.Task[asyncpg.Record]:
        asked = asyncio.create_task(
            connection.fetchrow(statement, shard, after, up_to, PART_EVENTS, list(UPCASTERS))
        )
        asked.add_done_callback(retrieve_error)  # the caller may have given up by then
        return asked

    if after >= up_to:
        return
    ahead = ask()
    while after < up_to:
        read, begin = await ahead, after
        if read["position"] is None or read["position"] - begin != read["events"]:
            raise LogCorrupt(f"shard {shard}: an event soon after position {begin} is missing")
        after = read["position"]
        if after < up_to:
            ahead = ask()
            await asyncio.sleep(0)  # so that the request is sent
        ids = read["command_ids"] if with_ids else b""
        events = _decoded(read, begin)
        if events is not None and not skips:  # as nearly always
            yield Part(begin + 1, events, ids)
            continue
        if events is None:
            await asyncio.wait({ahead})  # a connection does one thing at a time
            readable = await _decoded_singly(connection, shard, begin, after, skips)
        else:
            readable = [*events]
        for part in _without(readable, begin + 1, ids, skips):
            yield part


def _decoded(read: asyncpg.Record, begin: int) -> list[Event] | None:
    """Return a part's events; None if one cannot be read, for the caller to name it."""
    lines = read["lines"] if read["positions"] is None else _lifted(read, begin)
    if lines is None:
        return None
    try:
        return decode_event_lines(lines)
    except ValueError:
        return None


async def _decoded_singly(
    connection: asyncpg.Connection, shard: int, after: int, up_to: int, skips: Set[int]
) -> list[Event | None]:
    """Return events that were decoded one by one, None for those at ``skips``.

    Raises:
        Undecodable: One was written by another version of the software.
    """
    stored = await read_events(connection, shard, after=after, up_to=up_to, limit=PART_EVENTS)
    return [None if one.position in skips else _decode(one) for one in stored]


def _decode(stored: StoredEvent) -> Event:
    try:
        return decode_event(stored)
    except UnknownEvent as error:
        raise Undecodable(stored, error) from error


def _without(events: list[Event | None], first: int, ids: bytes, skips: Set[int]) -> Iterator[Part]:
    """Yield events as parts without those at ``skips``; nearly always one part."""
    begin = 0
    for skip in sorted(skip - first for skip in skips if 0 <= skip - first < len(events)):
        if skip > begin:
            yield _part(events, begin, skip, first, ids)
        begin = skip + 1
    if begin < len(events):
        yield _part(events, begin, len(events), first, ids)


def _part(events: list[Event | None], begin: int, end: int, first: int, ids: bytes) -> Part:
    some = [event for event in events[begin:end] if event is not None]
    return Part(first + begin, some, ids[begin * ID_BYTES : end * ID_BYTES])


def _lifted(read: asyncpg.Record, begin: int) -> bytes | None:
    """Return a part's lines in their present form, None if a version is not known."""
    lines: list[bytes] = read["lines"].split(b"\n")
    if len(lines) != read["events"]:
        return None
    for position, name, version in zip(
        read["positions"], read["types"], read["versions"], strict=True
    ):
        at = position - begin - 1
        lifted = lift_event_data(name, version, lines[at].decode())
        if lifted is None:
            return None
        lines[at] = lifted.encode()
    return b"\n".join(lines)
