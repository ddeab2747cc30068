"""What stream subscribers receive, in Redis: a copy of the log's newest events.

There is one Redis stream per generation and shard. The id of an entry is the position of its event,
so an event cannot be written twice, and a reader can go on from any position. Positions have no
gaps, so a reader sees at once that an entry is not here (any more), and reads it from the log. The
feed only spares the database: a stream is complete without it.
"""

from contextlib import suppress
from typing import Any, Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.values import Offset, Position, Shard
from exchange.log.events import (
    DecidedEvent,
    UnknownEvent,
    decode_event_data,
    encode_event_data,
    event_version,
    load_event,
)
from exchange.ports import StoredEvent
from exchange.telemetry import tracing
from projections.folding import Row
from projections.stores.batches import Batch
from projections.stores.checkpoints import Live
from projections.stores.queries import Queries
from projections.stores.redis import (
    MOVE,
    RedisProjection,
    cannot_read,
    checkpoint_key,
    script,
    tag,
)

NAME = "feed"
VERSION: Final = 1  # of the rules
QUERIES: Final = Queries(NAME, VERSION)

FEED_EVENTS_MAX: Final = 50_000  # some 20 MB a shard, and a dozen seconds at full load
# Subscribers wait for each trade. Half of this goes by before one is read, on average.
FEED_PACE_MS: Final = 20
READ_EVENTS_MAX: Final = 1_000  # decoding 1,000 events takes some milliseconds

# The entry of an event that is passed over; readers end before it, and find it in the log.
SKIPPED: Final[Row] = (b"", b"", 0, 0)

# KEYS: the checkpoint, the stream. ARGV: after, position, time_ms, how many entries are kept, then
# each event's data, command, Kafka offset and version; the first is at after + 1.
APPLY = (
    MOVE
    + """
if #ARGV % 4 ~= 0 or (#ARGV - 4) / 4 ~= ARGV[2] - ARGV[1] then
    return redis.error_reply('MALFORMED feed batch')
end
redis.call('HSET', KEYS[1], 'position', ARGV[2], 'time_ms', ARGV[3])
local position = tonumber(ARGV[1])
for at = 5, #ARGV, 4 do
    position = position + 1
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], string.format('%d-0', position),
        'e', ARGV[at], 'c', ARGV[at + 1], 'o', ARGV[at + 2], 'v', ARGV[at + 3])
end
return 1
"""
)


@QUERIES.query
async def read_traces(redis: Redis, live: Live, shard: int, *, after: int, up_to: int) -> list[str]:
    """Return the trace contexts in which sampled events up to a position were written."""
    try:
        found = await cast(
            "Any", redis.zrangebyscore(traces_key(live.generation, shard), f"({after}", up_to)
        )
    except RedisError as error:
        raise cannot_read(NAME, error) from error
    return [text.decode() for text in found]


@QUERIES.query
async def read_feed(
    redis: Redis, live: Live, shard: int, after: int, *, block_ms: int | None
) -> list[DecidedEvent]:
    """Return the next events of a shard above ``after`` that the feed has, in order.

    The first event is at ``after + 1``, or later if the feed no longer has that position. The
    events end before one that a newer version of the software wrote, which a reader finds in the
    log.

    Args:
        redis: A client; one of its connections is taken while this waits.
        live: The generation to read.
        shard: The shard whose events are read.
        after: The position of the last event that the reader has.
        block_ms: How long to wait for the first event; None does not wait.

    Raises:
        ReadModelUnavailable: Redis is away.
    """
    key = stream_key(live.generation, shard)
    try:
        found = await cast(
            "Any", redis.xread({key: f"{after}-0"}, count=READ_EVENTS_MAX, block=block_ms)
        )
    except RedisError as error:
        raise cannot_read(NAME, error) from error
    events: list[DecidedEvent] = []
    with suppress(UnknownEvent):
        for entry, fields in _entries(found):
            events.append(_event(shard, entry, fields))
    return events


