"""Who asks, as the door knows them, and tokens for pages and quick scripts.

A token is got by a signed request, and is good for a quarter of an hour.
"""

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.door.keeper import NEVER_BY_TOKEN
from exchange.door.refusals import Refused
from exchange.gateway.http.callers import caller_of
from exchange.gateway.http.declaration import Access, Operation, operation
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import query
from exchange.gateway.http.responses import json_response
from exchange.gateway.parts.context import gateway_of
from exchange.log.documents.text import timestamp


class TokenView(Struct, frozen=True):
    """What ``POST /tokens`` answers; ``scopes`` are those of the key without ``admin``."""

    token: str
    client_id: str
    scopes: list[str]
    ends_at: str


class CallerView(Struct, frozen=True):
    """Who asks; without client and key where the door is open, and then they may everything."""

    client_id: str | None
    key_id: str | None
    scopes: list[str]


@operation(Operation(tag="trading", scope=Access.ANY_KEY, answers={200: (CallerView,)}))
async def get_caller(request: Request) -> Response:
    """``GET /whoami``: whose key signed this, and what it is good for."""
    query(request)
    caller = caller_of(request)
    scopes = sorted(scope.value for scope in caller.scopes)
    return json_response(CallerView(caller.client_id, caller.key_id, scopes))


@operation(
    Operation(
        tag="trading",
        scope=Access.ANY_KEY,
        answers={201: (TokenView,)},
        problems=(Code.INVALID, Code.SIGNATURE_MISSING),
    )
)
async def make_token(request: Request) -> Response:
    """``POST /tokens``: a token instead of signatures, for a quarter of an hour."""
    query(request)
    if await request.body():
        raise invalid("body", "must be empty: the signature says whose token it is")
    keeper, caller = gateway_of(request).keeper, caller_of(request)
    if keeper is None or caller.client_id is None:
        detail = "The door is open, so nothing is signed here, and no token is needed."
        raise Problem(Code.SIGNATURE_MISSING, detail)
    try:
        token, ends_s = keeper.token_for(caller)
    except Refused as error:
        raise Problem(Code.SIGNATURE_MISSING, error.detail) from error
    scopes = sorted(scope.value for scope in caller.scopes - NEVER_BY_TOKEN)
    view = TokenView(token, caller.client_id, scopes, timestamp(ends_s * 1_000))
    return json_response(view, 201)
