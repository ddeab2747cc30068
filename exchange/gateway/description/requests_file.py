"""Requests to send from an editor (``.http`` files), from the declared examples."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from starlette.routing import Route

from exchange.gateway.http.declaration import JSON, OPERATIONS, Operation
from exchange.gateway.http.parameters import Parameter

HEAD: Final = "# Made by `exchange requests`; change the handlers' declarations instead.\n"
HOST: Final = "@host = http://localhost:3000\n"


def requests_file(routes: Sequence[Route]) -> str:
    """Return the file's text."""
    return "\n".join([HEAD + HOST, *(text for route in routes for text in _requests(route))])


def _requests(route: Route) -> Iterator[str]:
    declared = OPERATIONS[route.endpoint]
    (method,) = (route.methods or set()) - {"HEAD"}
    line = f"{method} {{{{host}}}}{_target(route.path, declared)}\n"
    name = route.endpoint.__name__
    if not declared.examples:
        yield f"### {name}\n{line}"
    for example, body in declared.examples.items():
        text = json.dumps(body, indent=2)
        yield f"### {name}: {example}\n{line}Content-Type: {JSON}\n\n{text}\n"


def _target(path: str, declared: Operation) -> str:
    for parameter in declared.path:
        path = path.replace(f"{{{parameter.name}}}", str(parameter.example))
    pairs = "&".join(_pairs(declared.query))
    return f"{path}?{pairs}" if pairs else path


def _pairs(parameters: Iterable[Parameter]) -> Iterator[str]:
    for parameter in parameters:
        value = parameter.default if parameter.example is None else parameter.example
        if value is not None:
            yield f"{parameter.name}={value}"
