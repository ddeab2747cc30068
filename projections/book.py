"""The depth of each book, in Redis: how much rests at each price, by instrument and side.

Read ``write``, then ``read_book``. Each side is a sorted set of prices and a hash from price
to quantity. Quantities are added up in Python: Lua's numbers are not exact beyond 2^53.

If an event takes more from a level than rests there, Redis has lost part of the model. It is then
filled again, once (see ``stores.redis``).
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final, Self, assert_never, cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import (
    AccountCreated,
    AccountRejected,
    CancelAllAccepted,
    CancelRejected,
    ClientResumed,
    ClientSuspended,
    CommandQuarantined,
    CommandRetried,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    KeyIssued,
    KeyRejected,
    KeyRevoked,
    OpenOrdersLimited,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
    ShardPlaced,
    TradeExecuted,
)
from exchange.domain.values import Side
from exchange.log.moments import Place
from exchange.waiting import turns
from projections.folding import LogPart, Row, Rows
from projections.stores.batches import Batch
from projections.stores.checkpoints import Live
from projections.stores.queries import Queries
from projections.stores.redis import (
    MOVE,
    KeptRows,
    RedisProjection,
    being_filled,
    cannot_read,
    checkpoint_key,
    complete_position,
    scan_keys,
    script,
    tag,
)

logger = logging.getLogger(__name__)

NAME = "book"
VERSION: Final = 1  # of the rules
QUERIES: Final = Queries(NAME, VERSION)

# KEYS: the checkpoint, then for each side the prices and the quantities. ARGV: after, position,
# time_ms, then for each side the number of its levels, and the price and quantity of each level.
# The answer is 1, or 0 if the checkpoint was not at ``after`` and nothing was written.
APPLY = (
    MOVE
    + """
if #KEYS % 2 ~= 1 then
    return redis.error_reply('MALFORMED book batch')
end
local at = 4
for key = 2, #KEYS, 2 do
    local levels = tonumber(ARGV[at])
    if not levels then
        return redis.error_reply('MALFORMED book batch')
    end
    for _ = 1, levels do
        -- A score is exact up to 2^53, which has 16 digits; a sum of quantities may be larger.
        if not (amount(ARGV[at + 1], 16) and amount(ARGV[at + 2], 32)) then
            return redis.error_reply('MALFORMED book level')
        end
        at = at + 2
    end
    at = at + 1
end
if at ~= #ARGV + 1 then
    return redis.error_reply('MALFORMED book batch')
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
)

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

_BUY: Final = Side.BUY
_OPPOSITE: Final = {side: side.opposite for side in Side}  # twice as fast as the property
ALL_LEVELS: Final = 0
NUMBERS_AT_ONCE: Final = 10_000  # two for each level; converting 10,000 takes some 3 ms

_SideChanges = tuple[tuple[str, Side], dict[int, int]]
_Changes = dict[tuple[str, Side], dict[int, int]]  # instrument and side, price, change of quantity
_Quantities = dict[tuple[str, Side, int], int]  # by instrument, side and price

LEVELS_AT_ONCE: Final = 1_000  # written in a millisecond

Level = tuple[int, int]
"""A price and the quantity that rests there, in units."""


class StoredBook(Struct, frozen=True):
    """A book after the shard's event at ``position``; bids and asks best first."""

    position: int
    time_ms: int
    bids: list[Level]
    asks: list[Level]


@QUERIES.query
async def read_book(
    redis: Redis, live: Live, shard: int, instrument: str, levels: int
) -> StoredBook:
    """Return up to ``levels`` of each side, or ``ALL_LEVELS``; without orders there are none.

    Raises:
        ReadModelUnavailable: Redis is away, or the model is not complete (yet).
    """
    place = (NAME, live.generation, shard)
    prefix = tag(*place)
    keys = [checkpoint_key(*place), *_side_keys(prefix, instrument, Side.BUY)]
    keys += _side_keys(prefix, instrument, Side.SELL)
    try:
        checkpoint, bids, asks = await script(redis, READ)(keys=keys, args=[levels])
    except RedisError as error:
        raise cannot_read(NAME, error) from error
    position, target, time_ms = checkpoint
    reached = complete_position(position, target)
    if reached is None:
        raise being_filled(NAME, shard)
    return StoredBook(reached, int(time_ms), await _levels(bids), await _levels(asks))


def book_as_of(fold: "BookFold", at: Place, instrument: str, levels: int) -> StoredBook:
    """Return what ``read_book`` said when the model was at a place: the fold up to there has it."""
    bids, asks = (fold.levels(at.shard, instrument, side) for side in Side)
    count = None if levels == ALL_LEVELS else levels
    return StoredBook(at.position, at.time_ms, bids[:count], asks[:count])


