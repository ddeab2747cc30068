"""A projection in Redis: its checkpoint, how a batch moves it, and how the model is filled again.

Read ``RedisProjection``. All keys of a generation and shard share a hash tag, so one script changes
them together: it compares the checkpoint, and writes only if it is the expected one (``MOVE`` is
how such a script begins).

Redis may come back empty at any time. If the checkpoint is missing, the model is filled again. The
new checkpoint has a ``target``, the log's head at that time, and readers find the model unavailable
until it has reached the target. The checkpoint also names its log, so a model of another database's
log is never continued. Redis may lose all keys, but must not evict single ones: keep its policy
``noeviction``.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, cast

import asyncpg
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import Event
from exchange.log.schema import HEAD, LOG
from projections.folding import Fold, Row
from projections.stores.batches import Batch
from projections.stores.checkpoints import ReadModelStale, ReadModelUnavailable
from projections.stores.fingerprints import fingerprint
from projections.stores.waits import PositionWaits

logger = logging.getLogger(__name__)

# KEYS: the checkpoint. ARGV: the log and position that were found there ('' for none), the log's
# id, the position to begin after, the head's position, the pattern of all keys of the shard. The
# answer is the position to go on from. If two projectors found the same checkpoint, only one of
# them deletes the model and begins again, in one step. The script uses SCAN because many servers
# allow KEYS to operators only.
START = """#!lua
local stored = redis.call('HMGET', KEYS[1], 'log', 'position')
if (stored[1] or '') ~= ARGV[1] or (stored[2] or '') ~= ARGV[2] then
    return stored[2] or '0'
