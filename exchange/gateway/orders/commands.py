"""Placing and cancelling orders over HTTP; the work is done in ``entry``."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.declaration import COMMANDING, Access, Operation, operation
from exchange.gateway.http.parameters import IDEMPOTENCY_KEY, ORDER_ID, PREFER
from exchange.gateway.http.problems import Code, invalid
from exchange.gateway.http.requests import (
    check_id,
    decode,
    header_lines,
    idempotency_key,
    query,
    wants_async,
)
from exchange.gateway.http.responses import PendingView, json_response
from exchange.gateway.orders.batches import BATCH_BODY, BATCH_BYTES_MAX, BatchBody, BatchView, enter
from exchange.gateway.orders.cancelling import (
    CANCEL_ALL_BODY,
    AllCancelledView,
    CancelAllBody,
    cancel_all,
)
from exchange.gateway.orders.entry import (
    CANCEL_BODY,
    ORDER_BODY,
    CancelBody,
    CancelledView,
    Entered,
    OrderBody,
    PlacedView,
    cancel,
    place,
)
from exchange.gateway.parts.admission import origin_of
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.decisions import Pending, pending_response, resent_headers


@operation(
    Operation(
        tag="trading",
        scope=Access.TRADE,
        headers=(IDEMPOTENCY_KEY, PREFER),
        body=OrderBody,
        body_required=True,
        examples={
            "limit": {
                "idempotency_key": "abc-123",
                "order_id": "order-1",
                "client_id": "client-A",
                "instrument": "BTC-USD",
                "side": "buy",
                "type": "limit",
                "price": 70150.5,
                "quantity": 0.25,
            },
            "market": {
                "client_id": "client-B",
                "instrument": "BTC-USD",
                "side": "sell",
                "type": "market",
                "quantity": 0.1,
            },
        },
        answers={201: (PlacedView,), 202: (PendingView,)},
        problems=(
            *COMMANDING,
            Code.INSTRUMENT_NOT_FOUND,
            Code.ORDER_ID_TAKEN,
            Code.ORDER_ID_RESERVED,
            Code.PRICE_REQUIRED,
            Code.PRICE_NOT_ALLOWED,
            Code.OFF_TICK,
            Code.OFF_LOT,
            Code.TOO_MANY_OPEN_ORDERS,
            Code.CLIENT_SUSPENDED,
            Code.RATE_LIMITED,
        ),
    )
)
async def place_order(request: Request) -> Response:
    """``POST /orders``: place an order, and hear what became of it."""
    query(request)
    body = decode(await request.body(), ORDER_BODY)
    key = idempotency_key(request, body.idempotency_key)
    origin = origin_of(request, wait=not wants_async(request))
    entered = await place(gateway_of(request), body, key, origin)
    location = f"/orders/{quote(entered.order_id, safe='')}"
    return _response(request, entered, 201, {"Location": location})


@operation(
    Operation(
        tag="trading",
        scope=Access.CANCEL,
        path=(ORDER_ID,),
        headers=(IDEMPOTENCY_KEY, PREFER),
        body=CancelBody,
        examples={"cancel": {"client_id": "client-A"}},
        answers={200: (CancelledView,), 202: (PendingView,)},
        problems=(
            *COMMANDING,
            Code.INSTRUMENT_NOT_FOUND,
            Code.ORDER_NOT_FOUND,
            Code.ORDER_NOT_OPEN,
            Code.RATE_LIMITED,
        ),
    )
)
async def cancel_order(request: Request) -> Response:
    """``POST /orders/{order_id}/cancel``: cancel what is left of an order."""
    query(request)
    order_id = check_id(request.path_params["order_id"], "order_id")
    text = await request.body()
    body = decode(text, CANCEL_BODY) if text else CancelBody()
    key = idempotency_key(request, body.idempotency_key)
    origin = origin_of(request, wait=not wants_async(request))
    entered = await cancel(gateway_of(request), order_id, body.client_id, key, origin)
    return _response(request, entered, 200, {})


@operation(
    Operation(
        tag="trading",
        scope=Access.ENTER,
        headers=(PREFER,),
        body=BatchBody,
        body_required=True,
        body_bytes_max=BATCH_BYTES_MAX,
        examples={
            "replace": {
                "entries": [
                    {"action": "cancel", "order_id": "order-1", "client_id": "client-A"},
                    {
                        "action": "place",
                        "idempotency_key": "abc-124",
                        "order_id": "order-2",
                        "client_id": "client-A",
                        "instrument": "BTC-USD",
                        "side": "buy",
                        "type": "limit",
                        "price": 70150,
                        "quantity": 0.25,
                    },
                ]
            },
        },
        answers={200: (BatchView,)},
        problems=(Code.MALFORMED, Code.READ_UNAVAILABLE, Code.BUSY),
    )
)
async def enter_batch(request: Request) -> Response:
    """``POST /orders/batch``: place and cancel many orders by one request."""
    query(request)
    if header_lines(request, b"idempotency-key"):
        raise invalid("Idempotency-Key", "is not for a batch: each entry may have a key of its own")
    gateway_of(request).submitter.check_open()
    body = decode(await request.body(), BATCH_BODY)
    origin = origin_of(request, wait=not wants_async(request))
    return json_response(await enter(gateway_of(request), body.entries, origin))


@operation(
    Operation(
        tag="trading",
        scope=Access.CANCEL,
        headers=(IDEMPOTENCY_KEY, PREFER),
        body=CancelAllBody,
        body_required=True,
        examples={
            "all": {"client_id": "client-A", "idempotency_key": "abc-125"},
            "one side": {"client_id": "client-A", "instrument": "BTC-USD", "side": "buy"},
        },
        answers={200: (AllCancelledView,), 202: (AllCancelledView,)},
        problems=(*COMMANDING, Code.INSTRUMENT_NOT_FOUND, Code.RATE_LIMITED),
    )
)
async def cancel_all_orders(request: Request) -> Response:
    """``POST /orders/cancel-all``: cancel a client's orders; 202 while some may be open."""
    query(request)
    body = decode(await request.body(), CANCEL_ALL_BODY)
    key = idempotency_key(request, body.idempotency_key)
    origin = origin_of(request, wait=not wants_async(request))
    entered = await cancel_all(gateway_of(request), body, key, origin)
    headers = resent_headers(entered.resent)
    if not entered.view.pending:
        return json_response(entered.view, 200, headers)
    if not origin.wait:
        headers["Preference-Applied"] = "respond-async"
    return json_response(entered.view, 202, headers)


def _response(request: Request, entered: Entered, status: int, headers: dict[str, str]) -> Response:
    if isinstance(entered.answer, Pending):
        return pending_response(
            request, entered.answer, entered.command_id, order_id=entered.order_id
        )
    headers |= resent_headers(entered.resent)
    return json_response(entered.answer, status, headers)