async def write(redis: Redis, generation: int, batch: Batch) -> bool:
    """Write a batch if the checkpoint is the position before it; tell whether it was."""
    prefix = tag(NAME, generation, batch.shard)
    changes = _changes(decided.event for decided in batch.events)
    stored = await _read_levels(redis, prefix, batch.after, changes)
    if stored is None:
        return False
    quantities, complete = stored
    wrong = _contradictions(changes, quantities)
    if wrong and complete:
        logger.error("A book has lost levels", extra={"shard": batch.shard, "levels": wrong[:3]})
        await redis.delete(f"{prefix}:checkpoint")
        return False
    keys = [f"{prefix}:checkpoint"]
    arguments: list[int] = [batch.after, batch.up_to, batch.time_ms]
    for (instrument, side), levels in changes.items():
        keys += _side_keys(prefix, instrument, side)
        arguments.append(len(levels))
        for price, change in levels.items():
            arguments += (price, _changed(quantities[instrument, side, price], change, price))
    return bool(await script(redis, APPLY)(keys=keys, args=arguments))


class BookFold:
    """The levels of all books in memory. None is ever finished: orders may rest at it again."""

    def __init__(self, shards: dict[int, _Changes] | None = None) -> None:
        self._shards = shards or {}  # by shard; what is left of all changes is what rests

    def add(self, part: LogPart) -> None:
        """Apply the events of a part.

        Raises:
            ValueError: An event takes more from a level than rests there.
        """
        _add_changes(self._shards.setdefault(part.shard, {}), part.events, least=0)

    def finished(self) -> Rows:
        return {NAME: []}

    def rows(self) -> Rows:
        """Return rows of shard, instrument, side, price, quantity."""
        return {
            NAME: [
                (shard, instrument, str(side), price, quantity)
                for shard, sides in self._shards.items()
                for (instrument, side), levels in sides.items()
                for price, quantity in levels.items()
            ]
        }

    def levels(self, shard: int, instrument: str, side: Side) -> list[Level]:
        """Return the levels of one side of a book, best first."""
        levels = self._shards.get(shard, {}).get((instrument, side), {})
        return sorted(levels.items(), reverse=side is _BUY)

    @property
    def size(self) -> int:
        return sum(len(levels) for sides in self._shards.values() for levels in sides.values())

    def dump(self) -> bytes:
        shards = {shard: list(sides.items()) for shard, sides in self._shards.items()}
        return msgspec.json.encode(shards)

    @classmethod
    def load(cls, data: bytes) -> Self:
        shards = msgspec.json.decode(data, type=dict[int, list[_SideChanges]])
        return cls({shard: dict(sides) for shard, sides in shards.items()})


async def fill(redis: Redis, generation: int, shard: int, rows: Sequence[Row]) -> None:
    """Write all levels of a shard, into keys that nobody reads yet."""
    sides: dict[tuple[str, Side], dict[str, int]] = {}
    for _, instrument, side, price, quantity in rows:
        level = {str(price): cast("int", quantity)}
        sides.setdefault((str(instrument), Side(str(side))), {}).update(level)
    prefix = tag(NAME, generation, shard)
    for (instrument, side), levels in sides.items():
        prices, quantities = _side_keys(prefix, instrument, side)
        async for some in turns(list(levels.items()), LEVELS_AT_ONCE):
            async with redis.pipeline(transaction=False) as pipe:
                pipe.zadd(prices, {price: int(price) for price, _ in some})
                pipe.hset(quantities, mapping=dict(some))
                await pipe.execute()


async def read_rows(
    redis: Redis, generation: int, shard: int, instruments: Sequence[str]
) -> tuple[int, list[Row]]:
    """Return the position of a shard's books and all their levels, of one moment.

    Raises:
        ReadModelUnavailable: The model is not complete.
    """
    prefix = tag(NAME, generation, shard)
    found = {
        key.split(":")[-3]
        for key in await scan_keys(redis, NAME, generation, shard)
        if key.endswith(":quantities")
    }
    sides = [(name, side) for name in sorted(found | {*instruments}) for side in Side]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hmget(f"{prefix}:checkpoint", ["position", "target"])
        for name, side in sides:
            prices, quantities = _side_keys(prefix, name, side)
            pipe.zrange(prices, 0, -1)
            pipe.hgetall(quantities)
        checkpoint, *stored = await pipe.execute()
    position = complete_position(*checkpoint)
    if position is None:
        raise being_filled(NAME, shard)
    rows: list[Row] = []
    for number, (name, side) in enumerate(sides):
        prices, quantities = stored[2 * number], stored[2 * number + 1]
        # A price without a quantity, or a quantity without a price, is shown as one of 0.
        for price in {*prices} | {*quantities}:
            both = price in quantities and price in prices
            rows.append(
                (shard, name, side.value, int(price), int(quantities[price]) if both else 0)
            )
    return position, rows