end
local cursor, found = '0', {}
repeat
    local part = redis.call('SCAN', cursor, 'MATCH', ARGV[6], 'COUNT', 1000)
    cursor = part[1]
    for _, key in ipairs(part[2]) do
        found[#found + 1] = key
    end
until cursor == '0'
for _, key in ipairs(found) do
    redis.call('UNLINK', key)
end
redis.call('HSET', KEYS[1], 'log', ARGV[3], 'position', ARGV[4], 'target', ARGV[5], 'time_ms', '0')
return ARGV[4]
"""

# The beginning of a script that applies a batch. KEYS[1]: the checkpoint. ARGV: after, position,
# time_ms. An error that begins with MALFORMED blames the batch (see ``failures``); any other error
# is Redis' own.
MOVE: Final = """#!lua
local function amount(text, digits_max)
    return text ~= nil and #text <= digits_max and string.match(text, '^%d+$') ~= nil
end
local checkpoint = redis.call('HMGET', KEYS[1], 'position', 'held_ms')
if checkpoint[1] ~= ARGV[1] then
    return 0
end
if checkpoint[2] then
    local now = redis.call('TIME')
    if now[1] * 1000 + now[2] / 1000 < tonumber(checkpoint[2]) then
        return 0
    end
end
if not (amount(ARGV[2], 19) and amount(ARGV[3], 19)) then
    return redis.error_reply('MALFORMED batch')
end
"""

# KEYS: the checkpoint. ARGV: for how many milliseconds the model is held, so that a switch that
# died holds nothing. The answer is the checkpoint's position and target.
HOLD: Final = """#!lua
local found = redis.call('HMGET', KEYS[1], 'position', 'target')
if found[1] then
    local now = redis.call('TIME')
    local until_ms = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
    redis.call('HSET', KEYS[1], 'held_ms', string.format('%.0f', until_ms))
end
return found
"""

# KEYS: the checkpoint, the mark of ``begin_filling``. ARGV: the log's id, position, time_ms. If the
# mark is lost, so are rows that were written after it.
END_FILLING: Final = """#!lua
if redis.call('DEL', KEYS[2]) == 0 then
    return 0
end
redis.call('HSET', KEYS[1], 'log', ARGV[1], 'position', ARGV[2], 'target', ARGV[2],
    'time_ms', ARGV[3])
return 1
"""

HOLD_MS: Final = 2_000  # a switch takes half of it at most

READ_LOG = select(select(LOG.c.id).scalar_subquery().label("id"), HEAD.c.position)


Write = Callable[[Redis, int, Batch], Awaitable[bool]]
"""Writes a batch to a generation if its checkpoint is the position before the batch.

Returns whether the checkpoint was there; if not, nothing changed.
"""


@dataclass(frozen=True, slots=True)
class KeptRows:
    """How all rows of a model on a shard are written and read at once.

    A row has ``columns``; the first ``key_columns`` of them, shard and instrument among them, are
    its key. ``key_of`` returns the key after the shard of the row that an event changes, if it
    changes one.
    """

    columns: tuple[str, ...]
    key_columns: int
    fill: Callable[[Redis, int, int, Sequence[Row]], Awaitable[None]]
    """Writes rows to the keys of a generation and shard that nobody reads yet."""
    read: Callable[[Redis, int, int, Sequence[str]], Awaitable[tuple[int, list[Row]]]]
    """Returns a generation's position on a shard and its rows, all of one moment.

    It is told which instruments there may be, beyond those of which there are keys.
    """
    key_of: Callable[[Event], Row | None]


@dataclass(frozen=True, slots=True)
class RedisProjection:
    """A read model in Redis.

    A model that is filled again begins with the newest ``events_max`` events, or with all of them.
    ``engine`` is asked for the log's head then. ``version`` is that of its rules, which ``write``
    and ``fold`` share; a model that only hands on events has neither a fold nor ``rows``.
    ``pace_ms_max`` bounds the follower's pace where readers wait for each event.
    """

    engine: AsyncEngine
    redis: Redis
    name: str
    write: Write
    version: int
    fold: type[Fold] | None = None
    needs_command_ids: bool = False
    events_max: int | None = None
    rows: KeptRows | None = None
    tables: tuple[Table, ...] = ()
    pace_ms_max: int | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.version, self.tables)

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from; a missing model begins again."""
        key = checkpoint_key(self.name, generation, shard)
        stored = await cast("Any", self.redis.hmget(key, ["log", "position"]))
        found_log, found_position = (_text(value) for value in stored)
        # The head is read after the checkpoint. So a checkpoint beyond the head is of another log,
        # even while another projector moves it.
        log, head = await _read_log(self.engine, shard)
        if found_log == log and found_position and int(found_position) <= head:
            return int(found_position)
        begin = 0 if self.events_max is None else max(0, head - self.events_max)
        fields = {"projection": self.name, "shard": shard, "after": begin, "target": head}
        logger.warning("Filling a model in Redis again", extra=fields)
        pattern = f"{tag(self.name, generation, shard)}:*"
        arguments: list[str | int] = [found_log, found_position, log, begin, head, pattern]
        return int(await script(self.redis, START)(keys=[key], args=arguments))

    async def reached(self, generation: int, shards: Sequence[int]) -> dict[int, int]:
        """Return the model's position by shard, without shards on which it is not complete."""
        return await reached_model(self.redis, self.name, generation, shards)

    async def apply(self, generation: int, batch: Batch) -> bool:
        """Apply a batch if the checkpoint is the position before it.

        Returns:
            Whether the checkpoint was there. If not, nothing changed.
        """
        return await self.write(self.redis, generation, batch)

    async def hold(
        self,
        connection: asyncpg.Connection,  # noqa: ARG002
        generation: int,
        shards: Sequence[int],
    ) -> dict[int, int]:
        """Keep a generation at its positions, and return them, until it is released."""
        held: dict[int, int] = {}
        for shard in shards:
            key = checkpoint_key(self.name, generation, shard)
            found = await script(self.redis, HOLD)(keys=[key], args=[HOLD_MS])
            position = complete_position(*found)
            if position is not None:
                held[shard] = position
        return held

    async def release(self, generation: int, shards: Sequence[int]) -> None:
        """Let a held generation go on; a hold that is forgotten ends by itself."""
        for shard in shards:
            await cast(
                "Any", self.redis.hdel(checkpoint_key(self.name, generation, shard), "held_ms")
            )


async def begin_filling(redis: Redis, name: str, generation: int, shard: int) -> None:
    """Note that the rows of a model will be written, in a key that Redis loses with them."""
    await redis.set(filling_key(name, generation, shard), 1)


async def end_filling(
    redis: Redis, name: str, generation: int, shard: int, log: str, position: int, time_ms: int
) -> None:
    """Write the checkpoint of a model whose rows up to ``position`` are all there.

    Raises:
        ReadModelUnavailable: Redis came back empty since ``begin_filling``.
    """
    keys = [checkpoint_key(name, generation, shard), filling_key(name, generation, shard)]
    if not await script(redis, END_FILLING)(keys=keys, args=[log, position, time_ms]):
        raise ReadModelUnavailable(f"Redis lost the {name} of shard {shard} while it was filled.")


def tag(name: str, generation: int, shard: int) -> str:
    """Return the hash tag with which all keys of a model on a shard begin."""
    return f"{{{name}:{generation}:{shard}}}"


def checkpoint_key(name: str, generation: int, shard: int) -> str:
    """Return the key of a model's checkpoint on a shard."""
    return f"{tag(name, generation, shard)}:checkpoint"


def filling_key(name: str, generation: int, shard: int) -> str:
    """Return the key that is there while a model's rows on a shard are written in bulk."""
    return f"{tag(name, generation, shard)}:filling"


def script(redis: Redis, text: str) -> AsyncScript:
    """Return a Lua script that is called by its hash; its text is sent again if Redis lost it."""
    return redis.register_script(text)


async def reached_model(
    redis: Redis, name: str, generation: int, shards: Sequence[int]
) -> dict[int, int]:
    """Return a model's position by shard, without shards on which it is not complete.

    All shards are asked at once, so a silent Redis costs one timeout, not one for each shard.

    Raises:
        ReadModelUnavailable: Redis is away.
    """
    parts = [(name, generation, shard) for shard in shards]
    try:
        found = await _read_positions(redis, parts)
    except RedisError as error:
        raise cannot_read(name, error) from error
    return {shard: position for (_, _, shard), position in found.items()}


async def read_filling(
    redis: Redis, name: str, generation: int, shards: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Return position and target of a model by shard, of those on which it is being filled.

    Raises:
        ReadModelUnavailable: Redis is away.
    """
    parts = [(name, generation, shard) for shard in shards]
    try:
        checkpoints = await _read_checkpoints(redis, parts)
    except RedisError as error:
        raise cannot_read(name, error) from error
    return {
        shard: (int(position), int(target))
        for (_, _, shard), (position, target) in checkpoints.items()
        if position is not None and target is not None and int(position) < int(target)
    }


class ModelWaits:
    """Waits of this process for positions in the read models of one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waits: PositionWaits[tuple[str, int, int]] = PositionWaits(self._ask)

    async def reach(
        self, name: str, generation: int, shard: int, position: int, *, timeout_ms: int
    ) -> None:
        """Wait until a model has seen ``position``.

        Raises:
            ReadModelUnavailable: Redis is away, or the model was not complete, to the end.
            ReadModelStale: The model did not get there in time.
            TooManyWait: ``WAITERS_MAX`` wait already.
        """
        part = (name, generation, shard)
        try:
            found = await self._waits.reach({part: position}, timeout_ms=timeout_ms)
        except (RedisError, TimeoutError) as error:
            raise cannot_read(name, error) from error
        if part not in found:
            raise being_filled(name, shard)
        if found[part] < position:
            raise ReadModelStale(f"the {name} is at {found[part]}, not yet at {position}")

    async def _ask(self, parts: Set[tuple[str, int, int]]) -> dict[tuple[str, int, int], int]:
        return await _read_positions(self._redis, list(parts))


async def scan_keys(redis: Redis, name: str, generation: int, shard: int) -> list[str]:
    """Return all keys of a model on a shard."""
    found = redis.scan_iter(match=f"{tag(name, generation, shard)}:*", count=1_000)
    return [_text(key) async for key in found]


def complete_position(position: bytes | None, target: bytes | None) -> int | None:
    """Return the position of a checkpoint, None if the model is not there or not complete."""
    if position is None or target is None or int(position) < int(target):
        return None
    return int(position)


def cannot_read(name: str, error: Exception) -> ReadModelUnavailable:
    """Return the error that a model could not be read from Redis."""
    return ReadModelUnavailable(f"cannot read the {name}: {error}")


def being_filled(name: str, shard: int) -> ReadModelUnavailable:
    """Return the error that a model is not complete yet."""
    return ReadModelUnavailable(f"the {name} of shard {shard} is being filled")


async def _read_positions(
    redis: Redis, parts: Sequence[tuple[str, int, int]]
) -> dict[tuple[str, int, int], int]:
    """Return positions by name, generation and shard, without models that are not complete."""
    checkpoints = await _read_checkpoints(redis, parts)
    positions = {part: complete_position(*found) for part, found in checkpoints.items()}
    return {part: position for part, position in positions.items() if position is not None}


async def _read_checkpoints(
    redis: Redis, parts: Sequence[tuple[str, int, int]]
) -> dict[tuple[str, int, int], tuple[bytes | None, bytes | None]]:
    """Return position and target by name, generation and shard; all are asked at once."""
    async with redis.pipeline(transaction=False) as pipe:
        for part in parts:
            pipe.hmget(checkpoint_key(*part), ["position", "target"])
        checkpoints = await pipe.execute()
    return dict(zip(parts, checkpoints, strict=True))


async def _read_log(engine: AsyncEngine, shard: int) -> tuple[str, int]:
    async with engine.connect() as connection:
        row = (await connection.execute(READ_LOG.where(HEAD.c.shard == shard))).one()
        return row.id, row.position


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
