"""An order as of a position: its events folded, from the read model and the log.

``fold`` returns an order after more of its events. The answer to placing an order is folded from
the command's own events. ``order_after`` starts from the read model and goes on with the log, so a
cancel is answered in full and at once, even while the projector is away.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg
from msgspec import UNSET

from exchange.domain.events import Event, OrderAccepted, OrderRejected
from exchange.domain.values import instrument_of_exchange_order_id
from exchange.gateway.http.problems import Code, Problem, order_not_found
from exchange.gateway.http.responses import OrderView, encoder
from exchange.gateway.parts.context import Gateway
from exchange.gateway.parts.listings import Listing, Listings
from exchange.gateway.parts.reading import QUERY_WAIT_S, loaded, log_connection, model_connection
from exchange.log.documents.text import timestamp
from exchange.log.events import DecidedEvent
from exchange.log.reader import find_order_instrument, read_events_with_text
from exchange.waiting import turns
from projections import orders
from projections.orders import Order, after, begun, changes, is_id_taken
from projections.stores.checkpoints import read_live

# How far the read model may be behind so that the log is still scanned for one order: this many
# events take half a second.
TAIL_EVENTS_MAX: Final = 200_000


async def fold(order: Order | None, events: Sequence[DecidedEvent]) -> Order | None:
    """Return an order after more of its events; None while it does not exist.

    No event may be about other orders alone; a trade is about two.
    """
    async for some in turns(events):
        for decided in some:
            order = _next(order, decided)
    return order


async def order_after(
    gateway: Gateway, listing: Listing, order_id: str, sequence: int
) -> Order | None:
    """Return an order as of a position, None if there is no such order.

    The order comes from the read model, and from the log after the model's checkpoint.

    Raises:
        Problem: 503, the model is too far behind or the log could not be asked in time.
    """
    order, checkpoint = await _order_so_far(gateway, listing.shard, order_id)
    if checkpoint >= sequence:
        return order
    if sequence - checkpoint > TAIL_EVENTS_MAX:
        raise Problem(Code.READ_STALE, "The orders are too far behind.")
    try:
        async with (
            asyncio.timeout(QUERY_WAIT_S),
            gateway.tail_scans,
            log_connection(gateway.own_engine) as connection,
        ):
            tail = await _read_tail(connection, listing.shard, order_id, checkpoint, sequence)
    except TimeoutError as error:
        raise Problem(Code.READ_UNAVAILABLE, "Too many ask for the log's end.") from error
    return await fold(order, tail)


async def listing_of_order(listings: Listings, order_id: str) -> Listing:
    """Return the listing of an order's instrument, which the id or the claim of the id tells.

    Raises:
        Problem: 404, no such order was placed.
    """
    instrument = instrument_of_exchange_order_id(order_id)
    if instrument is None:
        async with log_connection(listings.engine) as connection:
            instrument = await find_order_instrument(connection, order_id)
    if instrument is None:
        raise order_not_found(order_id)
    try:
        return await listings.get(instrument)
    except Problem as problem:
        if problem.code is Code.INSTRUMENT_NOT_FOUND:
            raise order_not_found(order_id) from problem
        raise


async def settled_listing(gateway: Gateway, order_id: str) -> Listing:
    """Do as ``listing_of_order``, but wait for an order that may still be on its way.

    Raises:
        Problem: 404, no such order was sent before the question; 503, this cannot be found out.
    """
    try:
        return await listing_of_order(gateway.own_listings, order_id)
    except Problem as problem:
        if problem.code is not Code.ORDER_NOT_FOUND:
            raise
    await gateway.backlog.settle()
    return await listing_of_order(gateway.own_listings, order_id)


def order_view(order: Order, listing: Listing) -> OrderView:
    """Return what clients see of an order."""
    return OrderView(
        order_id=order.order_id,
        client_id=order.client_id,
        instrument=order.instrument,
        side=order.side,
        type=order.order_type,
        price=None if order.price is None else listing.price(order.price),
        quantity=listing.quantity(order.quantity),
        filled_quantity=listing.quantity(order.filled_quantity),
        status=order.status,
        created_at=timestamp(order.created_ms),
        updated_at=timestamp(order.updated_ms),
        reason=order.reason or UNSET,
    )


def _next(order: Order | None, decided: DecidedEvent) -> Order | None:
    event = decided.event
    if isinstance(event, OrderAccepted | OrderRejected):
        order = begun(decided, event)
    for change in changes(event):
        if order is not None and change.order_id == order.order_id:
            order = after(order, change, decided)
    return order


async def _order_so_far(gateway: Gateway, shard: int, order_id: str) -> tuple[Order | None, int]:
    """Return the order as the read model has it, and the log position that it reflects.

    The model may move on between reading its checkpoint and the row, so the later one counts.
    """
    try:
        async with model_connection(gateway.own_engine) as connection:
            live = await read_live(connection, orders.NAME)
            order = await orders.get_order(connection, live, order_id)
    except Problem:
        return None, 0
    checkpoint = live.reached.get(shard, 0)
    return order, checkpoint if order is None else max(checkpoint, order.last_position)


async def _read_tail(
    connection: asyncpg.Connection, shard: int, order_id: str, after: int, up_to: int
) -> list[DecidedEvent]:
    quoted_id = encoder.encode(order_id).decode()
    stored = await read_events_with_text(connection, shard, quoted_id, after=after, up_to=up_to)
    return [
        decided
        async for some in turns(stored)
        for decided in loaded(some)
        if _concerns(decided.event, order_id)
    ]


def _concerns(event: Event, order_id: str) -> bool:
    """Tell whether an event changes the order; the same text may also be a client's id there."""
    concerned = any(change.order_id == order_id for change in changes(event))
    return concerned and not is_id_taken(event)
