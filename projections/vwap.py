"""One-minute buckets of each instrument's trades, rolled up to any interval when asked.

Volume is the sum of price × quantity and ``price_sum`` the sum of prices, both exact, so the
volume-weighted and the plain average of any interval are quotients of exact sums. An instrument's
trades come in order and time never runs backwards. So the first trade of a minute gives its open,
and the last one its close.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Self

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace
from sqlalchemy import BigInteger, Column, Integer, Numeric, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import TradeExecuted
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.folding import LogPart, Row, Rows, fold_batch
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

NAME = "vwap"
VERSION: Final = 1  # of the rules

MINUTE_MS: Final = 60_000
ROWS_AT_ONCE: Final = 1_000

MINUTES = Table(
    "minutes",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("instrument", Text, primary_key=True),
    Column("minute", BigInteger, primary_key=True, autoincrement=False),  # since the epoch
    Column("shard", SmallInteger, nullable=False),
    Column("trade_count", BigInteger, nullable=False),
    Column("quantity", Numeric, nullable=False),
    Column("volume", Numeric, nullable=False),
    Column("price_sum", Numeric, nullable=False),
    Column("open", BigInteger, nullable=False),
    Column("high", BigInteger, nullable=False),
    Column("low", BigInteger, nullable=False),
    Column("close", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    postgresql_partition_by="LIST (generation)",
)

QUERIES: Final = Queries(NAME, VERSION, (MINUTES,))

UPSERT_MINUTES = """
insert into minutes
    (generation, instrument, minute, shard, trade_count, quantity, volume, price_sum, open, high,
    low, close, position)
select $1, instrument, minute, shard, trade_count, quantity, volume, price_sum, open, high,
    low, close, position
