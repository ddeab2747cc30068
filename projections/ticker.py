"""The last trade of each instrument, in Redis.

The other figures of a ticker are not kept here. Best bid and ask come from ``book``. Those of the
last 24 hours are computed from the minutes of ``vwap`` when asked for, since they change without an
event. One hash per generation and shard has a field per instrument.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Self, cast

import msgspec
from msgspec import Struct
from msgspec.structs import astuple
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import Event, TradeExecuted
from exchange.log.moments import Place
from projections.folding import LogPart, Row, Rows, parts_of
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
    script,
    tag,
)

NAME = "ticker"
VERSION: Final = 1  # of the rules
QUERIES: Final = Queries(NAME, VERSION)

# KEYS: the checkpoint, the last trades. ARGV: after, position, time_ms, then each instrument's name
# and last trade.
APPLY = (
    MOVE
    + """
if #ARGV % 2 ~= 1 then
    return redis.error_reply('MALFORMED ticker batch')
end
redis.call('HSET', KEYS[1], 'position', ARGV[2], 'time_ms', ARGV[3])
for at = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
end
return 1
"""
)


class LastTrade(Struct, frozen=True):
    """An instrument's newest trade, in units; ``position`` is its position in the log."""

    price: int
    quantity: int
    taker_side: str
    position: int
    time_ms: int


_LAST_TRADE: Final = msgspec.json.Decoder(LastTrade)


class LastTrades(Struct, frozen=True):
    """Last trades by instrument, after the shard's event at ``position``."""

    trades: dict[str, LastTrade]
    position: int
    time_ms: int


@QUERIES.query
async def read_last_trades(
    redis: Redis, live: Live, shard: int, instruments: Sequence[str]
) -> LastTrades:
    """Return the last trades of some of a shard's instruments, without those that never traded.

    Raises:
        ReadModelUnavailable: Redis is away, or the model is not complete (yet).
    """
    generation = live.generation
    try:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hmget(checkpoint_key(NAME, generation, shard), ["position", "target", "time_ms"])
            pipe.hmget(_last_key(generation, shard), list(instruments))
            (position, target, time_ms), found = await cast("Any", pipe.execute())
    except RedisError as error:
        raise cannot_read(NAME, error) from error
    reached = complete_position(position, target)
    if reached is None:
        raise being_filled(NAME, shard)
    texts = zip(instruments, found, strict=True)
    trades = {name: _LAST_TRADE.decode(text) for name, text in texts if text is not None}
    return LastTrades(trades, reached, int(time_ms))


def last_trades_as_of(fold: "TickerFold", at: Place, instruments: Sequence[str]) -> LastTrades:
    """Return what ``read_last_trades`` said when the model was at a place: the fold has it."""
    found = {name: fold.last_trade(name) for name in instruments}
    trades = {name: trade for name, trade in found.items() if trade is not None}
    return LastTrades(trades, at.position, at.time_ms)


async def write(redis: Redis, generation: int, batch: Batch) -> bool:
    """Write a batch if the checkpoint is the position before it; tell whether it was."""
    keys = [checkpoint_key(NAME, generation, batch.shard), _last_key(generation, batch.shard)]
    arguments: list[int | str | bytes] = [batch.after, batch.up_to, batch.time_ms]
    for part in parts_of(batch.events):
        for instrument, trade in _last_trades(part.events, part.first).items():
            arguments += (instrument, msgspec.json.encode(trade))
    return bool(await script(redis, APPLY)(keys=keys, args=arguments))


class TickerFold:
    """The last trades in memory. None is ever finished: its instrument may trade again."""

    def __init__(self, trades: dict[str, tuple[int, LastTrade]] | None = None) -> None:
        self._trades = trades or {}  # with the shard, by instrument

    def add(self, part: LogPart) -> None:
        for instrument, trade in _last_trades(part.events, part.first).items():
            self._trades[instrument] = (part.shard, trade)

    def finished(self) -> Rows:
        return {NAME: []}

    def rows(self) -> Rows:
        """Return rows of shard, instrument, price, quantity, side of the taker, position, time."""
        trades = self._trades.items()
        return {NAME: [(shard, name, *astuple(trade)) for name, (shard, trade) in trades]}

    def last_trade(self, instrument: str) -> LastTrade | None:
        _, trade = self._trades.get(instrument, (0, None))
        return trade

    @property
    def size(self) -> int:
        return len(self._trades)

    def dump(self) -> bytes:
        return msgspec.json.encode(self._trades)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=dict[str, tuple[int, LastTrade]]))


async def fill(redis: Redis, generation: int, shard: int, rows: Sequence[Row]) -> None:
    """Write all last trades of a shard, into keys that nobody reads yet."""
    trades = {
        str(instrument): msgspec.json.encode(LastTrade(*cast("Any", fields)))
        for _, instrument, *fields in rows
    }
    if trades:
        await cast("Any", redis.hset(_last_key(generation, shard), mapping=cast("Any", trades)))


async def read_rows(
    redis: Redis,
    generation: int,
    shard: int,
    instruments: Sequence[str],  # noqa: ARG001
) -> tuple[int, list[Row]]:
    """Return the position of a shard's last trades and all of them, of one moment.

    Raises:
        ReadModelUnavailable: The model is not complete.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hmget(checkpoint_key(NAME, generation, shard), ["position", "target"])
        pipe.hgetall(_last_key(generation, shard))
        checkpoint, stored = await cast("Any", pipe.execute())
    position = complete_position(*checkpoint)
    if position is None:
        raise being_filled(NAME, shard)
    return position, [
        (shard, name.decode(), *astuple(_LAST_TRADE.decode(text))) for name, text in stored.items()
    ]


def key_of(event: Event) -> Row | None:
    """Return the instrument whose last trade an event is."""
    return (event.instrument,) if isinstance(event, TradeExecuted) else None


KEPT_ROWS: Final = KeptRows(
    ("shard", "instrument", *LastTrade.__struct_fields__), 2, fill, read_rows, key_of
)


def ticker_projection(engine: AsyncEngine, redis: Redis) -> RedisProjection:
    """Return the projection that keeps the last trades up to date."""
    return RedisProjection(engine, redis, NAME, write, VERSION, TickerFold, rows=KEPT_ROWS)


def _last_trades(events: Iterable[Event], first: int) -> dict[str, LastTrade]:
    """Return each instrument's last trade among events, the first of which is at ``first``."""
    last: dict[str, tuple[TradeExecuted, int]] = {}
    for position, event in enumerate(events, first):
        if type(event) is TradeExecuted:
            last[event.instrument] = (event, position)
    return {
        name: LastTrade(event.price, event.quantity, str(event.taker_side), position, event.time_ms)
        for name, (event, position) in last.items()
    }


def _last_key(generation: int, shard: int) -> str:
    return f"{tag(NAME, generation, shard)}:last"
