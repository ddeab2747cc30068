"""The floor: what the server itself costs for an order that goes nowhere.

It has the gateway's own server, decodes the body into the order's fields and encodes an answer of
the usual size: no check, no Kafka, no wait.
"""

import asyncio
import sys

import msgspec
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exchange.gateway.app import serve


class Order(msgspec.Struct):
    """An order's fields as a client sends them."""

    client_id: str
    instrument: str
    side: str
    type: str
    quantity: float
    idempotency_key: str
    price: float | None = None


_decode = msgspec.json.Decoder(Order).decode
_encode = msgspec.json.Encoder().encode
LEVELS = [{"price": 70000.5, "quantity": 0.25, "cumulative": 12.5}] * 20


async def answer(request: Request) -> Response:
    """Decode an order and encode an answer as large as the exchange's."""
    order = _decode(await request.body())
    book = {"bids": LEVELS, "asks": LEVELS}
    body = _encode({"order": order, "trades": [], "orderbook": book})
    return Response(body, 201, media_type="application/json")


async def main(port: int) -> None:
    """Serve until the process is ended."""
    app = Starlette(routes=[Route("/orders", answer, methods=["POST"])])
    await serve(app, "127.0.0.1", port, asyncio.Event())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