from unnest($2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::numeric[], $7::numeric[],
    $8::numeric[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[])
    as new (instrument, minute, shard, trade_count, quantity, volume, price_sum, open, high, low,
        close, position)
on conflict (generation, instrument, minute) do update set
    trade_count = minutes.trade_count + excluded.trade_count,
    quantity = minutes.quantity + excluded.quantity,
    volume = minutes.volume + excluded.volume,
    price_sum = minutes.price_sum + excluded.price_sum,
    high = greatest(minutes.high, excluded.high),
    low = least(minutes.low, excluded.low),
    close = excluded.close,
    position = excluded.position
"""

# Intervals are counted from the epoch, so that an hour begins on the hour.
READ_INTERVALS = text("""
select
    minute / :interval * :interval as minute,
    sum(trade_count)::bigint as trade_count,
    sum(quantity) as quantity,
    sum(volume) as volume,
    sum(price_sum) as price_sum,
    (array_agg(open order by minute))[1] as open,
    max(high) as high,
    min(low) as low,
    (array_agg(close order by minute desc))[1] as close
from minutes
where generation = :generation and instrument = :instrument and minute between :first and :last
group by 1
order by 1
limit :limit
""")


class Bucket(Struct, frozen=True):
    """The trades of an interval that begins at ``minute``; prices and sums are in units."""

    minute: int
    trade_count: int
    quantity: int
    volume: int
    price_sum: int
    open: int
    high: int
    low: int
    close: int


@QUERIES.query
async def list_buckets(
    connection: AsyncConnection,
    live: Live,
    instrument: str,
    *,
    first: int,
    last: int,
    interval: int,
    limit: int,
) -> list[Bucket]:
    """Return the intervals that have trades, oldest first.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        instrument: Its name.
        first: The first minute that counts, in minutes since the epoch.
        last: The last minute that counts.
        interval: How many minutes a bucket has.
        limit: How many buckets at most.
    """
    parameters = {
        "generation": live.generation,
        "instrument": instrument,
        "first": first,
        "last": last,
        "interval": interval,
        "limit": limit,
    }
    rows = await connection.execute(READ_INTERVALS, parameters)
    buckets: list[Bucket] = []
    for part in rows.partitions(ROWS_AT_ONCE):
        buckets += [Bucket(*(int(value) for value in row)) for row in part]
        await asyncio.sleep(0)  # lets other coroutines run: a week of minutes takes 40 ms
    return buckets


async def list_buckets_as_of(
    connection: AsyncConnection,
    live: Live,
    fold: "MinutesFold",
    instrument: str,
    *,
    first: int,
    last: int,
    interval: int,
    limit: int,
) -> list[Bucket]:
    """Return what ``list_buckets`` said at a moment that the live model has passed.

    The minutes before the newest one of the moment were whole by then, and are as they were. The
    newest one may have gone on since, so it is that of ``fold``, which ends at the moment.
    """
    newest = fold.newest(instrument)
    if newest is None:
        return []
    whole = min(last, newest.minute - 1)
    asked = {"first": first, "last": whole, "interval": interval, "limit": limit}
    buckets = await list_buckets(connection, live, instrument, **asked)
    if first <= newest.minute <= last:
        _add_minute(buckets, newest, newest.minute // interval * interval)
    return buckets[:limit]


def _add_minute(buckets: list[Bucket], newest: Bucket, begin: int) -> None:
    """Add the trades of a later minute to its interval, which begins at ``begin``."""
    if not buckets or buckets[-1].minute != begin:
        buckets.append(replace(newest, minute=begin))
        return
    so_far = buckets[-1]
    buckets[-1] = Bucket(
        begin,
        so_far.trade_count + newest.trade_count,
        so_far.quantity + newest.quantity,
        so_far.volume + newest.volume,
        so_far.price_sum + newest.price_sum,
        so_far.open,
        max(so_far.high, newest.high),
        min(so_far.low, newest.low),
        newest.close,
    )


class _Minute(Struct, gc=False):
    """The trades of one minute, as they are added: the columns of ``MINUTES``, in order."""

    instrument: str
    minute: int
    shard: int
    trade_count: int
    quantity: int
    volume: int
    price_sum: int
    open: int
    high: int
    low: int
    close: int
    position: int

    def add(self, trade: TradeExecuted, position: int) -> None:
        price = trade.price
        self.trade_count += 1
        self.quantity += trade.quantity
        self.volume += price * trade.quantity
        self.price_sum += price
        if price > self.high:
            self.high = price
        if price < self.low:
            self.low = price
        self.close = price
        self.position = position


class _State(Struct):
    """What a fold keeps: rows that are finished, and each instrument's newest minute."""

    finished: list[Row]
    newest: dict[str, _Minute]


class MinutesFold:
    """The minutes in memory; those before an instrument's newest one are finished."""

    def __init__(self, state: _State | None = None) -> None:
        self._state = state or _State([], {})

    def add(self, part: LogPart) -> None:
        newest = self._state.newest
        for position, event in enumerate(part.events, part.first):
            if type(event) is not TradeExecuted:
                continue
            minute = newest.get(event.instrument)
            if minute is None or minute.minute != event.time_ms // MINUTE_MS:
                minute = self._begin(part.shard, event)
            minute.add(event, position)

    def finished(self) -> Rows:
        rows, self._state.finished = self._state.finished, []
        return {MINUTES.name: rows}

    def rows(self) -> Rows:
        newest = [astuple(minute) for minute in self._state.newest.values()]
        return {MINUTES.name: [*self._state.finished, *newest]}

    def newest(self, instrument: str) -> Bucket | None:
        """Return an instrument's newest minute, None if it never traded."""
        found = self._state.newest.get(instrument)
        if found is None:
            return None
        _, minute, _, *sums, _ = astuple(found)
        return Bucket(minute, *sums)

    @property
    def size(self) -> int:
        return len(self._state.finished) + len(self._state.newest)

    def dump(self) -> bytes:
        return msgspec.json.encode(self._state)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=_State))

    def _begin(self, shard: int, trade: TradeExecuted) -> _Minute:
        before = self._state.newest.get(trade.instrument)
        if before is not None:
            self._state.finished.append(astuple(before))
        number, price = trade.time_ms // MINUTE_MS, trade.price
        minute = _Minute(trade.instrument, number, shard, 0, 0, 0, 0, price, price, price, price, 0)
        self._state.newest[trade.instrument] = minute
        return minute


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Add a batch's trades to their minutes."""
    rows = fold_batch(MinutesFold(), events)[MINUTES.name]
    if rows:
        await connection.execute(UPSERT_MINUTES, generation, *columns(sorted(rows)))


def vwap_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the minutes of each instrument up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (MINUTES,),
        project,
        version=VERSION,
        fold=MinutesFold,
        last_event={MINUTES.name: "position"},
    )
