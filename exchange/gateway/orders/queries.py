"""Queries for orders: one order, a client's orders, and everything that happened to one order.

If the read model does not have an order, the query waits until the model has seen everything that
was decided before the question. Only then it answers "not found".
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.events import (
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    TradeExecuted,
)
from exchange.domain.values import Price, Quantity
from exchange.door.caller import Caller
from exchange.gateway.http.amounts import Amount
from exchange.gateway.http.callers import caller_of, may_see, owner_of
from exchange.gateway.http.declaration import OF_THE_PAST, Access, Operation, operation
from exchange.gateway.http.parameters import (
    AS_OF,
    CURSOR,
    MIN_SEQUENCE,
    ONLY_INSTRUMENT,
    ORDER_ID,
    OWNER,
    STATUS,
    STATUSES_ASKED,
    WORKING,
)
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, invalid, order_not_found
from exchange.gateway.http.requests import check_id, cursor, integer, query
from exchange.gateway.http.responses import (
    OrderView,
    cursor_text,
    in_turns,
    json_response,
    sequence_text,
)
from exchange.gateway.orders.states import (
    listing_of_order,
    order_view,
)
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.listings import Listing, Listings
from exchange.gateway.parts.reading import (
    heavy_connection,
    loaded,
    min_sequence,
    min_sequences,
    moment_connection,
)
from exchange.gateway.server.past import or_as_of
from exchange.log.documents.text import timestamp
from exchange.log.events import DecidedEvent
from exchange.ports import StoredEvent
from projections.orders import (
    ALL_STATUSES,
    NAME,
    WORKING_STATUSES,
    Order,
    OrderCursor,
    OrderStatus,
    list_orders,
    order_history,
)
from projections.orders import get_order as find_order
from projections.stores.checkpoints import read_live

# A page of 1,000 bounds one answer to some 300 kB.
ORDERS_LIMIT: Final = limit_of(50, 1_000, "orders")
EVENTS_LIMIT: Final = limit_of(50, 1_000, "events")


UNSHOWN: Final = {"time_ms", "asked_by", "signed_by"}  # the first is shown as ``timestamp``


# The fields of a trade about each of its two orders. Only those of the queried order are shown: the
# other order may be another client's.
SIDES: Final = tuple(
    f"{side}_{what}"
    for side in ("taker", "maker")
    for what in ("order_id", "client_id", "remaining")
)


def _view_type(event: type[Struct]) -> type[Struct]:
    """Return an event's form for clients: its position and time, and amounts as decimals."""
    fields: list[Any] = [("sequence", int), ("timestamp", str)]
    known = [field for field in msgspec.structs.fields(event) if field.name not in UNSHOWN]
    for field in known:
        if event is TradeExecuted and field.name.startswith(SIDES):
            fields.append((field.name, _shown(field.type) | UnsetType, UNSET))
        else:
            fields.append((field.name, _shown(field.type)))
    return msgspec.defstruct(
        event.__name__, fields, frozen=True, tag=True, tag_field="type", kw_only=True
    )


def _shown(kind: Any) -> Any:
    if kind in (Price, Quantity):
        return Amount
    return Amount | None if kind == Price | None else kind


# What can happen to an order, as clients see it.
EVENT_VIEWS: Final[dict[type[Struct], type[Struct]]] = {
    event: _view_type(event)
    for event in (OrderAccepted, OrderRejected, TradeExecuted, OrderRested, OrderCancelled)
}
_EVENTS: Final = {
    "items": {
        "anyOf": [{"$ref": f"#/components/schemas/{e.__name__}"} for e in EVENT_VIEWS.values()]
    }
}


class OrderAnswerView(Struct, frozen=True):
    """What ``GET /orders/{order_id}`` answers."""

    order: OrderView
    sequence: int


class OrdersView(Struct, frozen=True):
    """What ``GET /orders`` answers: newest first."""

    client_id: str
    orders: list[OrderView]
    count: int
    next_cursor: str | None
    sequence: str


