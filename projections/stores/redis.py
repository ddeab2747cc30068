"""A projection in Redis: its checkpoint, how a batch moves it, and how the model begins again.

Read ``RedisProjection``. All keys of a generation and shard share a hash tag, so one script
changes them together: it moves the checkpoint by compare-and-set and only then writes
(``MOVE`` is how such a script begins).

Redis may come back empty at any time. A missing checkpoint means that the model is
filled again, and it carries a ``target``, the head at that time: readers find the model
unavailable until it is there. The checkpoint also names the log it was built from, so a
model of another database's log is never gone on with. Redis may lose all keys, but not
choose some to evict: keep its policy ``noeviction``.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import DecidedEvent
from exchange.log.schema import HEAD, LOG
from projections.stores.checkpoints import ReadModelStale, ReadModelUnavailable
from projections.stores.waits import PositionWaits

logger = logging.getLogger(__name__)

# KEYS: the checkpoint. ARGV: log and position that were found there ('' for nothing), log of the
# head, position to begin after, position of the head, pattern of all keys of the shard. Answers
# the position to go on from. Of two projectors that found the same only one deletes it, and
# begins in the same step. SCAN and not KEYS, which many servers refuse to all but their operators.
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

# How a script that applies a batch begins. KEYS[1]: the checkpoint. ARGV: after, position, time_ms.
# An error that begins with MALFORMED blames the batch (see failures); any other is Redis' own.
MOVE: Final = """#!lua
local function amount(text, digits_max)
    return text ~= nil and #text <= digits_max and string.match(text, '^%d+$') ~= nil
end
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[1] then
    return 0
end
if not (amount(ARGV[2], 19) and amount(ARGV[3], 19)) then
    return redis.error_reply('MALFORMED batch')
end
"""

READ_LOG = select(select(LOG.c.id).scalar_subquery().label("id"), HEAD.c.position)


Write = Callable[[Redis, int, int, Sequence[DecidedEvent]], Awaitable[bool]]
"""Writes consecutive events of one shard if a generation's checkpoint is at a position.

Tells whether it was; if not, nothing changed.
"""


@dataclass(frozen=True, slots=True)
class RedisProjection:
    """A read model in Redis. ``engine`` is asked for the log's head when the model begins again.

    It then begins with the newest ``events_max`` events, or with all of them.
    """

    engine: AsyncEngine
    redis: Redis
    name: str
    write: Write
    events_max: int | None = None
    tables: tuple[Table, ...] = ()

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from; a model that is missing is started again."""
        key = checkpoint_key(self.name, generation, shard)
        stored = await cast("Any", self.redis.hmget(key, ["log", "position"]))
        found_log, found_position = (_text(value) for value in stored)
        # Read after the checkpoint: another projector may be moving it, but not past this.
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
        """Return the positions of those of ``shards`` on which the model is complete."""
        return await reached_model(self.redis, self.name, generation, shards)

    async def apply(self, generation: int, after: int, events: Sequence[DecidedEvent]) -> bool:
        """Apply consecutive events of one shard if the checkpoint is ``after``.

        Returns:
            Whether it was. If not, nothing changed.
        """
        return await self.write(self.redis, generation, after, events)


def tag(name: str, generation: int, shard: int) -> str:
    """Return what the keys of a model on a shard begin with."""
    return f"{{{name}:{generation}:{shard}}}"


def checkpoint_key(name: str, generation: int, shard: int) -> str:
    """Return the key of how far a model is in the log of a shard."""
    return f"{tag(name, generation, shard)}:checkpoint"


def script(redis: Redis, text: str) -> AsyncScript:
    """Return a Lua script that runs by its hash; its text is sent again when Redis lost it."""
    return redis.register_script(text)


async def reached_model(
    redis: Redis, name: str, generation: int, shards: Sequence[int]
) -> dict[int, int]:
    """Return how far a model is, for those of ``shards`` on which it is complete.

    All shards are asked at once: a Redis that is silent costs one timeout, not one for each.

    Raises:
        ReadModelUnavailable: Redis is away.
    """
    parts = [(name, generation, shard) for shard in shards]
    try:
        found = await _read_positions(redis, parts)
    except RedisError as error:
        raise cannot_read(name, error) from error
    return {shard: position for (_, _, shard), position in found.items()}


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
            ReadModelUnavailable: Redis is away, or the model is not complete, and stayed so.
            ReadModelStale: It did not get there in time.
            TooManyWait: So many wait already.
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


def complete_position(position: bytes | None, target: bytes | None) -> int | None:
    """Return the position of a checkpoint, None if the model is not there or not complete."""
    if position is None or target is None or int(position) < int(target):
        return None
    return int(position)


def cannot_read(name: str, error: Exception) -> ReadModelUnavailable:
    """Return the error of a model that Redis did not give."""
    return ReadModelUnavailable(f"cannot read the {name}: {error}")


def being_filled(name: str, shard: int) -> ReadModelUnavailable:
    """Return the error of a model that is not complete yet."""
    return ReadModelUnavailable(f"the {name} of shard {shard} is being filled")


async def _read_positions(
    redis: Redis, parts: Sequence[tuple[str, int, int]]
) -> dict[tuple[str, int, int], int]:
    """Return where models are, by name, generation and shard; one not complete is left out."""
    async with redis.pipeline(transaction=False) as pipe:
        for part in parts:
            pipe.hmget(checkpoint_key(*part), ["position", "target"])
        checkpoints = await pipe.execute()
    positions = {
        part: complete_position(*checkpoint)
        for part, checkpoint in zip(parts, checkpoints, strict=True)
    }
    return {part: position for part, position in positions.items() if position is not None}


async def _read_log(engine: AsyncEngine, shard: int) -> tuple[str, int]:
    async with engine.connect() as connection:
        row = (await connection.execute(READ_LOG.where(HEAD.c.shard == shard))).one()
        return row.id, row.position


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
