"""What the API answered at a moment: the same members, and the sequence that they are of.

Read ``ANSWERS``: each takes the name that a person gives (an instrument, a client, an order, a
cycle) and answers as the endpoint of its model did. What counts from the present time counts from
the moment.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.engine import FIRST_CYCLE
from exchange.gateway.http.responses import cursor_text, encoder, sequence_text
from exchange.gateway.orders.queries import OrderEventsView, OrdersView, event_view, next_page
from exchange.gateway.orders.states import order_view
from exchange.gateway.parts.listings import Listing, Listings
from exchange.gateway.parts.models import sides
from exchange.gateway.parts.reading import loaded, log_connection
from exchange.gateway.resources.analytics import (
    DAY_MS,
    AnalyticsView,
    aggregate_view,
    overall_vwap_of,
)
from exchange.gateway.resources.positions import PositionsView, position_view
from exchange.gateway.resources.settlement import (
    CycleObligationsView,
    CyclesView,
    client_views,
    cycle_view,
)
from exchange.gateway.resources.ticker import DayFigures, ticker_view
from exchange.log.documents.text import timestamp
from exchange.log.identity import registration_command_id
from exchange.log.reader import find_command
from exchange.tools.terminal import ToolError
from projections.past.past import Past
from projections.vwap import MINUTE_MS

INTERVAL_MINUTES: Final = 60


class Asking(Struct):
    """What answers are made of; ``limit`` is how many rows an answer has at most."""

    past: Past
    engine: AsyncEngine
    limit: int

    @property
    def sequence(self) -> str:
        return sequence_text(self.past.moment.positions)

    async def listing(self, name: str) -> Listing:
        """Return an instrument's listing.

        Raises:
            Problem: Nobody ever registered it.
            ToolError: It was registered after the moment.
        """
        listing = await Listings(self.engine).get(name)
        async with log_connection(self.engine) as connection:
            stored = await find_command(connection, registration_command_id(name))
        first = min(one.position for one in stored)
        if first > self.past.moment.at(listing.shard).position:
            raise ToolError(f"{name} was registered later, at {listing.shard}:{first}.")
        return listing


async def _book(asking: Asking, name: str) -> bytes:
    listing = await asking.listing(name)
    view = await asking.past.book(listing.shard, name, asking.limit)
    return (
        f'{{"instrument":"{name}",{sides(view, listing)}'
        f',"timestamp":"{timestamp(view.time_ms)}","sequence":{view.position}}}'
    ).encode()


async def _ticker(asking: Asking, name: str) -> bytes:
    listing = await asking.listing(name)
    parts = await asking.past.ticker(listing.shard, name)
    at = asking.past.moment.at(listing.shard)
    day = DayFigures(parts.minutes, at.position, at.time_ms)
    return encoder.encode(ticker_view(listing, parts.last, parts.book, day))


async def _positions(asking: Asking, client_id: str) -> bytes:
    held, marks = await asking.past.positions(client_id)
    more, held = len(held) > asking.limit, held[: asking.limit]
    listings = await Listings(asking.engine).of(one.instrument for one in held)
    views = [position_view(one, listings[one.instrument], marks[one.instrument]) for one in held]
    cursor = cursor_text(held[-1].instrument) if more else None
    return encoder.encode(PositionsView(client_id, views, len(views), cursor, asking.sequence))


async def _orders(asking: Asking, client_id: str) -> bytes:
    found = await asking.past.orders(client_id, limit=asking.limit + 1)
    more, found = len(found) > asking.limit, found[: asking.limit]
    listings = await Listings(asking.engine).of(one.instrument for one in found)
    views = [order_view(one, listings[one.instrument]) for one in found]
    cursor = next_page(found) if more else None
    return encoder.encode(OrdersView(client_id, views, len(views), cursor, asking.sequence))


async def _order(asking: Asking, order_id: str) -> bytes:
    found = await asking.past.order(order_id)
    if found is None:
        raise ToolError(f"There was no order {order_id} at {asking.sequence}.")
    listing = await Listings(asking.engine).get(found.instrument)
    stored = await asking.past.order_history(found, limit=asking.limit + 1)
    more, stored = len(stored) > asking.limit, stored[: asking.limit]
    position = asking.past.moment.at(found.shard).position
    events = OrderEventsView(
        order_id,
        [event_view(decided, listing, order_id) for decided in loaded(stored)],
        len(stored),
        cursor_text(stored[-1].position) if more else None,
        position,
    )
    view = {"order": order_view(found, listing), **msgspec.structs.asdict(events)}
    return encoder.encode(view)


async def _settlement(asking: Asking, number: str) -> bytes:
    """Answer with the newest cycles, or with the obligations of the one that is named."""
    current = await asking.past.open_cycle()
    if not number:
        first = max(FIRST_CYCLE, current - asking.limit + 1)
        cycles = [cycle_view(one) for one in await asking.past.cycles(first=first, last=current)]
        more = cursor_text(first) if first > FIRST_CYCLE else None
        return encoder.encode(CyclesView(cycles, len(cycles), more, asking.sequence))
    if not number.isdecimal() or not FIRST_CYCLE <= int(number) <= current:
        raise ToolError(f"There was no cycle {number} at {asking.sequence}: {current} was open.")
    (cycle,) = await asking.past.cycles(first=int(number), last=int(number))
    owed = await asking.past.obligations(int(number), limit=asking.limit + 1)
    listings = await Listings(asking.engine).of(one.instrument for one in owed)
    clients = await client_views(owed, listings)
    more = cursor_text(clients[asking.limit - 1].client_id) if len(clients) > asking.limit else None
    clients = clients[: asking.limit]
    return encoder.encode(
        CycleObligationsView(cycle_view(cycle), clients, len(clients), more, asking.sequence)
    )


async def _analytics(asking: Asking, name: str) -> bytes:
    """Answer with the hours of the day that ended at the moment."""
    listing = await asking.listing(name)
    moment = asking.past.moment
    start_ms, end_ms = max(0, moment.now_ms - DAY_MS), moment.now_ms
    buckets = await asking.past.buckets(
        listing.shard,
        name,
        first=start_ms // MINUTE_MS,
        last=end_ms // MINUTE_MS,
        interval=INTERVAL_MINUTES,
        limit=DAY_MS // MINUTE_MS,
    )
    view = AnalyticsView(
        name,
        timestamp(start_ms),
        timestamp(end_ms),
        INTERVAL_MINUTES,
        [aggregate_view(bucket, listing) for bucket in buckets],
        overall_vwap_of(buckets, listing),
        moment.at(listing.shard).position,
    )
    return encoder.encode(view)


ANSWERS: Final[dict[str, Callable[[Asking, str], Awaitable[bytes]]]] = {
    "book": _book,
    "ticker": _ticker,
    "positions": _positions,
    "orders": _orders,
    "order": _order,
    "settlement": _settlement,
    "analytics": _analytics,
}