class OrderEventsView(Struct, frozen=True):
    """What ``GET /orders/{order_id}/events`` answers: oldest first."""

    order_id: str
    events: Annotated[list[Any], Meta(extra_json_schema=_EVENTS)]
    count: int
    next_cursor: str | None
    sequence: int


@operation(
    Operation(
        tag="trading",
        scope=Access.READ,
        path=(ORDER_ID,),
        query=(MIN_SEQUENCE, *AS_OF),
        answers={200: (OrderAnswerView,)},
        problems=(Code.ORDER_NOT_FOUND, Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_order(request: Request) -> Response:
    """``GET /orders/{order_id}``: an order, and what is left of it."""
    gateway = gateway_of(request)
    order_id = check_id(request.path_params["order_id"], "order_id")
    order, reached = await _find(gateway, order_id, query(request), caller_of(request))
    listing = await gateway.listings.get(order.instrument)
    view = OrderAnswerView(order_view(order, listing), reached.get(order.shard, 0))
    return json_response(view)


@operation(
    Operation(
        tag="trading",
        scope=Access.READ,
        query=(OWNER, STATUS, ONLY_INSTRUMENT, ORDERS_LIMIT, CURSOR, MIN_SEQUENCE, *AS_OF),
        answers={200: (OrdersView,)},
        problems=(Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_orders(request: Request) -> Response:
    """``GET /orders?client_id=…``: a client's orders, newest first."""
    gateway = gateway_of(request)
    parameters = query(request)
    client_id = owner_of(caller_of(request), parameters)
    instrument, limit = parameters.get("instrument"), integer(parameters, ORDERS_LIMIT)
    if instrument is not None:
        check_id(instrument, "instrument")
    before, statuses = cursor(parameters, 3, shard_at=1), statuses_of(parameters)
    # Final statuses have no index, so a query for one of them may read all orders of the client.
    if before or not (statuses == ALL_STATUSES or statuses <= WORKING_STATUSES):
        await charge_history(request, client_id)
    await gateway.freshness.reach(NAME, await _wanted(gateway, parameters, instrument))
    async with heavy_connection(gateway.engine, gateway.heavy_reads) as connection:
        live = await read_live(connection, NAME)
        orders = await list_orders(
            connection,
            live,
            client_id,
            statuses=statuses,
            instrument=instrument,
            before=OrderCursor(*before) if before else None,
            limit=limit + 1,
        )
    sequence = sequence_text(live.reached)
    return json_response(await orders_view(client_id, orders, limit, gateway.listings, sequence))


async def orders_view(
    client_id: str, orders: list[Order], limit: int, listings: Listings, sequence: str
) -> OrdersView:
    """Return a page of a client's orders, of which one more was read if there is one."""
    more, orders = len(orders) > limit, orders[:limit]
    known = await listings.of(order.instrument for order in orders)
    return OrdersView(
        client_id=client_id,
        orders=await in_turns(lambda order: order_view(order, known[order.instrument]), orders),
        count=len(orders),
        next_cursor=_next_page(orders) if more else None,
        sequence=sequence,
    )


@operation(
    Operation(
        tag="trading",
        scope=Access.READ,
        path=(ORDER_ID,),
        query=(EVENTS_LIMIT, CURSOR, MIN_SEQUENCE, *AS_OF),
        answers={200: (OrderEventsView,)},
        problems=(Code.ORDER_NOT_FOUND, Code.INSTRUMENT_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_order_events(request: Request) -> Response:
    """``GET /orders/{order_id}/events``: all that happened to an order, oldest first."""
    gateway = gateway_of(request)
    order_id = check_id(request.path_params["order_id"], "order_id")
    parameters = query(request)
    limit = integer(parameters, EVENTS_LIMIT)
    (after,) = cursor(parameters, 1) or (0,)
    await charge_history(request)
    order, _ = await _find(gateway, order_id, parameters, caller_of(request))
    listing = await gateway.listings.get(order.instrument)
    async with heavy_connection(gateway.engine, gateway.heavy_reads) as connection:
        live = await read_live(connection, NAME)
        stored = await order_history(connection, live, order_id, after=after, limit=limit + 1)
    reached = live.reached.get(order.shard, 0)
    return json_response(await order_events_view(order_id, listing, stored, limit, reached))


async def order_events_view(
    order_id: str, listing: Listing, stored: list[StoredEvent], limit: int, sequence: int
) -> OrderEventsView:
    """Return a page of an order's events, of which one more was read if there is one."""
    more, stored = len(stored) > limit, stored[:limit]
    return OrderEventsView(
        order_id=order_id,
        events=await in_turns(
            lambda event: _event_view(loaded([event])[0], listing, order_id), stored
        ),
        count=len(stored),
        next_cursor=cursor_text(stored[-1].position) if more else None,
        sequence=sequence,
    )


async def _find(
    gateway: Gateway, order_id: str, parameters: Mapping[str, str], caller: Caller
) -> tuple[Order, dict[int, int]]:
    """Return an order, waiting for the model before it is "not found"; and how far the model is.

    Another client's is not there, and takes as long not to be found.
    """
    await gateway.freshness.reach(NAME, await _wanted_of(gateway, parameters, order_id))
    order, reached = await _read(gateway, order_id, caller)
    if order is None:
        await gateway.freshness.catch_up(NAME)
        order, reached = await _read(gateway, order_id, caller)
    if order is None:
        raise order_not_found(order_id)
    return order, reached


async def _read(
    gateway: Gateway, order_id: str, caller: Caller
) -> tuple[Order | None, dict[int, int]]:
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        order = await find_order(connection, live, order_id)
    is_there = order is not None and may_see(caller, order.client_id)
    return (order if is_there else None), live.reached


def _event_view(decided: DecidedEvent, listing: Listing, order_id: str) -> Struct:
    """Return an event of an order with its amounts as decimals and its time as text."""
    event = decided.event
    hidden = UNSHOWN
    if isinstance(event, TradeExecuted):
        other = "maker_" if event.taker_order_id == order_id else "taker_"
        hidden = UNSHOWN | {name for name in SIDES if name.startswith(other)}
    told = msgspec.structs.asdict(event)
    fields = {name: value for name, value in told.items() if name not in hidden}
    for name, value in fields.items():
        if isinstance(value, int):
            fields[name] = listing.price(value) if name == "price" else listing.quantity(value)
    view = EVENT_VIEWS[type(event)]
    time = timestamp(event.time_ms)
    return view(sequence=decided.position, timestamp=time, **fields)


def statuses_of(parameters: Mapping[str, str]) -> frozenset[OrderStatus]:
    """Return the statuses that are asked for: all of them if none is named.

    Raises:
        Problem: 422, there is no such status.
    """
    text = parameters.get("status")
    if text is None:
        return ALL_STATUSES
    if text == WORKING:
        return WORKING_STATUSES
    try:
        return frozenset((OrderStatus(text),))
    except ValueError:
        raise invalid("status", f"must be one of {', '.join(STATUSES_ASKED)}") from None


async def _wanted_of(
    gateway: Gateway, parameters: Mapping[str, str], order_id: str
) -> dict[int, int]:
    if ":" in parameters.get("min_sequence", ":"):
        return min_sequences(parameters, gateway.known_shards)
    shard = (await listing_of_order(gateway.listings, order_id)).shard
    return {shard: min_sequence(parameters, shard, gateway.known_shards)}


async def _wanted(
    gateway: Gateway, parameters: Mapping[str, str], instrument: str | None
) -> dict[int, int]:
    if instrument is None:
        return min_sequences(parameters, gateway.known_shards)
    shard = (await gateway.listings.get(instrument)).shard
    return {shard: min_sequence(parameters, shard, gateway.known_shards)}


def _next_page(orders: list[Order]) -> str:
    """Return the cursor of the page after one with these orders."""
    last = orders[-1].cursor
    return cursor_text(last.created_ms, last.shard, last.position)
