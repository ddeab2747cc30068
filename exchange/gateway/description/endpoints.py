"""The endpoints of the descriptions. Each description is made at its first request, and kept."""

from collections.abc import Callable
from functools import cache
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exchange.gateway.description import asyncapi, openapi
from exchange.gateway.description.requests_file import requests_file
from exchange.gateway.http.declaration import JSON, Access, Handler, Operation, operation
from exchange.gateway.http.requests import query

PLAIN = "text/plain"
KEPT: Final = {"Cache-Control": "max-age=300"}  # seconds; only a new build changes them


def description_routes(interface: tuple[Route, ...]) -> tuple[Route, ...]:
    """Return the routes that describe an interface and themselves."""
    routes: list[Route] = []

    def whole() -> tuple[Route, ...]:
        return (*interface, *routes)

    def openapi_json() -> bytes:
        return msgspec.json.encode(openapi.document(whole()))

    def asyncapi_json() -> bytes:
        return msgspec.json.encode(asyncapi.document())

    def requests_http() -> bytes:
        return requests_file(interface).encode()

    routes += [
        _route("/openapi.json", "get_openapi", "the interface over HTTP", JSON, openapi_json),
        _route("/asyncapi.json", "get_asyncapi", "the stream", JSON, asyncapi_json),
        _route("/requests.http", "get_requests", "requests for an editor", PLAIN, requests_http),
    ]
    return tuple(routes)


def openapi_routes(interface: tuple[Route, ...], title: str, about: str) -> tuple[Route, ...]:
    """Return the route of an OpenAPI document alone, of an interface and itself."""
    routes: list[Route] = []

    def openapi_json() -> bytes:
        described = (*interface, *routes)
        return msgspec.json.encode(openapi.document(described, title=title, about=about))

    routes.append(
        _route("/openapi.json", "get_openapi", "the interface over HTTP", JSON, openapi_json)
    )
    return tuple(routes)


def _route(
    path: str,
    name: str,
    meaning: str,
    media_type: str,
    make: Callable[[], bytes],
) -> Route:
    content = cache(make)

    async def answer(request: Request) -> Response:
        query(request)
        return Response(content(), headers=KEPT, media_type=media_type)

    answer.__name__ = name
    answer.__doc__ = f"``GET {path}``: {meaning}."
    handler: Handler = operation(
        Operation(tag="documents", scope=Access.PUBLIC, answers={200: ()}, media_type=media_type)
    )(answer)
    return Route(path, handler, methods=["GET"])
