"""A client's fills: its side of each trade, newest first.

Trades have no index by client. A page looks through the last ``TRADES_LOOKED_AT`` trades of one
instrument, so it costs the same for a client with few fills as for one with many. It may have fewer
fills than asked for, or none, and still a cursor, which goes on where the page ended.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.values import Side
from exchange.gateway.http.amounts import Amount
from exchange.gateway.http.callers import caller_of, owner_of
from exchange.gateway.http.declaration import PAGING, Access, Operation, operation
from exchange.gateway.http.parameters import CURSOR, INSTRUMENT, MIN_SEQUENCE, OWNER
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import cursor, integer, query
from exchange.gateway.http.responses import cursor_text, in_turns, json_response
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.models import listing_of
from exchange.gateway.parts.reading import heavy_connection, min_sequence
from exchange.log.documents.text import timestamp
from projections import trades
from projections.stores.checkpoints import read_live
from projections.trades import Trade

FILLS_LIMIT: Final = limit_of(50, 1_000, "trades of the client")
TRADES_LOOKED_AT: Final = 10_000  # bounds what a page reads, however rarely the client trades


class Role(StrEnum):
    """Which of a trade's orders was there before the other."""

    MAKER = "maker"
    TAKER = "taker"


class FillView(Struct, frozen=True):
    """One side of a trade; ``sequence`` is the trade's position in the shard's log."""

    trade_id: str
    order_id: str
    side: Side
    role: Role
    price: Amount
    quantity: Amount
    timestamp: str
    sequence: int


class FillsView(Struct, frozen=True):
    """What ``GET /market/fills`` answers: newest first."""

    client_id: str
    instrument: str
    fills: list[FillView]
    count: int
    next_cursor: str | None
    sequence: int


@operation(
    Operation(
        tag="market",
        scope=Access.READ,
        query=(OWNER, INSTRUMENT, FILLS_LIMIT, CURSOR, MIN_SEQUENCE),
        answers={200: (FillsView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *PAGING),
    )
)
async def get_fills(request: Request) -> Response:
    """``GET /market/fills?client_id=…``: a client's side of each trade, newest first."""
    gateway = gateway_of(request)
    parameters = query(request)
    client_id = owner_of(caller_of(request), parameters)
    limit = integer(parameters, FILLS_LIMIT)
    before = cursor(parameters, 1)
    if before:
        await charge_history(request, client_id)
    listing = await listing_of(gateway, parameters)
    wanted = min_sequence(parameters, listing.shard, gateway.known_shards)
    await gateway.freshness.reach(trades.NAME, {listing.shard: wanted})
    async with heavy_connection(gateway.engine, gateway.heavy_reads) as connection:
        live = await read_live(connection, trades.NAME)
        found = await trades.list_client_trades(
            connection,
            live,
            listing.instrument,
            client_id,
            before=before[0] if before else None,
            limit=limit + 1,
            looked_at=TRADES_LOOKED_AT,
        )
    more, rows = len(found.trades) > limit, found.trades[:limit]
    goes_on = rows[-1].position if more else found.looked_to
    sides = [(row, side) for row in rows for side in _sides_of(row, client_id)]
    fills = await in_turns(lambda one: _fill(*one, listing), sides)
    view = FillsView(
        client_id=client_id,
        instrument=listing.instrument,
        fills=fills,
        count=len(fills),
        next_cursor=None if goes_on is None else cursor_text(goes_on),
        sequence=live.reached.get(listing.shard, 0),
    )
    return json_response(view)


def _sides_of(row: Trade, client_id: str) -> list[Side]:
    """Return the client's sides of a trade: both, if it traded with itself."""
    sides = ((Side.BUY, row.buyer_client_id), (Side.SELL, row.seller_client_id))
    return [side for side, owner in sides if owner == client_id]


def _fill(row: Trade, side: Side, listing: Listing) -> FillView:
    return FillView(
        trade_id=row.trade_id,
        order_id=row.buy_order_id if side is Side.BUY else row.sell_order_id,
        side=side,
        role=Role.TAKER if row.taker_side == side else Role.MAKER,
        price=listing.price(row.price),
        quantity=listing.quantity(row.quantity),
        timestamp=timestamp(row.time_ms),
        sequence=row.position,
    )
