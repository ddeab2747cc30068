"""``GET /market/trades`` of a replay: those up to where the time line is, newest first.

A tool that shows trades asks for the last ones before it follows. They are read from the read model
of trades, which only grows: so what it has up to a position is what it had then.
"""

from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.gateway.http.declaration import READING, Access, Operation, operation
from exchange.gateway.http.parameters import CURSOR, INSTRUMENT
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import check_id, cursor, integer, query
from exchange.gateway.http.responses import json_response
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.reading import Freshness, moment_connection
from exchange.gateway.resources.market import TRADES_LIMIT, TradesView, trades_view
from exchange.tools.analysts.serving.past import Past
from projections import trades
from projections.stores.checkpoints import read_live


@operation(
    Operation(
        tag="market",
        scope=Access.PUBLIC,
        query=(INSTRUMENT, TRADES_LIMIT, CURSOR),
        answers={200: (TradesView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *READING),
    )
)
async def get_trades(request: Request) -> Response:
    """``GET /market/trades``: of the past."""
    listings: Listings = request.app.state.listings
    past: Past = request.app.state.past
    freshness: Freshness = request.app.state.freshness
    asked = query(request)
    limit, before = integer(asked, TRADES_LIMIT), cursor(asked, 1)
    name = check_id(asked.get(INSTRUMENT.name, INSTRUMENT_DEFAULT), INSTRUMENT.name)
    listing = await listings.get(name)
    told = past.told(listing.shard)
    await freshness.reach(trades.NAME, {listing.shard: told})
    async with moment_connection(past.engine) as connection:
        live = await read_live(connection, trades.NAME)
        rows = await trades.list_trades(
            connection,
            live,
            listing.instrument,
            before=min(told + 1, *(before or (told + 1,))),
            limit=limit + 1,
        )
    return json_response(await trades_view(listing, rows, limit, told))
