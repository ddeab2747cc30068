"""Trade figures over time: exact sums of minute buckets, rolled up to any interval."""

import time
from collections.abc import Mapping
from typing import Final

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.amounts import Amount
from exchange.gateway.http.declaration import OF_THE_PAST, Access, Operation, operation
from exchange.gateway.http.parameters import (
    AS_OF,
    END_TIME,
    INSTRUMENT,
    INTERVAL,
    MIN_SEQUENCE,
    START_TIME,
)
from exchange.gateway.http.problems import Code, invalid
from exchange.gateway.http.requests import integer, moment_ms, query
from exchange.gateway.http.responses import in_turns, json_response
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.models import listing_of
from exchange.gateway.parts.reading import heavy_connection, min_sequence
from exchange.gateway.server.past import or_as_of
from exchange.log.documents.text import timestamp
from projections.stores.checkpoints import read_live
from projections.vwap import MINUTE_MS, NAME, Bucket, list_buckets

DAY_MS: Final = 24 * 60 * MINUTE_MS
BUCKETS_MAX: Final = 10_080  # a week of minutes: some 2.5 MB of JSON
TIME_MS_MAX: Final = 253_402_300_799_999  # the year 9999, the last that ISO 8601 writes plainly


class AggregateView(Struct, frozen=True):
    """The trades of one interval."""

    time_bucket: str
    trade_count: int
    total_quantity: Amount
    avg_price: Amount
    min_price: Amount
    max_price: Amount
    open_price: Amount
    close_price: Amount
    total_volume: Amount
    vwap: Amount


class AnalyticsView(Struct, frozen=True):
    """What ``GET /market/analytics`` answers; intervals without trades are left out."""

    instrument: str
    start_time: str
    end_time: str
    interval_minutes: int
    aggregates: list[AggregateView]
    overall_vwap: Amount | None
    sequence: int


@operation(
    Operation(
        tag="market",
        scope=Access.PUBLIC,
        query=(INSTRUMENT, START_TIME, END_TIME, INTERVAL, MIN_SEQUENCE, *AS_OF),
        answers={200: (AnalyticsView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_analytics(request: Request) -> Response:
    """``GET /market/analytics``: candles, volumes and average prices by interval."""
    gateway = gateway_of(request)
    parameters = query(request)
    interval = integer(parameters, INTERVAL)
    start_ms, end_ms = times_of(parameters, interval, time.time_ns() // 1_000_000)
    if "start_time" in parameters or "end_time" in parameters:
        await charge_history(request)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    await gateway.freshness.reach(NAME, {listing.shard: wanted})
    async with heavy_connection(gateway.engine, gateway.heavy_reads) as connection:
        live = await read_live(connection, NAME)
        buckets = await list_buckets(
            connection,
            live,
            listing.instrument,
            first=start_ms // MINUTE_MS,
            last=end_ms // MINUTE_MS,
            interval=interval,
            limit=BUCKETS_MAX + 1,
        )
    reached = live.reached.get(listing.shard, 0)
    times_ms = (start_ms, end_ms)
    return json_response(await analytics_view(listing, times_ms, interval, buckets, reached))


async def analytics_view(
    listing: Listing, times_ms: tuple[int, int], interval: int, buckets: list[Bucket], sequence: int
) -> AnalyticsView:
    """Return what clients see of the intervals between two times, as of a sequence."""
    start_ms, end_ms = times_ms
    return AnalyticsView(
        listing.instrument,
        timestamp(start_ms),
        timestamp(end_ms),
        interval,
        await in_turns(lambda bucket: _aggregate_view(bucket, listing), buckets),
        _overall_vwap(buckets, listing),
        sequence,
    )


def times_of(parameters: Mapping[str, str], interval: int, now_ms: int) -> tuple[int, int]:
    """Return the first and the last millisecond asked for; by default the day before ``now_ms``.

    Raises:
        Problem: 422, a time is out of range, they are in the wrong order, or there are too many
            intervals of so many minutes between them.
    """
    start_ms, end_ms = _times(parameters, now_ms)
    if (end_ms // MINUTE_MS - start_ms // MINUTE_MS) // interval + 1 > BUCKETS_MAX:
        raise invalid("interval", f"gives more than {BUCKETS_MAX} intervals: choose longer ones")
    return start_ms, end_ms


def _times(parameters: Mapping[str, str], now_ms: int) -> tuple[int, int]:
    start_ms, end_ms = moment_ms(parameters, "start_time"), moment_ms(parameters, "end_time")
    if end_ms is None:
        end_ms = now_ms
        if start_ms is not None and start_ms > end_ms:
            # Clocks differ, so a start within the present minute is allowed.
            if start_ms // MINUTE_MS > end_ms // MINUTE_MS:
                raise invalid("start_time", "must not be in the future")
            end_ms = start_ms
    elif not 0 <= end_ms <= TIME_MS_MAX:
        raise invalid("end_time", "must be between the years 1970 and 9999")
    if start_ms is None:
        start_ms = max(0, end_ms - DAY_MS)
    if not 0 <= start_ms <= TIME_MS_MAX:
        raise invalid("start_time", "must be between the years 1970 and 9999")
    if not start_ms <= end_ms:
        raise invalid("end_time", "must not be before start_time")
    return start_ms, end_ms


def _aggregate_view(bucket: Bucket, listing: Listing) -> AggregateView:
    return AggregateView(
        time_bucket=timestamp(bucket.minute * MINUTE_MS),
        trade_count=bucket.trade_count,
        total_quantity=listing.quantity(bucket.quantity),
        avg_price=listing.average_price(bucket.price_sum, bucket.trade_count),
        min_price=listing.price(bucket.low),
        max_price=listing.price(bucket.high),
        open_price=listing.price(bucket.open),
        close_price=listing.price(bucket.close),
        total_volume=listing.cost(bucket.volume),
        vwap=listing.average_price(bucket.volume, bucket.quantity),
    )


def _overall_vwap(buckets: list[Bucket], listing: Listing) -> Raw | None:
    """Return the volume-weighted average price of all intervals, None without trades."""
    quantity = sum(bucket.quantity for bucket in buckets)
    if not quantity:
        return None
    volume = sum(bucket.volume for bucket in buckets)
    return listing.average_price(volume, quantity)
