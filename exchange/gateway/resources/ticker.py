"""The ticker: the last trade, the best bid and ask, and the figures of the last 24 hours."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.amounts import Amount, ratio
from exchange.gateway.http.declaration import OF_THE_PAST, Access, Operation, operation
from exchange.gateway.http.parameters import AS_OF, INSTRUMENT, MIN_SEQUENCE
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import query
from exchange.gateway.http.responses import json_response
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.models import (
    last_trades,
    listing_of,
    of_live,
    reach_in_redis,
    read_depth,
)
from exchange.gateway.parts.reading import min_sequence, moment_connection
from exchange.gateway.server.past import or_as_of
from exchange.log.documents.text import timestamp
from projections import ticker, vwap
from projections.book import StoredBook
from projections.stores.checkpoints import Live, read_live
from projections.ticker import LastTrades
from projections.vwap import MINUTE_MS, Bucket, list_buckets

DAY_MINUTES: Final = 24 * 60


class DayView(Struct, frozen=True):
    """The trades of the last 24 hours, by whole minutes; null where there were none.

    ``sequence`` is the last event that they include, so that a stream can go on after it: that of
    the ticker may be older.
    """

    open: Amount | None
    high: Amount | None
    low: Amount | None
    close: Amount | None
    change: Amount | None
    change_percent: Amount | None
    quantity: Amount
    volume: Amount
    vwap: Amount | None
    trade_count: int
    sequence: int


class DayFigures(Struct, frozen=True):
    """The minutes of the last 24 hours with trades, and the last event that they include."""

    minutes: list[Bucket]
    position: int
    time_ms: int


class TickerView(Struct, frozen=True):
    """What ``GET /market/ticker`` answers; null where there is no trade, bid or ask."""

    instrument: str
    last_price: Amount | None
    last_quantity: Amount | None
    last_side: str | None
    last_time: str | None
    best_bid: Amount | None
    best_bid_quantity: Amount | None
    best_ask: Amount | None
    best_ask_quantity: Amount | None
    day: DayView
    timestamp: str
    sequence: int


@operation(
    Operation(
        tag="market",
        scope=Access.PUBLIC,
        query=(INSTRUMENT, MIN_SEQUENCE, *AS_OF),
        answers={200: (TickerView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_ticker(request: Request) -> Response:
    """``GET /market/ticker``: the last trade, the best bid and the best ask."""
    gateway = gateway_of(request)
    parameters = query(request)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    # At the same time, so that a silent store costs its timeout once and not three times.
    last, book, day = await asyncio.gather(
        _last(gateway, listing, wanted),
        read_depth(gateway, listing, wanted, 1),
        _day(gateway, listing, wanted),
    )
    return json_response(ticker_view(listing, last, book, day))


async def _last(gateway: Gateway, listing: Listing, wanted: int) -> LastTrades:
    async def read(live: Live) -> LastTrades:
        await reach_in_redis(gateway, live, listing.shard, wanted)
        return await last_trades(gateway, live, listing.shard, [listing.instrument])

    return await of_live(gateway, ticker.NAME, read)


async def _day(gateway: Gateway, listing: Listing, wanted: int) -> DayFigures:
    await gateway.freshness.reach(vwap.NAME, {listing.shard: wanted})
    now = time.time_ns() // 1_000_000 // MINUTE_MS
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, vwap.NAME)
        minutes = await list_buckets(
            connection,
            live,
            listing.instrument,
            first=now - DAY_MINUTES + 1,
            last=now,
            interval=1,
            limit=DAY_MINUTES,
        )
    shard = listing.shard
    return DayFigures(minutes, live.reached.get(shard, 0), live.times_ms.get(shard, 0))


def ticker_view(
    listing: Listing, last_trades: LastTrades, book: StoredBook, day: DayFigures
) -> TickerView:
    """Return the ticker made of the last trade, the book and the last day."""
    last = last_trades.trades.get(listing.instrument)
    bid, bid_quantity = listing.level(next(iter(book.bids), None))
    ask, ask_quantity = listing.level(next(iter(book.asks), None))
    # The position of the model furthest behind: everything in the answer is at least that new.
    position, time_ms = min(
        (last_trades.position, last_trades.time_ms),
        (book.position, book.time_ms),
        (day.position, day.time_ms),
    )
    return TickerView(
        instrument=listing.instrument,
        last_price=None if last is None else listing.price(last.price),
        last_quantity=None if last is None else listing.quantity(last.quantity),
        last_side=None if last is None else last.taker_side,
        last_time=None if last is None else timestamp(last.time_ms),
        best_bid=bid,
        best_bid_quantity=bid_quantity,
        best_ask=ask,
        best_ask_quantity=ask_quantity,
        day=_day_view(listing, day.minutes, day.position),
        timestamp=timestamp(time_ms),
        sequence=position,
    )


def _day_view(listing: Listing, day: Sequence[Bucket], position: int) -> DayView:
    quantity, volume = sum(b.quantity for b in day), sum(b.volume for b in day)
    totals = (listing.quantity(quantity), listing.cost(volume))
    if not day:
        return DayView(None, None, None, None, None, None, *totals, None, 0, position)
    opened, closed = day[0].open, day[-1].close
    return DayView(
        open=listing.price(opened),
        high=listing.price(max(b.high for b in day)),
        low=listing.price(min(b.low for b in day)),
        close=listing.price(closed),
        change=listing.price(closed - opened),
        change_percent=Raw(ratio(100 * (closed - opened), opened, 0, decimals=4).encode()),
        quantity=totals[0],
        volume=totals[1],
        vwap=listing.average_price(volume, quantity),
        trade_count=sum(b.trade_count for b in day),
        sequence=position,
    )
