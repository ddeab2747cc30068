"""Market data: the book from Redis, trades from Postgres."""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.codec import Depth
from exchange.domain.values import Side
from exchange.gateway.http.declaration import PAGING, READING, Operation, operation
from exchange.gateway.http.parameters import CURSOR, INSTRUMENT, LEVELS, MIN_SEQUENCE
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import check_id, cursor, integer, query
from exchange.gateway.http.responses import (
    DepthView,
    JSONBytes,
    TradeView,
    amount,
    book,
    cursor_text,
    in_turns,
    json_response,
    timestamp,
)
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.reading import (
    CATCH_UP_WAIT_MS,
    answering,
    from_redis,
    min_sequence,
    model_connection,
)
from exchange.waiting import within
from projections import trades
from projections.book import NAME as BOOK
from projections.book import BookView, read_book
from projections.stores.checkpoints import read_live_generation

INSTRUMENT_DEFAULT: Final = str(INSTRUMENT.default)
TRADES_LIMIT: Final = limit_of(50, 1_000, "trades")
AVERAGE_DECIMALS: Final = 8  # beyond the price's own; an average need not terminate
BOOK_WAIT_S: Final = 0.25  # an order's answer rather has no book than comes late


class OrderbookView(Struct, frozen=True):
    """What ``GET /market/orderbook`` answers: best levels first."""

    instrument: str
    bids: list[DepthView]
    asks: list[DepthView]
    timestamp: str
    sequence: int


class TradesView(Struct, frozen=True):
    """What ``GET /market/trades`` answers: newest first."""

    instrument: str
    trades: list[TradeView]
    count: int
    next_cursor: str | None
    sequence: int


@operation(
    Operation(
        tag="market",
        query=(INSTRUMENT, LEVELS, MIN_SEQUENCE),
        answers={200: (OrderbookView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *READING),
    )
)
async def get_orderbook(request: Request) -> Response:
    """``GET /market/orderbook``."""
    gateway = gateway_of(request)
    parameters = query(request)
    levels = integer(parameters, LEVELS)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    view = await read_depth(gateway, listing, wanted, levels)
    return JSONBytes(
        f'{{"instrument":"{listing.instrument}",{_sides(view, listing)}'
        f',"timestamp":"{timestamp(view.time_ms)}","sequence":{view.position}}}'
    )


async def book_after(gateway: Gateway, listing: Listing, sequence: int) -> Raw | None:
    """Return the book at or after a position for the answer to an order, None if there is none."""
    if gateway.health.is_away("redis"):
        return None
    try:
        view = await within(BOOK_WAIT_S, read_depth(gateway, listing, sequence, LEVELS.default))
    except (Problem, TimeoutError):
        return None
    return Raw(f"{{{_sides(view, listing)}}}".encode())


@operation(
    Operation(
        tag="market",
        query=(INSTRUMENT, TRADES_LIMIT, CURSOR, MIN_SEQUENCE),
        answers={200: (TradesView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *PAGING),
    )
)
async def get_trades(request: Request) -> Response:
    """``GET /market/trades``: newest first."""
    gateway = gateway_of(request)
    parameters = query(request)
    limit = integer(parameters, TRADES_LIMIT)
    before = cursor(parameters, 1)
    if before:
        await charge_history(request)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    await gateway.freshness.reach(trades.NAME, {listing.shard: wanted})
    async with model_connection(gateway.engine) as connection:
        rows, reached = await trades.list_trades(
            connection, listing.instrument, before=before[0] if before else None, limit=limit + 1
        )
    more, rows = len(rows) > limit, rows[:limit]
    view = TradesView(
        instrument=listing.instrument,
        trades=await in_turns(lambda row: _trade(row, listing), rows),
        count=len(rows),
        next_cursor=cursor_text(rows[-1].position) if more else None,
        sequence=reached.get(listing.shard, 0),
    )
    return json_response(view)


async def listing_of(gateway: Gateway, parameters: Mapping[str, str]) -> Listing:
    """Return the listing of the ``instrument`` parameter, or of the default one."""
    instrument = parameters.get("instrument", INSTRUMENT_DEFAULT)
    return await gateway.listings.get(check_id(instrument, "instrument"))


async def read_depth(gateway: Gateway, listing: Listing, sequence: int, levels: int) -> BookView:
    """Return a book at or after a position.

    Raises:
        Problem: 503, the model is not there, is behind, or did not get there in time.
    """
    async with model_connection(gateway.engine) as connection:
        generation = await read_live_generation(connection, BOOK)
    place = (generation, listing.shard)
    await reach_in_redis(gateway, BOOK, *place, sequence)
    view = await from_redis(BOOK, read_book(gateway.redis, *place, listing.instrument, levels))
    check_current(gateway, listing.shard, BOOK, view.position)
    return view


async def reach_in_redis(
    gateway: Gateway, model: str, generation: int, shard: int, position: int
) -> None:
    """Wait until a read model in Redis has seen a position, if there is one.

    Raises:
        Problem: 503, it did not in time or is not there.
    """
    if not position:
        return
    with answering():
        await gateway.model_waits.reach(
            model, generation, shard, position, timeout_ms=CATCH_UP_WAIT_MS
        )


def check_current(gateway: Gateway, shard: int, model: str, position: int) -> None:
    """Refuse what a model tells that stands still, although Redis has it.

    Raises:
        Problem: 503, the model has not seen what it had to see by now.
    """
    if position < gateway.health.due(shard):
        raise Problem(Code.READ_STALE, f"The {model} is behind, at {position}.")


def _sides(view: BookView, listing: Listing) -> str:
    depth = Depth(view.position, view.bids, view.asks)
    return book(depth, listing.price_scale, listing.quantity_scale)


def _trade(row: trades.Trade, listing: Listing) -> TradeView:
    return TradeView(
        trade_id=row.trade_id,
        buy_order_id=row.buy_order_id,
        sell_order_id=row.sell_order_id,
        price=amount(row.price, listing.price_scale),
        quantity=amount(row.quantity, listing.quantity_scale),
        taker_side=Side(row.taker_side),
        timestamp=timestamp(row.time_ms),
        sequence=row.position,
    )
