"""Market data: the book from Redis, trades from Postgres."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.values import Side
from exchange.gateway.http.declaration import OF_THE_PAST, PAGING, Access, Operation, operation
from exchange.gateway.http.parameters import AS_OF, CURSOR, INSTRUMENT, LEVELS, MIN_SEQUENCE
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import cursor, integer, query
from exchange.gateway.http.responses import (
    DepthView,
    JSONBytes,
    TradeView,
    cursor_text,
    in_turns,
    json_response,
)
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.models import listing_of, read_depth, sides
from exchange.gateway.parts.reading import min_sequence, moment_connection
from exchange.gateway.server.past import or_as_of
from exchange.log.documents.text import timestamp
from projections import trades
from projections.book import StoredBook
from projections.stores.checkpoints import read_live

TRADES_LIMIT: Final = limit_of(50, 1_000, "trades")


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
        scope=Access.PUBLIC,
        query=(INSTRUMENT, LEVELS, MIN_SEQUENCE, *AS_OF),
        answers={200: (OrderbookView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_orderbook(request: Request) -> Response:
    """``GET /market/orderbook``: the best levels of both sides."""
    gateway = gateway_of(request)
    parameters = query(request)
    levels = integer(parameters, LEVELS)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    view = await read_depth(gateway, listing, wanted, levels)
    return JSONBytes(orderbook_text(listing, view))


def orderbook_text(listing: Listing, view: StoredBook) -> str:
    """Return an ``OrderbookView`` as JSON; made of text, since a book is asked for most."""
    return (
        f'{{"instrument":"{listing.instrument}",{sides(view, listing)}'
        f',"timestamp":"{timestamp(view.time_ms)}","sequence":{view.position}}}'
    )


@operation(
    Operation(
        tag="market",
        scope=Access.PUBLIC,
        query=(INSTRUMENT, TRADES_LIMIT, CURSOR, MIN_SEQUENCE),
        answers={200: (TradesView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *PAGING),
    )
)
async def get_trades(request: Request) -> Response:
    """``GET /market/trades``: an instrument's trades, newest first."""
    gateway = gateway_of(request)
    parameters = query(request)
    limit = integer(parameters, TRADES_LIMIT)
    before = cursor(parameters, 1)
    if before:
        await charge_history(request)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    await gateway.freshness.reach(trades.NAME, {listing.shard: wanted})
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, trades.NAME)
        rows = await trades.list_trades(
            connection,
            live,
            listing.instrument,
            before=before[0] if before else None,
            limit=limit + 1,
        )
    sequence = live.reached.get(listing.shard, 0)
    return json_response(await trades_view(listing, rows, limit, sequence))


async def trades_view(
    listing: Listing, rows: Sequence[trades.Trade], limit: int, sequence: int
) -> TradesView:
    """Return a page; ``rows`` has one more than ``limit`` if there is another page."""
    more, rows = len(rows) > limit, rows[:limit]
    return TradesView(
        instrument=listing.instrument,
        trades=await in_turns(lambda row: _trade(row, listing), rows),
        count=len(rows),
        next_cursor=cursor_text(rows[-1].position) if more else None,
        sequence=sequence,
    )


def _trade(row: trades.Trade, listing: Listing) -> TradeView:
    return TradeView(
        trade_id=row.trade_id,
        buy_order_id=row.buy_order_id,
        sell_order_id=row.sell_order_id,
        price=listing.price(row.price),
        quantity=listing.quantity(row.quantity),
        taker_side=Side(row.taker_side),
        timestamp=timestamp(row.time_ms),
        sequence=row.position,
    )
