"""What the API answered at a moment: the same members, and the sequence that they are of.

Each function answers as the endpoint of its name does now, from the parameters of its path and its
query. What counts from the present time counts from the moment.
"""

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.door.caller import Caller
from exchange.gateway.http.callers import may_see, owner_of
from exchange.gateway.http.parameters import INTERVAL, LEVELS, WholeNumber
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import check_id, cursor, id_cursor, integer
from exchange.gateway.http.responses import encoder, sequence_text
from exchange.gateway.orders.queries import (
    EVENTS_LIMIT,
    ORDERS_LIMIT,
    OrderAnswerView,
    order_events_view,
    orders_view,
    statuses_of,
)
from exchange.gateway.orders.states import order_view
from exchange.gateway.parts.listings import Listing, Listings
from exchange.gateway.parts.reading import log_connection
from exchange.gateway.resources.analytics import BUCKETS_MAX, analytics_view, times_of
from exchange.gateway.resources.market import orderbook_text
from exchange.gateway.resources.positions import POSITIONS_LIMIT, positions_view
from exchange.gateway.resources.settlement import (
    CLIENTS_LIMIT,
    CYCLES_LIMIT,
    cycle_number,
    cycles_view,
    obligations_view,
    shown_client,
)
from exchange.gateway.resources.ticker import DayFigures, ticker_view
from exchange.log.identity import registration_command_id
from exchange.log.reader import find_command
from projections.orders import Order, OrderCursor
from projections.past.past import Past
from projections.vwap import MINUTE_MS

Parameters = Mapping[str, str]


class Asking(Struct):
    """What answers are made of.

    ``rows`` is how many rows an answer has at most, instead of the ``limit`` or ``levels`` that
    parameters ask for.
    """

    past: Past
    caller: Caller
    engine: AsyncEngine
    listings: Listings
    rows: int | None = None

    @property
    def sequence(self) -> str:
        return sequence_text(self.past.moment.positions)

    def limit(self, asked: Parameters, declared: WholeNumber) -> int:
        return integer(asked, declared) if self.rows is None else self.rows

    async def listing(self, asked: Parameters) -> Listing:
        """Return the listing of the instrument that is asked for.

        Raises:
            Problem: 404, nobody had registered it at the moment.
        """
        name = check_id(asked.get("instrument", INSTRUMENT_DEFAULT), "instrument")
        listing = await self.listings.get(name)
        async with log_connection(self.engine) as connection:
            stored = await find_command(connection, registration_command_id(name))
        first = min(one.position for one in stored)
        if first > self.past.moment.at(listing.shard).position:
            detail = f"{name} was registered later, at {listing.shard}:{first}."
            raise Problem(Code.INSTRUMENT_NOT_FOUND, detail)
        return listing

    async def order(self, asked: Parameters) -> Order:
        """Return the order that is asked for.

        Raises:
            Problem: 404, there was none.
        """
        order_id = check_id(asked["order_id"], "order_id")
        found = await self.past.order(order_id)
        if found is None or not may_see(self.caller, found.client_id):
            detail = f"There was no order {order_id} at {self.sequence}."
            raise Problem(Code.ORDER_NOT_FOUND, detail, order_id=order_id)
        return found


Answer = Callable[[Asking, Parameters], Awaitable[bytes]]