def key_of(event: Event) -> Row | None:
    """Return instrument, side and price of the level that an event changes."""
    change = level_change(event)
    return None if change is None else (change[0], change[1].value, change[2])


KEPT_ROWS: Final = KeptRows(
    ("shard", "instrument", "side", "price", "quantity"), 4, fill, read_rows, key_of
)


def book_projection(engine: AsyncEngine, redis: Redis) -> RedisProjection:
    """Return the projection that keeps the book up to date."""
    return RedisProjection(engine, redis, NAME, write, VERSION, BookFold, rows=KEPT_ROWS)


async def _read_levels(
    redis: Redis, prefix: str, after: int, changes: _Changes
) -> tuple[_Quantities, bool] | None:
    """Return the quantities at the levels that change, and whether the model was complete.

    None if the checkpoint is not at ``after``.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hmget(f"{prefix}:checkpoint", ["position", "target"])
        for (instrument, side), levels in changes.items():
            pipe.hmget(_side_keys(prefix, instrument, side)[1], list(levels))
        (position, target), *sides = await pipe.execute()
    if position is None or target is None or int(position) != after:
        return None
    quantities = {
        (instrument, side, price): int(quantity or 0)
        for ((instrument, side), levels), found in zip(changes.items(), sides, strict=True)
        for price, quantity in zip(levels, found, strict=True)
    }
    return quantities, after >= int(target)


def _changes(events: Iterable[Event]) -> _Changes:
    """Add up the changes of each level, without levels that end as they began."""
    sums: _Changes = {}
    _add_changes(sums, events)
    return {key: levels for key, levels in sums.items() if levels}


def _add_changes(sums: _Changes, events: Iterable[Event], least: int | None = None) -> None:
    """Add what events change to what earlier ones changed; a level without a change is dropped.

    Raises:
        ValueError: A sum falls below ``least``.
    """
    for event in events:
        change = level_change(event)
        if change is None:
            continue
        instrument, side, price, quantity = change
        levels = sums.get((instrument, side))
        if levels is None:
            levels = sums[instrument, side] = {}
        quantity += levels.get(price, 0)
        if least is not None and quantity < least:
            raise ValueError(f"{instrument}, {side.value}, {price}: {quantity} would rest there")
        if quantity:
            levels[price] = quantity
        else:
            levels.pop(price, None)


def level_change(event: Event) -> tuple[str, Side, int, int] | None:
    """Return instrument, side, price and change of quantity of the level that an event changes.

    The most frequent events come first, since each case that does not match takes 0.1 µs.
    """
    match event:
        case TradeExecuted():
            return event.instrument, _OPPOSITE[event.taker_side], event.price, -event.quantity
        case OrderAccepted():
            return None
        case OrderRested():
            return event.instrument, event.side, event.price, event.quantity
        case OrderCancelled():
            if event.price is None:
                return None
            return event.instrument, event.side, event.price, -event.quantity
        case (
            OrderRejected()
            | CancelRejected()
            | CancelAllAccepted()
            | InstrumentRegistered()
            | InstrumentRejected()
            | SettlementCycleClosed()
            | SettlementCycleRejected()
            | OpenOrdersLimited()
            | ShardPlaced()
            | AccountCreated()
            | AccountRejected()
            | ClientSuspended()
            | ClientResumed()
            | KeyIssued()
            | KeyRevoked()
            | KeyRejected()
            | RecordRejected()
            | CommandQuarantined()
            | CommandRetried()
        ):
            return None
        case _:
            assert_never(event)


def _contradictions(changes: _Changes, quantities: _Quantities) -> list[tuple[str, str, int]]:
    """Return the levels from which events take more than rests there."""
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


async def _levels(flat: Sequence[bytes | str]) -> list[Level]:
    return [
        (int(some[at]), int(some[at + 1]))
        async for some in turns(flat, NUMBERS_AT_ONCE)
        for at in range(0, len(some), 2)
    ]


def _side_keys(prefix: str, instrument: str, side: Side) -> tuple[str, str]:
    start = f"{prefix}:{instrument}:{side.value}"
    return f"{start}:prices", f"{start}:quantities"
