"""A client's positions, with their realised and unrealised profit."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.amounts import Amount
from exchange.gateway.http.callers import caller_of, owner_of
from exchange.gateway.http.declaration import OF_THE_PAST, Access, Operation, operation
from exchange.gateway.http.parameters import AS_OF, CLIENT_ID, CURSOR, MIN_SEQUENCE
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import id_cursor, integer, query
from exchange.gateway.http.responses import cursor_text, in_turns, json_response, sequence_text
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.models import last_trades, of_live
from exchange.gateway.parts.reading import min_sequences, moment_connection
from exchange.gateway.server.past import or_as_of
from exchange.log.documents.text import timestamp
from exchange.waiting import within
from projections import ticker
from projections.positions import NAME, ClientPosition, list_positions
from projections.stores.checkpoints import Live, read_live

POSITIONS_LIMIT: Final = limit_of(1_000, 1_000, "positions")  # such a page has some 300 kB
MARK_WAIT_S: Final = 0.25  # positions are answered without their marks rather than late
ALL_MARKS_WAIT_S: Final = 0.75  # the live generation is asked for before and after


class PositionView(Struct, frozen=True):
    """A position; ``avg_price`` is null while nothing is held.

    ``mark_price`` is the instrument's last price. It and ``unrealised_pnl`` are null while the last
    price cannot be read.
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
    """What ``GET /market/positions/{client_id}`` answers: by instrument."""

    client_id: str
    positions: list[PositionView]
    count: int
    next_cursor: str | None
    sequence: str


@operation(
    Operation(
        tag="market",
        scope=Access.READ,
        path=(CLIENT_ID,),
        query=(POSITIONS_LIMIT, CURSOR, MIN_SEQUENCE, *AS_OF),
        answers={200: (PositionsView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_positions(request: Request) -> Response:
    """``GET /market/positions/{client_id}``: what a client holds, by instrument."""
    gateway = gateway_of(request)
    client_id = owner_of(caller_of(request), request.path_params)
    parameters = query(request)
    limit, after = integer(parameters, POSITIONS_LIMIT), id_cursor(parameters)
    if after is not None:
        await charge_history(request, client_id)
    await gateway.freshness.reach(NAME, min_sequences(parameters, gateway.known_shards))
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        rows = await list_positions(connection, live, client_id, after=after or "", limit=limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    listings = await gateway.listings.of([row.instrument for row in rows])
    marks = await _marks(gateway, list(listings.values()))
    sequence = sequence_text(live.reached)
    return json_response(
        await positions_view(client_id, rows, listings, marks, sequence, more=more)
    )


async def positions_view(
    client_id: str,
    rows: Sequence[ClientPosition],
    listings: Mapping[str, Listing],
    marks: Mapping[str, int],
    sequence: str,
    *,
    more: bool,
) -> PositionsView:
    """Return a page of a client's positions; ``more`` says that others follow."""
    return PositionsView(
        client_id=client_id,
        positions=await in_turns(
            lambda row: _position_view(row, listings[row.instrument], marks.get(row.instrument)),
            rows,
        ),
        count=len(rows),
        next_cursor=cursor_text(rows[-1].instrument) if more else None,
        sequence=sequence,
    )


async def _marks(gateway: Gateway, listings: Sequence[Listing]) -> dict[str, int]:
    """Return the last price of each instrument, without those that cannot be read in time.

    Each shard is asked once, all at the same time, and none while Redis is away.
    """
    if not listings or gateway.health.is_away("redis"):
        return {}
    of_shards: defaultdict[int, list[str]] = defaultdict(list)
    for listing in listings:
        of_shards[listing.shard].append(listing.instrument)

    async def read(live: Live) -> dict[str, int]:
        asked = (_marks_of(gateway, live, *item) for item in of_shards.items())
        found = await asyncio.gather(*asked)
        return {name: price for marks in found for name, price in marks.items()}

    try:
        return await within(ALL_MARKS_WAIT_S, of_live(gateway, ticker.NAME, read))
    except (Problem, TimeoutError):
        return {}


async def _marks_of(
    gateway: Gateway, live: Live, shard: int, instruments: Sequence[str]
) -> dict[str, int]:
    try:
        last = await within(MARK_WAIT_S, last_trades(gateway, live, shard, instruments))
    except (Problem, TimeoutError):
        return {}
    return {name: trade.price for name, trade in last.trades.items()}


def _position_view(row: ClientPosition, listing: Listing, mark: int | None) -> PositionView:
    unrealised = None if mark is None else row.net_quantity * mark - row.total_cost
    return PositionView(
        instrument=row.instrument,
        net_quantity=listing.quantity(row.net_quantity),
        total_cost=listing.cost(row.total_cost),
        avg_price=_average(row, listing),
        realised_pnl=listing.cost(row.realised_pnl),
        unrealised_pnl=None if unrealised is None else listing.cost(unrealised),
        mark_price=None if mark is None else listing.price(mark),
        last_updated=timestamp(row.updated_ms),
        sequence=row.position,
    )


def _average(row: ClientPosition, listing: Listing) -> Raw | None:
    if not row.net_quantity:
        return None
    return listing.average_price(row.total_cost, row.net_quantity)
