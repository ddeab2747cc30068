"""The answers of an application to what its handlers raise, and to what has no handler."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exchange.gateway.http.problems import Code, Problem

NO_CONTENT: Final = 204

ExceptionHandlers = dict[Any, Callable[[Request, Exception], Awaitable[Response]]]


def exception_handlers(routes: Sequence[Route]) -> ExceptionHandlers:
    """Return how an application of these routes answers each kind of exception."""

    async def on_http_error(request: Request, error: Exception) -> Response:
        """Answer for the router: there is no such path, or the path does not take this method."""
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        if error.status_code == Code.METHOD.status:
            headers = {"Allow": ", ".join(sorted(_methods_of(routes, path)))}
            return Problem(Code.METHOD, _why_not(request), headers=headers).response()
        if request.method == "OPTIONS" and path == "*":  # asks about the server, not a path: a ping
            return Response(status_code=NO_CONTENT, headers={"Allow": "GET, HEAD, POST"})
        if error.status_code == Code.ROUTE_NOT_FOUND.status:
            return Problem(Code.ROUTE_NOT_FOUND, f"There is nothing at {path}.").response()
        raise error

    return {Problem: _on_problem, HTTPException: on_http_error, Exception: _on_crash}


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _on_crash(_request: Request, _error: Exception) -> Response:
    return Problem(Code.INTERNAL, "The mistake was logged.").response()


def _why_not(request: Request) -> str:
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        return "Pages of other origins get no leave to ask (CORS); they may use the stream."
    why = "" if request.method.isupper() else ": methods are written in capitals"
    return f"{request.scope['path']} does not take {request.method}{why}."


def _methods_of(routes: Sequence[Route], path: str) -> set[str]:
    """Return the methods of all routes with this path: Starlette tells those of one route only."""
    return {
        method for route in routes if route.path_regex.match(path) for method in route.methods or ()
    }
