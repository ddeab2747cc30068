"""Questions about the past, which the analysts' process answers in the place of the live models.

The fold of a question takes a processor for up to a second, which a gateway does not have. So it
only checks the parameters, spends the budget, and hands the question on.
"""

from functools import wraps
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.declaration import Handler
from exchange.gateway.http.parameters import AS_OF
from exchange.gateway.http.requests import query
from exchange.gateway.parts.admission import charge_history
from exchange.gateway.parts.context import gateway_of

NAMES: Final = {parameter.name for parameter in AS_OF}


def or_as_of(handler: Handler) -> Handler:
    """Let ``handler`` answer, unless a moment is named: then the analysts' process does."""

    @wraps(handler)
    async def either(request: Request) -> Response:
        if request.scope["query_string"] and NAMES & request.query_params.keys():
            return await _as_of(request)
        return await handler(request)

    return either


async def _as_of(request: Request) -> Response:
    query(request)
    await charge_history(request)
    gateway = gateway_of(request)
    return await gateway.analyst.pass_on(request, gateway.keeper)
