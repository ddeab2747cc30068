"""The depth of each book, in Redis: how much rests at each price, by instrument and side.

Read ``BookProjection.apply``, then ``read_book``. All keys of a generation and shard
share a hash tag, so one script changes them together: it moves the checkpoint by
compare-and-set, checks every argument, and only then writes. Quantities are added up
here, never there: Lua's numbers are not exact beyond 2^53. Each side is a sorted set
of prices and a hash from price to quantity.

Redis may come back empty at any time. A missing checkpoint means that the model is
filled again from the start of the log, and it carries a ``target``, the head at that
time: readers find the model unavailable until it is there. The checkpoint also names
the log it was built from, so a model of another database's log is never gone on with.
Redis may lose all keys, but not choose some to evict: keep its policy ``noeviction``. A
level that events contradict is taken for such a loss, and the model filled again, once.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never, cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.codec import DecidedEvent
from exchange.domain.events import (
    CancelRejected,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    RecordRejected,
    TradeExecuted,
)
from exchange.domain.values import Side
from exchange.schema import HEAD
from projections.checkpoints import ReadModelStale, ReadModelUnavailable

logger = logging.getLogger(__name__)

NAME = "book"

WAIT_POLL_S: Final = 0.01  # a poll is one small request, made only while a reader waits

# KEYS: the checkpoint. ARGV: log and position that were found there ('' for nothing), log and
# position of the head, pattern of all keys of the shard. Answers the position to go on from.
# Of two projectors that found the same only one deletes it, and begins in the same step.
START = """#!lua
local stored = redis.call('HMGET', KEYS[1], 'log', 'position')
if (stored[1] or '') ~= ARGV[1] or (stored[2] or '') ~= ARGV[2] then
    return stored[2] or '0'
end
for _, key in ipairs(redis.call('KEYS', ARGV[5])) do
    redis.call('UNLINK', key)
end
redis.call('HSET', KEYS[1], 'log', ARGV[3], 'position', '0', 'target', ARGV[4], 'time_ms', '0')
return '0'
"""

# KEYS: the checkpoint, then for each side the prices and the quantities. ARGV: after, position,
# time_ms, then for each side the number of its levels and each one's price and quantity.
# Answers whether the checkpoint was at ``after``; if not, nothing is written.
APPLY = """#!lua
local function amount(text, digits_max)
    return text ~= nil and #text <= digits_max and string.match(text, '^%d+$') ~= nil
end
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[1] then
    return 0
end
if not (amount(ARGV[2], 19) and amount(ARGV[3], 19)) or #KEYS % 2 ~= 1 then
    return redis.error_reply('ERR book: malformed batch')
end
local at = 4
for key = 2, #KEYS, 2 do
    local levels = tonumber(ARGV[at])
    if not levels then
        return redis.error_reply('ERR book: malformed batch')
    end
    for _ = 1, levels do
        -- A score is exact up to 2^53, which has 16 digits; a sum of quantities may be larger.
        if not (amount(ARGV[at + 1], 16) and amount(ARGV[at + 2], 32)) then
            return redis.error_reply('ERR book: malformed level')
        end
        at = at + 2
    end
    at = at + 1
end
if at ~= #ARGV + 1 then
    return redis.error_reply('ERR book: malformed batch')
end
redis.call('HSET', KEYS[1], 'position', ARGV[2], 'time_ms', ARGV[3])
at = 4
for key = 2, #KEYS, 2 do
    local last = at + 2 * tonumber(ARGV[at])
    while at < last do
        local price, quantity = ARGV[at + 1], ARGV[at + 2]
        if quantity == '0' then
            redis.call('ZREM', KEYS[key], price)
            redis.call('HDEL', KEYS[key + 1], price)
        else
            redis.call('ZADD', KEYS[key], price, price)
            redis.call('HSET', KEYS[key + 1], price, quantity)
        end
        at = at + 2
    end
    at = at + 1
