"""Placing and cancelling orders over HTTP; ``entry`` is what they do."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.answers import pending_response, replayed_headers
from exchange.gateway.context import gateway_of
from exchange.gateway.entry import Entered, Origin, cancel, place
from exchange.gateway.requests import (
    CANCEL_BODY,
    ORDER_BODY,
    CancelBody,
    address_of,
    check_id,
    decode,
    idempotency_key,
    wants_async,
)
from exchange.gateway.responses import json_response
from exchange.gateway.submission import Pending


async def place_order(request: Request) -> Response:
    """``POST /orders``."""
    body = decode(await request.body(), ORDER_BODY)
    key = idempotency_key(request, body.idempotency_key)
    entered = await place(gateway_of(request), body, key, _origin(request))
    location = f"/orders/{quote(entered.order_id, safe='')}"
    return _response(request, entered, 201, {"Location": location})


async def cancel_order(request: Request) -> Response:
    """``POST /orders/{order_id}/cancel``."""
    order_id = check_id(request.path_params["order_id"], "order_id")
    text = await request.body()
    body = decode(text, CANCEL_BODY) if text else CancelBody()
    key = idempotency_key(request, body.idempotency_key)
    entered = await cancel(gateway_of(request), order_id, body.client_id, key, _origin(request))
    return _response(request, entered, 200, {})


def _origin(request: Request) -> Origin:
    return Origin(address_of(request), wait=not wants_async(request))


def _response(request: Request, entered: Entered, status: int, headers: dict[str, str]) -> Response:
    if isinstance(entered.answer, Pending):
        response = pending_response(
            request, entered.answer, entered.command_id, order_id=entered.order_id
        )
    else:
        headers |= replayed_headers(entered.replayed)
        response = json_response(entered.answer, status, headers)
    response.headers.update(entered.budget.headers)
    return response
