"""The OpenAPI 3.1 document: every route, from what its handler declares.

Read ``document``. Nothing here lists routes, parameters or fields: ``ROUTES`` are the
application's, and each handler's ``Operation`` is what ``requests.query`` validates by.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from inspect import getdoc
from typing import Any, Final

from msgspec import Struct
from starlette.routing import Route

from exchange.gateway.description.schemas import portable, reached, schema_of, schemas_of, told
from exchange.gateway.http.declaration import (
    EVERYWHERE,
    GUARDED,
    JSON,
    OPERATIONS,
    Access,
    Operation,
)
from exchange.gateway.http.parameters import Parameter, WholeNumber
from exchange.gateway.http.problems import PROBLEM_MEDIA_TYPE, Code, ProblemView
from exchange.gateway.http.responses import BookView, TradeView
from exchange.gateway.orders import batches
from exchange.gateway.orders.queries import EVENT_VIEWS

TITLE: Final = "Exchange"
VERSION: Final = "1"
ABOUT: Final = (
    "Order entry, market data, positions and settlement. The stream is in /asyncapi.json."
)

# Types that other schemas name in encoded or dynamic parts, where msgspec does not find them.
NAMED: Final = (ProblemView, BookView, TradeView, *batches.NAMED, *EVENT_VIEWS.values())

_MEANINGS: Final = {
    200: "Done",
    201: "Done, by this request",
    202: "Not decided yet",
    503: "Orders cannot be taken",
}
_HEADERS: Final = {
    "Location": "where to find the result, or to ask for it",
    "Idempotent-Replayed": "true: this is the outcome of an earlier command with the same key",
    "Preference-Applied": "respond-async, if it was asked for and followed",
    "RateLimit-Limit": "how many commands at once",
    "RateLimit-Remaining": "how many of them are left",
    "RateLimit-Reset": "seconds until all of them are back",
    "Skipped-Events": "events that the answer lacks: an operator had its read model pass over them",
    "Retry-After": "seconds to wait before asking again",
}


# Asked for where the door asks for keys.
SECURITY_SCHEMES: Final = {
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": (
            "HTTP message signatures (RFC 9421) in one form, with Signature-Input and"
            " Content-Digest: see Signed requests in docs/protocol.md."
        ),
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "For a quarter of an hour, from POST /tokens; never for admin.",
    },
}


def document(routes: Sequence[Route], *, title: str = TITLE, about: str = ABOUT) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    types = [NAMED, *(_types(OPERATIONS[route.endpoint]) for route in routes)]
    _, components = schemas_of(dict.fromkeys(kind for some in types for kind in some))
    paths: dict[str, Any] = {}
    for route in routes:
        (method,) = (route.methods or set()) - {"HEAD"}
        paths.setdefault(route.path, {})[method.lower()] = _operation(route)
    return portable(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": VERSION, "description": about},
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": reached(paths, components),
                "securitySchemes": SECURITY_SCHEMES,
            },
        }
    )


def body_schema(kind: type[Struct]) -> dict[str, Any]:
    """Return the reference to a type's schema."""
    ((schema,), _) = schemas_of([kind])
    return schema


def _types(declared: Operation) -> Iterable[type[Struct]]:
    for kinds in declared.answers.values():
        yield from kinds
    if declared.body is not None:
        yield declared.body


def _operation(route: Route) -> dict[str, Any]:
    declared = OPERATIONS[route.endpoint]
    operation: dict[str, Any] = {
        "operationId": route.endpoint.__name__,
        **_told(route),
        "tags": [declared.tag],
        **_security(declared.scope),
        "parameters": [
            *(_parameter(p, "path") for p in declared.path),
            *(_parameter(p, "query") for p in declared.query),
            *(_parameter(p, "header") for p in declared.headers),
        ],
        "responses": _responses(declared),
    }
    if declared.body is not None:
        operation["requestBody"] = {
            "required": declared.body_required,
            "content": {
                JSON: {
                    "schema": body_schema(declared.body),
                    "examples": {n: {"value": value} for n, value in declared.examples.items()},
                }
            },
        }
    return operation


def _security(access: Access) -> dict[str, Any]:
    """Return who may ask: by a signature, or by a token where none of its scopes is ``admin``."""
    if access is Access.PUBLIC:
        return {"security": []}
    scopes = sorted(scope.value for scope in access.scopes)
    ways = ["signature"] if access is Access.ADMIN else ["signature", "token"]
    free: list[dict[str, Any]] = [{}] if access is Access.PARTLY else []
    return {"security": [*free, *({way: scopes} for way in ways)]}


def _told(route: Route) -> dict[str, str]:
    """Return what the handler's docstring says after the path."""
    _, _, text = (getdoc(route.endpoint) or "").partition("``: ")
    return told(text[:1].upper() + text[1:])


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    schema = schema_of(parameter.type)
    if isinstance(parameter, WholeNumber):
        schema |= {"minimum": parameter.least, "maximum": parameter.most}
    if parameter.default is not None:
        schema["default"] = parameter.default
    described = {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.meaning,
        "schema": schema,
    }
    return described if parameter.example is None else {**described, "example": parameter.example}


def _responses(declared: Operation) -> dict[str, Any]:
    contents: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for status, kinds in declared.answers.items():
        contents[status][declared.media_type] = {"schema": _answer(declared, kinds)}
    codes: defaultdict[int, list[Code]] = defaultdict(list)
    guarded = () if declared.scope is Access.PUBLIC else GUARDED
    for code in dict.fromkeys((*declared.problems, *guarded, *EVERYWHERE)):
        codes[code.status].append(code)
    for status, some in codes.items():
        contents[status][PROBLEM_MEDIA_TYPE] = {"schema": _problem(some)}
    return {
        str(status): {
            "description": _meaning(status, codes[status]),
            "headers": _HEADER_OBJECTS,
            "content": content,
        }
        for status, content in sorted(contents.items())
    }


def _answer(declared: Operation, kinds: Sequence[type[Struct]]) -> dict[str, Any]:
    if not kinds:
        return {"type": "object" if declared.media_type == JSON else "string"}
    schemas, _ = schemas_of(kinds)
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _problem(codes: Sequence[Code]) -> dict[str, Any]:
    named = {"code": {"enum": [code.code for code in codes]}}
    return {"allOf": [body_schema(ProblemView), {"properties": named}]}


def _meaning(status: int, codes: Sequence[Code]) -> str:
    if not codes:
        return _MEANINGS[status]
    meanings = [f"`{code.code}`: {code.title}" for code in codes]
    return meanings[0] if len(meanings) == 1 else "\n".join(f"- {one}" for one in meanings)


_HEADER_OBJECTS: Final = {
    name: {"description": meaning, "required": False, "schema": {"type": "string"}}
    for name, meaning in _HEADERS.items()
}