end
return 1
"""

# KEYS: the checkpoint; prices and quantities of the bids, then of the asks. ARGV: levels.
READ = """#!lua flags=no-writes
local function side(prices, quantities, order)
    local levels = {}
    local best = redis.call('ZRANGE', prices, 0, tonumber(ARGV[1]) - 1, unpack(order))
    for _, price in ipairs(best) do
        levels[#levels + 1] = price
        levels[#levels + 1] = redis.call('HGET', quantities, price)
    end
    return levels
end
return {
    redis.call('HMGET', KEYS[1], 'position', 'target', 'time_ms'),
    side(KEYS[2], KEYS[3], {'REV'}),
    side(KEYS[4], KEYS[5], {}),
}
"""

READ_LOG = select(HEAD.c.topic_id, HEAD.c.position)

Level = tuple[int, int]
"""A price and the quantity that rests there, in units."""


class BookView(Struct, frozen=True):
    """A book after the shard's event at ``position``; bids and asks best first."""

    position: int
    time_ms: int
    bids: list[Level]
    asks: list[Level]


async def read_book(
    redis: Redis, generation: int, shard: int, instrument: str, levels: int
) -> BookView:
    """Return up to ``levels`` of each side; an instrument without orders has none.

    Raises:
        ReadModelUnavailable: Redis is away, or the model is not complete (yet).
    """
    tag = _tag(generation, shard)
    keys = [f"{tag}:checkpoint", *_side_keys(tag, instrument, Side.BUY)]
    keys += _side_keys(tag, instrument, Side.SELL)
    try:
        checkpoint, bids, asks = await _script(redis, READ)(keys=keys, args=[levels])
    except RedisError as error:
        raise ReadModelUnavailable(f"cannot read the book: {error}") from error
    position, target, time_ms = checkpoint
    if position is None or target is None or int(position) < int(target):
        raise ReadModelUnavailable(f"the book of shard {shard} is being filled")
    return BookView(int(position), int(time_ms), list(_levels(bids)), list(_levels(asks)))


async def await_book(
    redis: Redis, generation: int, shard: int, position: int, *, timeout_ms: int
) -> None:
    """Wait until a shard's books have seen ``position``.

    By the clock and not by a timeout: the Redis client may drop the one cancellation that a
    timeout is, and the wait would never end.

    Raises:
        ReadModelUnavailable: Redis is away, or the model is not complete, and stayed so.
        ReadModelStale: It did not get there in time.
    """
    deadline_s = time.monotonic() + timeout_ms / 1000
    while True:
        reached = await read_position(redis, generation, shard)
        if reached is not None and reached >= position:
            return
        if time.monotonic() >= deadline_s:
            break
        await asyncio.sleep(WAIT_POLL_S)
    if reached is None:
        raise ReadModelUnavailable(f"the book of shard {shard} is being filled")
    raise ReadModelStale(f"the book is at {reached}, not yet at {position}")


async def read_position(redis: Redis, generation: int, shard: int) -> int | None:
    """Return how far a shard's books are, None while they are not complete.

    Raises:
        ReadModelUnavailable: Redis is away.
    """
    try:
        position, target = await cast(
            "Any", redis.hmget(f"{_tag(generation, shard)}:checkpoint", ["position", "target"])
        )
    except RedisError as error:
        raise ReadModelUnavailable(f"cannot read the book: {error}") from error
    if position is None or target is None or int(position) < int(target):
        return None
    return int(position)


@dataclass(frozen=True, slots=True)
class BookProjection:
    """The depth of every book; ``engine`` is asked for the head when the model starts anew."""

    engine: AsyncEngine
    redis: Redis
    name: str = NAME
    tables: tuple[Table, ...] = ()

    async def resume(self, generation: int, shard: int) -> int:
        """Return the position to go on from; a model that is missing is started anew."""
        tag = _tag(generation, shard)
        checkpoint = f"{tag}:checkpoint"
        stored = await cast("Any", self.redis.hmget(checkpoint, ["log", "position"]))
        found_log, found_position = (_text(value) for value in stored)
        # Read after the checkpoint: another projector may be moving it, but not past this.
        log, head = await self._read_log(shard)
        if found_log == log and found_position and int(found_position) <= head:
            return int(found_position)
        logger.warning("Filling the books from the start", extra={"shard": shard, "target": head})
        arguments: list[str | int] = [found_log, found_position, log, head, f"{tag}:*"]
        return int(await _script(self.redis, START)(keys=[checkpoint], args=arguments))

    async def reached(self, generation: int, shards: Sequence[int]) -> dict[int, int]:
        """Return the positions of those of ``shards`` whose books are complete."""
        positions = {shard: await read_position(self.redis, generation, shard) for shard in shards}
        return {shard: position for shard, position in positions.items() if position is not None}

    async def apply(self, generation: int, after: int, events: Sequence[DecidedEvent]) -> bool:
        """Apply consecutive events of one shard if the checkpoint is ``after``.

        Returns:
            Whether it was. If not, nothing changed.
        """
        last = events[-1]
        tag = _tag(generation, last.shard)
        changes = _changes(events)
        stored = await self._read_levels(tag, after, changes)
        if stored is None:
            return False
        quantities, complete = stored
        wrong = _contradictions(changes, quantities)
        if wrong and complete:
            logger.error("A book has lost levels", extra={"shard": last.shard, "levels": wrong[:3]})
            await self.redis.delete(f"{tag}:checkpoint")
            return False
        keys = [f"{tag}:checkpoint"]
        arguments: list[int] = [after, last.position, last.event.time_ms]
        for (instrument, side), levels in changes.items():
            keys += _side_keys(tag, instrument, side)
            arguments.append(len(levels))
            for price, change in levels.items():
                arguments += (price, _changed(quantities[instrument, side, price], change, price))
        return bool(await _script(self.redis, APPLY)(keys=keys, args=arguments))

    async def _read_log(self, shard: int) -> tuple[str, int]:
        async with self.engine.connect() as connection:
            row = (await connection.execute(READ_LOG.where(HEAD.c.shard == shard))).one()
            return row.topic_id, row.position

    async def _read_levels(
        self, tag: str, after: int, changes: "_Changes"
    ) -> tuple["_Quantities", bool] | None:
        """Return what rests at the levels that change, and whether the model was complete.

        None if it is not at ``after``.
        """
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(f"{tag}:checkpoint", ["position", "target"])
            for (instrument, side), levels in changes.items():
                pipe.hmget(_side_keys(tag, instrument, side)[1], list(levels))
            (position, target), *sides = await pipe.execute()
        if position is None or target is None or int(position) != after:
            return None
        quantities = {
            (instrument, side, price): int(quantity or 0)
            for ((instrument, side), levels), found in zip(changes.items(), sides, strict=True)
            for price, quantity in zip(levels, found, strict=True)
        }
        return quantities, after >= int(target)


_Changes = dict[tuple[str, Side], dict[int, int]]  # instrument and side, price, change of quantity
_Quantities = dict[tuple[str, Side, int], int]  # by instrument, side and price


def _changes(events: Sequence[DecidedEvent]) -> _Changes:
    """Add up what events change at each level; a level that ends as it began is left out."""
    sums: _Changes = {}
    for decided in events:
        change = _level_change(decided.event)
        if change is not None:
            instrument, side, price, quantity = change
            levels = sums.setdefault((instrument, side), {})
            levels[price] = levels.get(price, 0) + quantity
    changes = {key: {p: q for p, q in levels.items() if q} for key, levels in sums.items()}
    return {key: levels for key, levels in changes.items() if levels}


def _level_change(event: Event) -> tuple[str, Side, int, int] | None:
    match event:
        case OrderRested():
            return event.instrument, event.side, event.price, event.quantity
        case TradeExecuted():
            return event.instrument, event.taker_side.opposite, event.price, -event.quantity
        case OrderCancelled(price=price) if price is not None:
            return event.instrument, event.side, price, -event.quantity
        case (
            OrderCancelled()
            | OrderAccepted()
            | OrderRejected()
            | CancelRejected()
            | InstrumentRegistered()
            | InstrumentRejected()
            | RecordRejected()
        ):
            return None
        case _:
            assert_never(event)


def _contradictions(changes: _Changes, quantities: _Quantities) -> list[tuple[str, str, int]]:
    """Return the levels that events take more from than rests there."""
    return [
        (instrument, side.value, price)
        for (instrument, side), levels in changes.items()
        for price, change in levels.items()
        if quantities[instrument, side, price] + change < 0
    ]


def _changed(quantity: int, change: int, price: int) -> int:
    if quantity + change < 0:
        raise ValueError(f"{change} at the level {price}, where only {quantity} rests")
    return quantity + change


def _levels(flat: Sequence[bytes | str]) -> Iterator[Level]:
    for price, quantity in zip(flat[::2], flat[1::2], strict=True):
        yield int(price), int(quantity)


def _tag(generation: int, shard: int) -> str:
    return f"{{{NAME}:{generation}:{shard}}}"


def _side_keys(tag: str, instrument: str, side: Side) -> tuple[str, str]:
    return f"{tag}:{instrument}:{side.value}:prices", f"{tag}:{instrument}:{side.value}:quantities"


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _script(redis: Redis, text: str) -> AsyncScript:
    return redis.register_script(text)  # runs by its hash; sends the text when Redis lost it
