"""Queries for orders: one, a client's, and all that happened to one.

An order that the read model does not have yet is waited for: "not found" is only said
once the model has seen all that was decided before the question.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from exchange.codec import DecidedEvent, load_event
from exchange.gateway.context import Gateway, gateway_of
from exchange.gateway.listings import Listing
from exchange.gateway.order_states import (
    listing_of_order,
    order_view,
    read_order,
)
from exchange.gateway.problems import invalid, order_not_found
from exchange.gateway.reading import min_sequence, model_connection
from exchange.gateway.requests import check_id, cursor, integer, query
from exchange.gateway.responses import (
    amount,
    cursor_text,
    json_response,
    sequence_text,
    timestamp,
)
from projections.orders import (
    NAME,
    Order,
    OrderCursor,
    OrderStatus,
    list_orders,
    order_history,
)

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 1_000  # bounds one answer to some 300 kB


async def get_order(request: Request) -> Response:
    """``GET /orders/{order_id}``."""
    gateway = gateway_of(request)
    order_id = check_id(request.path_params["order_id"], "order_id")
    order, reached = await _find(gateway, order_id, query(request, "min_sequence"))
    listing = await gateway.listings.get(order.instrument)
    # The row may be newer than the checkpoint, which was read before it.
    sequence = max(reached.get(order.shard, 0), order.last_position)
    return json_response({"order": order_view(order, listing), "sequence": sequence})


async def get_orders(request: Request) -> Response:
    """``GET /orders?client_id=…``: a client's orders, newest first."""
    gateway = gateway_of(request)
    parameters = query(
        request, "client_id", "status", "instrument", "limit", "cursor", "min_sequence"
    )
    if "client_id" not in parameters:
        raise invalid("client_id", "is required")
    client_id = check_id(parameters["client_id"], "client_id")
    instrument, limit = parameters.get("instrument"), _limit(parameters)
    if instrument is not None:
        check_id(instrument, "instrument")
    before = cursor(parameters, 3, shard_at=1)
    await gateway.freshness.reach(
        NAME, min_sequence(parameters, await _shard_of(gateway, instrument))
    )
    async with model_connection(gateway.engine) as connection:
        orders, reached = await list_orders(
            connection,
            client_id,
            status=_status(parameters),
            instrument=instrument,
            before=OrderCursor(*before) if before else None,
            limit=limit,
        )
    document = {
        "client_id": client_id,
        "orders": [order_view(o, await gateway.listings.get(o.instrument)) for o in orders],
        "count": len(orders),
        "next_cursor": _next_page(orders, limit),
        "sequence": sequence_text(reached),
    }
    return json_response(document)


async def get_order_events(request: Request) -> Response:
    """``GET /orders/{order_id}/events``: all that happened to an order, oldest first."""
    gateway = gateway_of(request)
    order_id = check_id(request.path_params["order_id"], "order_id")
    parameters = query(request, "limit", "cursor", "min_sequence")
    limit = _limit(parameters)
    (after,) = cursor(parameters, 1) or (0,)
    order, _ = await _find(gateway, order_id, parameters)
    listing = await gateway.listings.get(order.instrument)
    async with model_connection(gateway.engine) as connection:
        stored, reached = await order_history(connection, order_id, after=after, limit=limit)
    document = {
        "order_id": order_id,
        "events": [_event_view(load_event(event), listing) for event in stored],
        "count": len(stored),
        "next_cursor": cursor_text(stored[-1].position) if len(stored) == limit else None,
        "sequence": reached.get(order.shard, 0),
    }
    return json_response(document)


async def _find(
    gateway: Gateway, order_id: str, parameters: Mapping[str, str]
) -> tuple[Order, dict[int, int]]:
    """Return an order; one that the model does not have is waited for before it is "not found"."""
    wanted = parameters.get("min_sequence", "")
    shard = None
    if wanted and ":" not in wanted:
        shard = (await listing_of_order(gateway, order_id)).shard
    await gateway.freshness.reach(NAME, min_sequence(parameters, shard))
    order, reached = await read_order(gateway, order_id)
    if order is None:
        await gateway.freshness.catch_up(NAME)
        order, reached = await read_order(gateway, order_id)
    if order is None:
        raise order_not_found(order_id)
    return order, reached


def _event_view(decided: DecidedEvent, listing: Listing) -> dict[str, object]:
    """Return an event with its amounts as decimals and its time as text."""
    fields = msgspec.structs.asdict(decided.event)
    view: dict[str, object] = {
        "sequence": decided.position,
        "type": type(decided.event).__name__,
        "timestamp": timestamp(fields.pop("time_ms")),
    }
    for name, value in fields.items():
        if isinstance(value, int):
            scale = listing.price_scale if name == "price" else listing.quantity_scale
            value = amount(value, scale)
        view[name] = value
    return view


def _limit(parameters: Mapping[str, str]) -> int:
    return integer(parameters, "limit", LIMIT_DEFAULT, least=1, most=LIMIT_MAX)


def _status(parameters: Mapping[str, str]) -> OrderStatus | None:
    text = parameters.get("status")
    if text is None:
        return None
    try:
        return OrderStatus(text)
    except ValueError:
        raise invalid("status", f"must be one of {', '.join(OrderStatus)}") from None


async def _shard_of(gateway: Gateway, instrument: str | None) -> int | None:
    if instrument is not None:
        return (await gateway.listings.get(instrument)).shard
    return 0 if gateway.shards == 1 else None


def _next_page(orders: list[Order], limit: int) -> str | None:
    if len(orders) < limit:
        return None
    last = orders[-1].cursor
    return cursor_text(last.created_ms, last.shard, last.position)
