"""What the API answered at a moment: the same members, and the sequence that they are of.

Each function answers as the endpoint of its name does now, from the parameters of its path and its
query. What counts from the present time counts from the moment.
"""

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.gateway.http.parameters import INTERVAL, LEVELS, WholeNumber
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import check_id, cursor, id_cursor, integer
from exchange.gateway.http.responses import (
    cursor_text,
    encoder,
    in_turns,
    sequence_text,
)
from exchange.gateway.orders.queries import (
    EVENTS_LIMIT,
    ORDERS_LIMIT,
    OrderAnswerView,
    OrderEventsView,
    OrdersView,
    event_view,
    next_page,
    status_of,
)
from exchange.gateway.orders.states import order_view
from exchange.gateway.parts.listings import Listing, Listings
from exchange.gateway.parts.models import sides
from exchange.gateway.parts.reading import loaded, log_connection
from exchange.gateway.resources.analytics import (
    BUCKETS_MAX,
    AnalyticsView,
    aggregate_view,
    overall_vwap_of,
    times_of,
)
from exchange.gateway.resources.positions import POSITIONS_LIMIT, PositionsView, position_view
from exchange.gateway.resources.settlement import (
    CLIENTS_LIMIT,
    CYCLES_LIMIT,
    CycleObligationsView,
    CyclesView,
    client_views,
    cycle_number,
    cycle_view,
)
from exchange.gateway.resources.ticker import DayFigures, ticker_view
from exchange.log.documents.text import timestamp
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
        if found is None:
            detail = f"There was no order {order_id} at {self.sequence}."
            raise Problem(Code.ORDER_NOT_FOUND, detail, order_id=order_id)
        return found


Answer = Callable[[Asking, Parameters], Awaitable[bytes]]


async def orderbook(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/orderbook``."""
    levels, listing = asking.limit(asked, LEVELS), await asking.listing(asked)
    view = await asking.past.book(listing.shard, listing.instrument, levels)
    return (
        f'{{"instrument":"{listing.instrument}",{sides(view, listing)}'
        f',"timestamp":"{timestamp(view.time_ms)}","sequence":{view.position}}}'
    ).encode()


async def ticker(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/ticker``."""
    listing = await asking.listing(asked)
    parts = await asking.past.ticker(listing.shard, listing.instrument)
    at = asking.past.moment.at(listing.shard)
    day = DayFigures(parts.minutes, at.position, at.time_ms)
    return encoder.encode(ticker_view(listing, parts.last, parts.book, day))


async def positions(asking: Asking, asked: Parameters) -> bytes:
    """``GET /market/positions/{client_id}``."""
    client_id = check_id(asked["client_id"], "client_id")
    limit, after = asking.limit(asked, POSITIONS_LIMIT), id_cursor(asked) or ""
    every, marks = await asking.past.positions(client_id)
    held = [one for one in every if one.instrument > after]
    more, held = len(held) > limit, held[:limit]
    listings = await asking.listings.of(one.instrument for one in held)
    views = await in_turns(
        lambda one: position_view(one, listings[one.instrument], marks[one.instrument]), held
    )
    following = cursor_text(held[-1].instrument) if more else None
    return encoder.encode(PositionsView(client_id, views, len(views), following, asking.sequence))


async def orders(asking: Asking, asked: Parameters) -> bytes:
    """``GET /orders?client_id=…``."""
    client_id = check_id(asked["client_id"], "client_id")
    limit, before = asking.limit(asked, ORDERS_LIMIT), cursor(asked, 3, shard_at=1)
    instrument = asked.get("instrument")
    if instrument is not None:
        await asking.listing(asked)
    found = await asking.past.orders(
        client_id,
        status=status_of(asked),
        instrument=instrument,
        before=OrderCursor(*before) if before else None,
        limit=limit + 1,
    )
    more, found = len(found) > limit, found[:limit]
    listings = await asking.listings.of(one.instrument for one in found)
    views = await in_turns(lambda one: order_view(one, listings[one.instrument]), found)
    following = next_page(found) if more else None
    return encoder.encode(OrdersView(client_id, views, len(views), following, asking.sequence))


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
    more, stored = len(stored) > limit, stored[:limit]
    views = await in_turns(
        lambda one: event_view(loaded([one])[0], listing, found.order_id), stored
    )
    following = cursor_text(stored[-1].position) if more else None
    position = asking.past.moment.at(found.shard).position
    view = OrderEventsView(found.order_id, views, len(views), following, position)
    return encoder.encode(view)


async def cycles(asking: Asking, asked: Parameters) -> bytes:
    """``GET /settlement/cycles``."""
    limit, before = asking.limit(asked, CYCLES_LIMIT), cursor(asked, 1)
    current = await asking.past.open_cycle()
    last = min(current, before[0] - 1) if before else current
    first = max(FIRST_CYCLE, last - limit + 1)
    views = [cycle_view(one) for one in await asking.past.cycles(first=first, last=last)]
    following = cursor_text(first) if first > FIRST_CYCLE and views else None
    return encoder.encode(CyclesView(views, len(views), following, asking.sequence))


async def cycle(asking: Asking, asked: Parameters) -> bytes:
    """``GET /settlement/cycles/{cycle_id}``."""
    limit, after = asking.limit(asked, CLIENTS_LIMIT), id_cursor(asked) or ""
    client_id = asked.get("client_id")
    if client_id is not None:
        check_id(client_id, "client_id")
    number, current = cycle_number(asked["cycle_id"]), await asking.past.open_cycle()
    if number > current:
        detail = f"There was no cycle {number} at {asking.sequence}: {current} was open."
        raise Problem(Code.CYCLE_NOT_FOUND, detail)
    (found,) = await asking.past.cycles(first=number, last=number)
    owed = await asking.past.obligations(number, client_id=client_id, after=after, limit=limit + 1)
    clients = await client_views(owed, await asking.listings.of(one.instrument for one in owed))
    following = cursor_text(clients[limit - 1].client_id) if len(clients) > limit else None
    clients = clients[:limit]
    return encoder.encode(
        CycleObligationsView(cycle_view(found), clients, len(clients), following, asking.sequence)
    )


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
    view = AnalyticsView(
        listing.instrument,
        timestamp(start_ms),
        timestamp(end_ms),
        interval,
        await in_turns(lambda bucket: aggregate_view(bucket, listing), buckets),
        overall_vwap_of(buckets, listing),
        moment.at(listing.shard).position,
    )
    return encoder.encode(view)
