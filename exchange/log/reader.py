"""Reading the log in Postgres: by position, and by the location or the id of a command.

The projectors read by position (``replay`` reads in large parts). A gateway whose answer was lost
on the way asks by the command's location in Kafka; it trusts no location without the command's id.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct

from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.events import CommandQuarantined
from exchange.domain.values import SHARDS_MAX
from exchange.log.chain import chain_links
from exchange.log.identity import (
    KEYED_COMMAND_ID_VERSION,
    command_claim,
    cycle_command_id,
    is_keyed,
    order_claim,
    placing_command_id,
    retry_command_id,
    unkeyed_claim,
)
from exchange.ports import EMPTY_CHAIN, Claim, LogCorrupt, StoredEvent, TopicLife

EVENTS_CHANNEL: Final = "events"  # NOTIFY after each batch, payload "shard:position"; only a hint

READ_EVENTS_MAX: Final = 8_192  # bounds the memory of one read

# ``data::text``: a connection may have a codec that decodes json, and the text is what was hashed.
READ_EVENTS = """
select shard, position, instrument, type, version, data::text, command_id, kafka_offset
from events
where shard = $1 and position > $2 and position <= $3
order by position
limit $4
"""

# At most $3 events of each location; null is no bound.
READ_EVENTS_AT_LOCATIONS = """
select event.*
from unnest($1::smallint[], $2::bigint[]) as location (shard, kafka_offset)
cross join lateral (
    select shard, position, instrument, type, version, data::text, command_id, kafka_offset
    from events
    where (events.shard, events.kafka_offset) = (location.shard, location.kafka_offset)
    limit $3
) as event
order by event.shard, event.position
"""

# The predicate on the version is what lets the partial index serve this. A log from before such ids
# were looked up may have a command twice: the first one counts.
LOCATIONS_OF_UNKEYED_COMMANDS: Final = """
    select distinct on (command_id) command_id, shard, kafka_offset
    from events
    where command_id = any($1::uuid[]) and substr(command_id::text, 15, 1) = '7'
    order by command_id, shard, position
"""

READ_ORDER_INSTRUMENT = """
select events.instrument, shard, kafka_offset
from claims
join events using (shard, kafka_offset)
where claims.name = $1
order by events.position
limit 1
"""

# The text is searched: parsing every event's JSON costs ten times more.
READ_EVENTS_WITH_TEXT = """
select shard, position, instrument, type, version, data::text, command_id, kafka_offset
from events
where shard = $1 and position > $2 and position <= $3 and strpos(data::text, $4) > 0
order by position
"""

READ_LOG_ID = "select id from log"

READ_HEADS = """
select shard, position, next_offset, offset_base,
    coalesce((select max(first_offset) from topic_lives where shard = head.shard), 0)
        as first_offset
from heads() as head
order by shard
"""

# A writer that is older than the column leaves its predecessor's ``reads`` under a lower epoch; it
# reads the first version of commands, as every writer does.
READ_READABLE = """
select shard, case when reads_epoch = epoch then reads else 1 end as reads
from heads()
"""

READ_RECORDED_CHAIN = """
select position, chain from batches
where shard = $1 and position <= $2
order by position desc
limit 1
"""

READ_REGISTRATIONS = """
select shard, position, instrument, type, version, data::text, command_id, kafka_offset
from events
where shard = $1 and position <= $2 and type = 'InstrumentRegistered'
order by position
"""

READ_TRACES = """
select position, traceparent from traces where shard = $1 and position > $2 and position <= $3
"""

# ``recorded_at``, not the time in the data, so that events of a version unknown here have a time
# too.
READ_EVENT_TIMES = """
select shard, position, (extract(epoch from recorded_at) * 1000)::bigint as time_ms
from events
join unnest($1::smallint[], $2::bigint[]) as asked (shard, position) using (shard, position)
"""

_PLACINGS: Final = ", ".join(
    f"'{command_claim(placing_command_id(shard))}'" for shard in range(1, SHARDS_MAX)
)

# The claim of ``retry_command_id(0, kafka_offset)``, so that one statement can follow retries.
_RETRY_CLAIM: Final = f"""
    'command:' || encode(set_byte(set_byte(
        hash, 6, get_byte(hash, 6) & 15 | {KEYED_COMMAND_ID_VERSION << 4}),
        8, get_byte(hash, 8) & 63 | 128), 'hex')
"""
_RETRY_HASH: Final = """
    substr(sha256(decode('726574727900', 'hex') || '0' || decode('00', 'hex')
        || convert_to(tried.kafka_offset::text, 'UTF8')), 1, 16)
