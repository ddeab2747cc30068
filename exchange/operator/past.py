"""What the analysts' process answers: the log's events, and what queries answered at a moment.

A fold takes a processor for up to a second, so it is that process's work, with its bounds.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exchange.gateway.http.analyst import Analyst

PATHS: Final = (
    "/events",
    "/market/orderbook",
    "/market/ticker",
    "/market/positions/{client_id}",
    "/orders",
    "/orders/{order_id}",
    "/orders/{order_id}/events",
)


async def ask_analyst(request: Request) -> Response:
    """Hand a question on."""
    analyst: Analyst = request.app.state.analyst
    return await analyst.pass_on(request, request.app.state.keeper)


PAST: Final = tuple(Route(path, ask_analyst, methods=["GET"]) for path in PATHS)