def traces_key(generation: int, shard: int) -> str:
    """Return the key of the traces of a shard's newest entries."""
    return f"{tag(NAME, generation, shard)}:traces"


def stream_key(generation: int, shard: int) -> str:
    """Return the key of a shard's Redis stream."""
    return f"{tag(NAME, generation, shard)}:events"


async def feed_entries(
    redis: Redis, generation: int, shard: int, *, after: int | None, up_to: int
) -> list[tuple[int, Row]]:
    """Return the next entries that the feed has up to a position, each with its position."""
    first = "-" if after is None else f"({after}-0"
    found = await cast(
        "Any",
        redis.xrange(
            stream_key(generation, shard), min=first, max=f"{up_to}-0", count=READ_EVENTS_MAX
        ),
    )
    return [
        (
            int(entry.partition(b"-")[0]),
            (fields[b"e"], fields[b"c"], int(fields[b"o"]), int(fields.get(b"v", 1))),
        )
        for entry, fields in found
    ]


async def first_entry(redis: Redis, generation: int, shard: int) -> int | None:
    """Return the position of the oldest entry that the feed has, None if it has none."""
    found = await cast("Any", redis.xrange(stream_key(generation, shard), count=1))
    return int(found[0][0].partition(b"-")[0]) if found else None


def feed_entry(stored: StoredEvent) -> Row:
    """Return the entry of an event of the log."""
    data, command_id, offset, version = _entry(load_event(stored))
    return data, command_id, offset, version


async def write(redis: Redis, generation: int, batch: Batch) -> bool:
    """Write a batch if the checkpoint is the position before it; tell whether it was."""
    traceparent = tracing.current()
    if traceparent is not None:
        await _note_trace(redis, traces_key(generation, batch.shard), traceparent, batch.up_to)
    keys = [checkpoint_key(NAME, generation, batch.shard), stream_key(generation, batch.shard)]
    arguments: list[Any] = [batch.after, batch.up_to, batch.time_ms, FEED_EVENTS_MAX]
    events: dict[int, DecidedEvent] = {one.position: one for one in batch.events}
    for position in range(batch.after + 1, batch.up_to + 1):
        arguments += _entry(events[position]) if position in events else SKIPPED
    return bool(await script(redis, APPLY)(keys=keys, args=arguments))


def feed_projection(engine: AsyncEngine, redis: Redis) -> RedisProjection:
    """Return the projection that keeps the feed up to date."""
    return RedisProjection(
        engine,
        redis,
        NAME,
        write,
        VERSION,
        events_max=FEED_EVENTS_MAX,
        pace_ms_max=FEED_PACE_MS,
    )


async def _note_trace(redis: Redis, key: str, traceparent: str, position: int) -> None:
    """Note the trace in which the events up to ``position`` are written, before they are seen."""
    async with redis.pipeline(transaction=False) as asked:
        asked.zadd(key, {traceparent: position})
        asked.zremrangebyscore(key, 0, position - FEED_EVENTS_MAX)
        await asked.execute()


def _entry(decided: DecidedEvent) -> tuple[int | bytes, ...]:
    event = decided.event
    return (
        encode_event_data(event),
        decided.command_id.bytes,
        decided.kafka_offset,
        event_version(event),
    )


def _entries(found: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries of an answer to XREAD, whose form depends on the protocol (RESP2 or 3)."""
    if not found:
        return []
    entries = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
    # RESP3 wraps the entries of each stream once more.
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _event(shard: int, entry: bytes, fields: dict[bytes, bytes]) -> DecidedEvent:
    return DecidedEvent(
        Shard(shard),
        Position(int(entry.partition(b"-")[0])),
        decode_event_data(fields[b"e"], int(fields.get(b"v", 1))),  # older entries have no version
        UUID(bytes=fields[b"c"]),
        Offset(int(fields[b"o"])),
    )
