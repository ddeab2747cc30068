"""The ticker: the last trade, the touch of the book, and the figures of the last 24 hours."""

import time
from collections.abc import Sequence
from typing import Final

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.context import Gateway, gateway_of
from exchange.gateway.listings import Listing
from exchange.gateway.market import AVERAGE_DECIMALS, check_current, listing_of, read_depth
from exchange.gateway.operation import READING, Operation, operation
from exchange.gateway.parameters import INSTRUMENT, MIN_SEQUENCE
from exchange.gateway.problems import Code
from exchange.gateway.reading import CATCH_UP_WAIT_MS, answering, min_sequence, model_connection
from exchange.gateway.requests import query
from exchange.gateway.responses import Amount, amount, json_response, ratio, timestamp
from projections import ticker
from projections.book import BookView
from projections.checkpoints import read_live_generation
from projections.redis_model import await_position
from projections.ticker import LastTrade, read_last_trade
from projections.vwap import MINUTE_MS, Bucket, list_buckets

DAY_MINUTES: Final = 24 * 60


class DayView(Struct, frozen=True):
    """The trades of the last 24 hours, by whole minutes; null where there were none."""

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
        query=(INSTRUMENT, MIN_SEQUENCE),
        answers={200: (TickerView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *READING),
    )
)
async def get_ticker(request: Request) -> Response:
    """``GET /market/ticker``."""
    gateway = gateway_of(request)
    parameters = query(request)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard).get(listing.shard, 0)
    last, reached = await last_trade(gateway, listing, wanted)
    book = await read_depth(gateway, listing, wanted, 1, CATCH_UP_WAIT_MS)
    day = await _day(gateway, listing)
    sequence = min(reached, book.position)
    return json_response(_view(listing, last, book, day, sequence))


async def last_trade(
    gateway: Gateway, listing: Listing, wanted: int = 0
) -> tuple[LastTrade | None, int]:
    """Return an instrument's last trade at or after a position, and the one it is as of.

    Raises:
        Problem: 503, the model is not there, is behind, or did not get there in time.
    """
    async with model_connection(gateway.engine) as connection:
        generation = await read_live_generation(connection, ticker.NAME)
    with answering():
        if wanted:
            model = (ticker.NAME, generation, listing.shard)
            await await_position(gateway.redis, *model, wanted, timeout_ms=CATCH_UP_WAIT_MS)
        place = (generation, listing.shard, listing.instrument)
        last, reached = await read_last_trade(gateway.redis, *place)
    check_current(gateway, listing, ticker.NAME, reached)
    return last, reached


async def _day(gateway: Gateway, listing: Listing) -> list[Bucket]:
    now = time.time_ns() // 1_000_000 // MINUTE_MS
    async with model_connection(gateway.engine) as connection:
        buckets, _ = await list_buckets(
            connection,
            listing.instrument,
            first=now - DAY_MINUTES + 1,
            last=now,
            interval=1,
            limit=DAY_MINUTES,
        )
    return buckets


def _view(
    listing: Listing,
    last: LastTrade | None,
    book: BookView,
    day: Sequence[Bucket],
    sequence: int,
) -> TickerView:
    bid, bid_quantity = _touch(book.bids, listing)
    ask, ask_quantity = _touch(book.asks, listing)
    return TickerView(
        instrument=listing.instrument,
        last_price=None if last is None else amount(last.price, listing.price_scale),
        last_quantity=None if last is None else amount(last.quantity, listing.quantity_scale),
        last_side=None if last is None else last.taker_side,
        last_time=None if last is None else timestamp(last.time_ms),
        best_bid=bid,
        best_bid_quantity=bid_quantity,
        best_ask=ask,
        best_ask_quantity=ask_quantity,
        day=_day_view(listing, day),
        timestamp=timestamp(book.time_ms),
        sequence=sequence,
    )


def _touch(levels: Sequence[tuple[int, int]], listing: Listing) -> tuple[Raw | None, Raw | None]:
    if not levels:
        return None, None
    price, quantity = levels[0]
    return amount(price, listing.price_scale), amount(quantity, listing.quantity_scale)


def _day_view(listing: Listing, day: Sequence[Bucket]) -> DayView:
    scale, quantity_scale = listing.price_scale, listing.quantity_scale
    quantity, volume = sum(b.quantity for b in day), sum(b.volume for b in day)
    totals = (amount(quantity, quantity_scale), amount(volume, scale + quantity_scale))
    if not day:
        return DayView(None, None, None, None, None, None, *totals, None, 0)
    opened, closed = day[0].open, day[-1].close
    decimals = scale + AVERAGE_DECIMALS
    return DayView(
        open=amount(opened, scale),
        high=amount(max(b.high for b in day), scale),
        low=amount(min(b.low for b in day), scale),
        close=amount(closed, scale),
        change=amount(closed - opened, scale),
        change_percent=Raw(ratio(100 * (closed - opened), opened, 0, decimals=4).encode()),
        quantity=totals[0],
        volume=totals[1],
        vwap=Raw(ratio(volume, quantity, scale, decimals=decimals).encode()),
        trade_count=sum(b.trade_count for b in day),
    )