async def orderbook(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/orderbook``."""
    levels, listing = asking.limit(asked, LEVELS), await asking.listing(asked)
    view = await asking.past.book(listing.shard, listing.instrument, levels)
    return orderbook_text(listing, view).encode()


async def ticker(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/ticker``."""
    listing = await asking.listing(asked)
    parts = await asking.past.ticker(listing.shard, listing.instrument)
    at = asking.past.moment.at(listing.shard)
    day = DayFigures(parts.minutes, at.position, at.time_ms)
    return encoder.encode(ticker_view(listing, parts.last, parts.book, day))


async def positions(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/positions/{client_id}``."""
    client_id = owner_of(asking.caller, asked)
    limit, after = asking.limit(asked, POSITIONS_LIMIT), id_cursor(asked) or ""
    every, marks = await asking.past.positions(client_id)
    held = [one for one in every if one.instrument > after]
    more, held = len(held) > limit, held[:limit]
    listings = await asking.listings.of(one.instrument for one in held)
    view = await positions_view(client_id, held, listings, marks, asking.sequence, more=more)
    return encoder.encode(view)


async def orders(asking: Asking, asked: Parameters) -> bytes:
    """``GET /orders?client_id=…``."""
    client_id = owner_of(asking.caller, asked)
    limit, before = asking.limit(asked, ORDERS_LIMIT), cursor(asked, 3, shard_at=1)
    instrument = asked.get("instrument")
    if instrument is not None:
        await asking.listing(asked)
    found = await asking.past.orders(
        client_id,
        statuses=statuses_of(asked),
        instrument=instrument,
        before=OrderCursor(*before) if before else None,
        limit=limit + 1,
    )
    view = await orders_view(client_id, found, limit, asking.listings, asking.sequence)
    return encoder.encode(view)


async def order(asking: Asking, asked: Parameters) -> bytes:
    """``GET /orders/{order_id}``."""
    found = await asking.order(asked)
    listing = await asking.listings.get(found.instrument)
    position = asking.past.moment.at(found.shard).position
    return encoder.encode(OrderAnswerView(order_view(found, listing), position))


async def order_events(asking: Asking, asked: Parameters) -> bytes:
    """``GET /orders/{order_id}/events``."""
    limit = asking.limit(asked, EVENTS_LIMIT)
    (after,) = cursor(asked, 1) or (0,)
    found = await asking.order(asked)
    listing = await asking.listings.get(found.instrument)
    stored = await asking.past.order_history(found, after=after, limit=limit + 1)
    position = asking.past.moment.at(found.shard).position
    view = await order_events_view(found.order_id, listing, stored, limit, position)
    return encoder.encode(view)


async def cycles(asking: Asking, asked: Parameters) -> bytes:
    """``GET /settlement/cycles``."""
    limit, before = asking.limit(asked, CYCLES_LIMIT), cursor(asked, 1)
    current = await asking.past.open_cycle()
    last = min(current, before[0] - 1) if before else current
    first = max(FIRST_CYCLE, last - limit + 1)
    found = await asking.past.cycles(first=first, last=last)
    return encoder.encode(cycles_view(found, first, asking.sequence))


async def cycle(asking: Asking, asked: Parameters) -> bytes:
    """``GET /settlement/cycles/{cycle_id}``."""
    limit, after = asking.limit(asked, CLIENTS_LIMIT), id_cursor(asked) or ""
    client_id = shown_client(asking.caller, asked)
    number, current = cycle_number(asked["cycle_id"]), await asking.past.open_cycle()
    if number > current:
        detail = f"There was no cycle {number} at {asking.sequence}: {current} was open."
        raise Problem(Code.CYCLE_NOT_FOUND, detail)
    (found,) = await asking.past.cycles(first=number, last=number)
    owed = await asking.past.obligations(number, client_id=client_id, after=after, limit=limit + 1)
    view = await obligations_view(found, owed, limit, asking.listings, asking.sequence)
    return encoder.encode(view)


async def analytics(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/analytics``; by default of the day that ended at the moment."""
    moment, interval = asking.past.moment, integer(asked, INTERVAL)
    start_ms, end_ms = times_of(asked, interval, moment.now_ms)
    listing = await asking.listing(asked)
    buckets = await asking.past.buckets(
        listing.shard,
        listing.instrument,
        first=start_ms // MINUTE_MS,
        last=end_ms // MINUTE_MS,
        interval=interval,
        limit=BUCKETS_MAX + 1,
    )
    position = moment.at(listing.shard).position
    view = await analytics_view(listing, (start_ms, end_ms), interval, buckets, position)
    return encoder.encode(view)
