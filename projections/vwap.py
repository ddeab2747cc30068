"""One-minute buckets of each instrument's trades, rolled up to any interval when asked.

Volume is the sum of price × quantity and ``price_sum`` the sum of prices, both exact, so the
volume-weighted and the plain average of any interval are quotients of exact sums. An instrument's
trades come in order and time never runs backwards. So the first trade of a minute gives its open,
and the last one its close.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Integer, Numeric, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import TradeExecuted
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.stores.checkpoints import read_checkpoints
from projections.stores.postgres import PostgresProjection, columns

NAME = "vwap"

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
where generation = (select generation from live where projection = 'vwap')
    and instrument = :instrument and minute between :first and :last
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


async def list_buckets(
    connection: AsyncConnection,
    instrument: str,
    *,
    first: int,
    last: int,
    interval: int,
    limit: int,
) -> tuple[list[Bucket], dict[int, int]]:
    """Return the intervals that have trades, oldest first, and how far the model was at least.

    Args:
        connection: Any connection to the database.
        instrument: Its name.
        first: The first minute that counts, in minutes since the epoch.
        last: The last minute that counts.
        interval: How many minutes a bucket has.
        limit: How many buckets at most.
    """
    reached = await read_checkpoints(connection, NAME)
    parameters = {
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
    return buckets, reached


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Add a batch's trades to their minutes."""
    minutes: dict[tuple[str, int], tuple[Bucket, DecidedEvent]] = {}
    for decided in events:
        event = decided.event
        if isinstance(event, TradeExecuted):
            key = (event.instrument, event.time_ms // MINUTE_MS)
            bucket = _traded(minutes[key][0] if key in minutes else None, event)
            minutes[key] = (bucket, decided)
    if minutes:
        rows = [_row(key[0], *minutes[key]) for key in sorted(minutes)]
        await connection.execute(UPSERT_MINUTES, generation, *columns(rows))


def vwap_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps the minutes of each instrument up to date."""
    return PostgresProjection(engine, NAME, (MINUTES,), project)


def _traded(bucket: Bucket | None, trade: TradeExecuted) -> Bucket:
    price, quantity = trade.price, trade.quantity
    minute = trade.time_ms // MINUTE_MS
    if bucket is None:
        volume = price * quantity
        return Bucket(minute, 1, quantity, volume, price, price, price, price, price)
    return Bucket(
        minute,
        bucket.trade_count + 1,
        bucket.quantity + quantity,
        bucket.volume + price * quantity,
        bucket.price_sum + price,
        bucket.open,
        max(bucket.high, price),
        min(bucket.low, price),
        price,
    )


def _row(instrument: str, bucket: Bucket, last: DecidedEvent) -> tuple[object, ...]:
    return (
        instrument,
        bucket.minute,
        last.shard,
        bucket.trade_count,
        bucket.quantity,
        bucket.volume,
        bucket.price_sum,
        bucket.open,
        bucket.high,
        bucket.low,
        bucket.close,
        last.position,
    )