"""

# The shards that were added after the first cycle began, and the first cycle of each. Events have
# no index by type, so they are found by the claims of the commands that placed them, and by the
# claims of retries where such a command was quarantined.
PLACED_SHARDS: Final = f"""
    with recursive tried (kafka_offset) as (
        select kafka_offset from claims where name in ({_PLACINGS}) and shard = 0
        union
        select claims.kafka_offset
        from tried
        join events on events.shard = 0 and events.kafka_offset = tried.kafka_offset
            and events.type = 'CommandQuarantined'
        cross join lateral (select {_RETRY_HASH} as hash) as hashed
        join claims on claims.shard = 0 and claims.name = {_RETRY_CLAIM}
    )
    select (data->>'shard')::smallint as shard, (data->>'cycle')::integer as cycle,
        events.position as placed_at
    from tried join events using (kafka_offset)
    where events.shard = 0 and type = 'ShardPlaced'
"""

READ_LIFE_AT = """
select first_offset, topic_id, offset_base from topic_lives
where shard = $1 and first_offset <= $2
order by first_offset desc
limit 1
"""

READ_CLAIMS = """
select name, shard, kafka_offset, body_hash from claims where name = any($1::text[])
"""


class LocatedCommand(Struct, frozen=True):
    """A command in Kafka whose outcome is to be found in the log."""

    shard: int
    offset: int
    command_id: UUID
    body_hash: bytes


class FoundOutcome(Struct, frozen=True):
    """What the log says of a command: its events, or the earlier command that holds its key.

    ``first`` is the location of that earlier command, and ``conflict`` says that it asked something
    else. ``too_many`` says that there are more events than were asked for, so ``events`` is empty.
    ``displaced`` says that the location is in a former life of the topic and the log does not have
    the command: it is lost, unless Kafka has it at a later location.
    """

    events: list[StoredEvent]
    first: tuple[int, int] | None = None
    conflict: bool = False
    too_many: bool = False
    displaced: bool = False


async def read_events(
    connection: asyncpg.Connection, shard: int, *, after: int, up_to: int, limit: int
) -> list[StoredEvent]:
    """Return at most ``limit`` events of a shard with positions above ``after``, in order."""
    rows = await connection.fetch(READ_EVENTS, shard, after, up_to, limit)
    return _stored(rows)


async def read_every_event(
    connection: asyncpg.Connection, shard: int, *, after: int, up_to: int
) -> list[StoredEvent]:
    """Return all events of a shard above ``after`` up to ``up_to``.

    Raises:
        LogCorrupt: One of them is missing.
    """
    count = up_to - after
    events = await read_events(connection, shard, after=after, up_to=up_to, limit=count)
    if len(events) != count:
        raise LogCorrupt(f"shard {shard}: an event soon after position {after} is missing")
    return events


async def read_registrations(
    connection: asyncpg.Connection, shard: int, *, up_to: int
) -> list[StoredEvent]:
    """Return the events up to a position that registered a shard's instruments.

    Events have no index by type, so all up to there are looked at.
    """
    return _stored(await connection.fetch(READ_REGISTRATIONS, shard, up_to))


async def read_recorded_chain(
    connection: asyncpg.Connection, shard: int, up_to: int
) -> tuple[int, bytes]:
    """Return the last position up to ``up_to`` at which a batch ended, and its hash chain."""
    row = await connection.fetchrow(READ_RECORDED_CHAIN, shard, up_to)
    return (0, EMPTY_CHAIN) if row is None else (row["position"], row["chain"])


async def read_chain(connection: asyncpg.Connection, shard: int, at: int) -> bytes:
    """Return the hash chain after the event at a position, which the log must have.

    Raises:
        LogCorrupt: An event before it is missing.
    """
    position, chain = await read_recorded_chain(connection, shard, at)
    while position < at:  # within a batch
        end = min(at, position + READ_EVENTS_MAX)
        events = await read_every_event(connection, shard, after=position, up_to=end)
        position, chain = end, chain_links(chain, events)[-1]
    return chain


async def read_events_with_text(
    connection: asyncpg.Connection, shard: int, text: str, *, after: int, up_to: int
) -> list[StoredEvent]:
    """Return the events of a shard above ``after`` up to ``up_to`` whose JSON contains ``text``."""
    return _stored(await connection.fetch(READ_EVENTS_WITH_TEXT, shard, after, up_to, text))


async def read_heads(connection: asyncpg.Connection) -> dict[int, int]:
    """Return each shard's head: the position of its last event."""
    return {row["shard"]: row["position"] for row in await connection.fetch(READ_HEADS)}


async def read_log_id(connection: asyncpg.Connection) -> str | None:
    """Return the log's id, which its first matcher gives it; None before that."""
    log_id: str | None = await connection.fetchval(READ_LOG_ID)
    return log_id


