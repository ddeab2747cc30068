"""What a client holds: positions, with the profit that is realised and the one that is not."""

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.context import Gateway, gateway_of
from exchange.gateway.listings import Listing
from exchange.gateway.market import AVERAGE_DECIMALS
from exchange.gateway.operation import READING, Operation, operation
from exchange.gateway.parameters import CLIENT_ID, MIN_SEQUENCE
from exchange.gateway.problems import Problem
from exchange.gateway.reading import min_sequence, model_connection
from exchange.gateway.requests import check_id, query
from exchange.gateway.responses import (
    Amount,
    amount,
    json_response,
    ratio,
    sequence_text,
    timestamp,
)
from exchange.gateway.ticker import last_trade
from projections.positions import NAME, ClientPosition, list_positions


class PositionView(Struct, frozen=True):
    """A position; the average is null while nothing is held.

    ``mark_price`` is the instrument's last price. It is null, as is the unrealised profit,
    while that cannot be read.
    """

    instrument: str
    net_quantity: Amount
    total_cost: Amount
    avg_price: Amount | None
    realised_pnl: Amount
    unrealised_pnl: Amount | None
    mark_price: Amount | None
    last_updated: str
    sequence: int


class PositionsView(Struct, frozen=True):
    """What ``GET /market/positions/{client_id}`` answers."""

    client_id: str
    positions: list[PositionView]
    sequence: str


@operation(
    Operation(
        tag="market",
        path=(CLIENT_ID,),
        query=(MIN_SEQUENCE,),
        answers={200: (PositionsView,)},
        problems=READING,
    )
)
async def get_positions(request: Request) -> Response:
    """``GET /market/positions/{client_id}``."""
    gateway = gateway_of(request)
    client_id = check_id(request.path_params["client_id"], "client_id")
    shard = 0 if gateway.shards == 1 else None
    wanted = min_sequence(query(request), shard)
    await gateway.freshness.reach(NAME, wanted)
    async with model_connection(gateway.engine) as connection:
        rows, reached = await list_positions(connection, client_id)
    positions = [await _position(gateway, row) for row in rows]
    return json_response(PositionsView(client_id, positions, sequence_text(reached)))


async def _position(gateway: Gateway, row: ClientPosition) -> PositionView:
    listing = await gateway.listings.get(row.instrument)
    mark = await _mark(gateway, listing)
    cost_scale = listing.price_scale + listing.quantity_scale
    unrealised = None if mark is None else row.net_quantity * mark - row.total_cost
    return PositionView(
        instrument=row.instrument,
        net_quantity=amount(row.net_quantity, listing.quantity_scale),
        total_cost=amount(row.total_cost, cost_scale),
        avg_price=_average(row, listing),
        realised_pnl=amount(row.realised_pnl, cost_scale),
        unrealised_pnl=None if unrealised is None else amount(unrealised, cost_scale),
        mark_price=None if mark is None else amount(mark, listing.price_scale),
        last_updated=timestamp(row.updated_ms),
        sequence=row.position,
    )


async def _mark(gateway: Gateway, listing: Listing) -> int | None:
    """Return the last price; without Redis the position is told without its worth."""
    try:
        last, _ = await last_trade(gateway, listing)
    except Problem:
        return None
    return None if last is None else last.price


def _average(row: ClientPosition, listing: Listing) -> Raw | None:
    if not row.net_quantity:
        return None
    decimals = listing.price_scale + AVERAGE_DECIMALS
    text = ratio(row.total_cost, row.net_quantity, listing.price_scale, decimals=decimals)
    return Raw(text.encode())