async def read_placed_shards(
    connection: asyncpg.Connection, *, up_to: int | None = None
) -> dict[int, int]:
    """Return the shards that were added, each with the first cycle that it takes part in.

    With ``up_to``, only those that shard 0 had placed at that position.
    """
    return {
        row["shard"]: row["cycle"]
        for row in await connection.fetch(PLACED_SHARDS)
        if up_to is None or row["placed_at"] <= up_to
    }


async def has_begun(connection: asyncpg.Connection, shard: int) -> bool:
    """Tell whether a shard has its first record, or needs none since no cycle was ever closed."""
    if (await read_heads(connection)).get(shard):
        return True
    return not await read_claims(connection, [command_claim(cycle_command_id(0, FIRST_CYCLE))])


async def read_traces(
    connection: asyncpg.Connection, shard: int, *, after: int, up_to: int
) -> dict[int, str]:
    """Return the contexts of a shard's sampled commands by the position of their first events."""
    rows = await connection.fetch(READ_TRACES, shard, after, up_to)
    return {row["position"]: row["traceparent"] for row in rows}


async def read_event_times(
    connection: asyncpg.Connection, asked: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """Return when events were recorded, in milliseconds since the epoch, by shard and position."""
    shards, positions = [shard for shard, _ in asked], [position for _, position in asked]
    rows = await connection.fetch(READ_EVENT_TIMES, shards, positions)
    return {(row["shard"], row["position"]): row["time_ms"] for row in rows}


async def read_next_offsets(connection: asyncpg.Connection) -> dict[int, int]:
    """Return the first Kafka offset of each shard that is not yet decided."""
    return {row["shard"]: row["next_offset"] for row in await connection.fetch(READ_HEADS)}


async def read_readable(connection: asyncpg.Connection) -> dict[int, int]:
    """Return the latest version of commands that each shard's writer reads."""
    return {row["shard"]: row["reads"] for row in await connection.fetch(READ_READABLE)}


class Progress(Struct, frozen=True):
    """The first offset of a shard that is not decided, and where its topic's present life began.

    An offset of the log is ``offset_base`` plus the offset in Kafka. In the present life of the
    topic no command is below ``first_offset``.
    """

    next_offset: int = 0
    offset_base: int = 0
    first_offset: int = 0


NOTHING_DECIDED: Final = Progress()


async def read_progress(connection: asyncpg.Connection) -> dict[int, Progress]:
    """Return how far each shard's commands are decided."""
    rows = await connection.fetch(READ_HEADS)
    return {
        row["shard"]: Progress(row["next_offset"], row["offset_base"], row["first_offset"])
        for row in rows
    }


async def read_events_at(
    connection: asyncpg.Connection, shard: int, offset: int, *, limit: int | None = None
) -> list[StoredEvent]:
    """Return the events of the command at a Kafka offset; any ``limit`` if there are more."""
    return _stored(await connection.fetch(READ_EVENTS_AT_LOCATIONS, [shard], [offset], limit))


async def read_events_of(
    connection: asyncpg.Connection, locations: Sequence[tuple[int, int]], *, limit: int
) -> dict[tuple[int, int], list[StoredEvent]]:
    """Return the events of the commands at some locations (shard and Kafka offset).

    Of a command with more than ``limit`` events any ``limit`` of them are there.
    """
    shards, offsets = [shard for shard, _ in locations], [offset for _, offset in locations]
    found: dict[tuple[int, int], list[StoredEvent]] = {}
    for stored in _stored(await connection.fetch(READ_EVENTS_AT_LOCATIONS, shards, offsets, limit)):
        found.setdefault((stored.shard, stored.kafka_offset), []).append(stored)
    return found


async def read_claims(connection: asyncpg.Connection, names: Sequence[str]) -> list[Claim]:
    """Return the claims of those of ``names`` that are taken."""
    return [Claim(**row) for row in await connection.fetch(READ_CLAIMS, names)]


async def find_outcomes(
    connection: asyncpg.Connection,
    commands: Iterable[LocatedCommand],
    *,
    events_max: int | None = None,
) -> dict[tuple[int, int], FoundOutcome]:
    """Look up what became of commands; those that are not decided yet are left out.

    The outcome of a command with more than ``events_max`` events is ``too_many``.

    A location alone is not trusted: a topic that was recreated uses its offsets again, so the
    events there must be of this command.

    Returns:
        The outcomes by shard and offset.
    """
    # The head first: what it counts as decided is visible to every later statement.
    progress = await read_progress(connection)
    decided = [c for c in commands if c.offset < _of(progress, c.shard).next_offset]
    if not decided:
        return {}
    rows = await connection.fetch(
        READ_EVENTS_AT_LOCATIONS,
        [c.shard for c in decided],
        [c.offset for c in decided],
        None if events_max is None else events_max + 1,
    )
    asked = {(c.shard, c.offset): c.command_id for c in decided}
    found: dict[tuple[int, int], FoundOutcome] = {}
    for stored in _stored(rows):
        location = (stored.shard, stored.kafka_offset)
        if stored.command_id == asked[location]:
            found.setdefault(location, FoundOutcome([])).events.append(stored)
    if events_max is not None:
        found = {location: _told_in(outcome, events_max) for location, outcome in found.items()}
    silent = [c for c in decided if (c.shard, c.offset) not in found]
    found |= await _find_resent(connection, silent)
    displaced = [c for c in silent if c.offset < _of(progress, c.shard).first_offset]
    nowhere = {(c.shard, c.offset): FoundOutcome([], displaced=True) for c in displaced}
    return nowhere | found


async def find_command(
    connection: asyncpg.Connection, command_id: UUID, *, limit: int | None = None
) -> list[StoredEvent]:
    """Return the events that a command caused, none if the log does not know it.

    If there are more than ``limit``, any ``limit`` of them.
    """
    if is_keyed(command_id):
        claims = await read_claims(connection, [command_claim(command_id)])
    else:
        claims = await find_unkeyed(connection, [command_id])
    if not claims:
        return []
    first = (claims[0].shard, claims[0].kafka_offset)
    stored = await read_events_at(connection, *first, limit=limit)
    return await follow_retries(connection, stored, limit=limit)


async def follow_retries(
    connection: asyncpg.Connection, stored: list[StoredEvent], *, limit: int | None = None
) -> list[StoredEvent]:
    """Return the events of a quarantined command's retry, which may have been retried itself.

    The retry's id is a hash of the quarantined record's location, so the retry's claim is found
    from there. Any other command's events are returned as they are.
    """
    while stored and stored[0].type == CommandQuarantined.__name__:
        command_id = retry_command_id(stored[0].shard, stored[0].kafka_offset)
        claims = await read_claims(connection, [command_claim(command_id)])
        if not claims:
            return stored
        first = (claims[0].shard, claims[0].kafka_offset)
        retried = await read_events_at(connection, *first, limit=limit)
        if not retried:  # claimed, and not decided yet
            return stored
        stored = retried
    return stored


async def read_life_at(connection: asyncpg.Connection, shard: int, offset: int) -> TopicLife | None:
    """Return the life of the topic that an offset of the log belongs to."""
    row = await connection.fetchrow(READ_LIFE_AT, shard, offset)
    return None if row is None else TopicLife(**row)


async def find_unkeyed(connection: asyncpg.Connection, command_ids: Sequence[UUID]) -> list[Claim]:
    """Return the locations of those commands without a key that the log has, as claims."""
    rows = await connection.fetch(LOCATIONS_OF_UNKEYED_COMMANDS, command_ids)
    return [unkeyed_claim(*row) for row in rows]


async def find_order_instrument(connection: asyncpg.Connection, order_id: str) -> str | None:
    """Return the instrument of an order by an id that a client chose; None if no client did."""
    row = await connection.fetchrow(READ_ORDER_INSTRUMENT, order_claim(order_id))
    if row is None or row["instrument"] is not None:
        return None if row is None else str(row["instrument"])
    stored = await read_events_at(connection, row["shard"], row["kafka_offset"])
    return (await follow_retries(connection, stored))[0].instrument


async def _find_resent(
    connection: asyncpg.Connection, commands: Sequence[LocatedCommand]
) -> dict[tuple[int, int], FoundOutcome]:
    if not commands:
        return {}
    names = [command_claim(c.command_id) for c in commands if is_keyed(c.command_id)]
    unkeyed = [c.command_id for c in commands if not is_keyed(c.command_id)]
    claims = await read_claims(connection, names) if names else []
    claims += await find_unkeyed(connection, unkeyed) if unkeyed else []
    holders = {claim.name: claim for claim in claims}
    return {
        (c.shard, c.offset): FoundOutcome(
            [],
            first=(holder.shard, holder.kafka_offset),
            conflict=holder.conflicts_with(c.body_hash),
        )
        for c in commands
        if (holder := holders.get(command_claim(c.command_id))) is not None
    }


def _of(progress: Mapping[int, Progress], shard: int) -> Progress:
    return progress.get(shard, NOTHING_DECIDED)


def _stored(rows: Iterable[asyncpg.Record]) -> list[StoredEvent]:
    return [StoredEvent(*row) for row in rows]


def _told_in(outcome: FoundOutcome, events_max: int) -> FoundOutcome:
    return outcome if len(outcome.events) <= events_max else FoundOutcome([], too_many=True)
