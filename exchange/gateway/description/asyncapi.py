"""The AsyncAPI 3 document: every message of the stream, from the types that it is made of."""

from inspect import getdoc
from typing import Any, Final

from msgspec import Struct

from exchange.domain.values import KeyScope
from exchange.gateway.description.schemas import portable, schemas_of, titled, told
from exchange.gateway.http.declaration import Access
from exchange.gateway.http.responses import BookView
from exchange.gateway.orders import batches
from exchange.gateway.stream.protocol import frames
from exchange.gateway.stream.protocol.messages import CONTROLS, MESSAGES, Subscribe, scope_of

CHANNEL: Final = "stream"
REF: Final = "#/channels/stream/messages/"

RECEIVED: Final = MESSAGES | CONTROLS  # the latter by a replay alone

# What the gateway sends: the types of ``frames`` that have a tag.
SENT: Final[tuple[type[Struct], ...]] = tuple(
    kind
    for kind in vars(frames).values()
    if isinstance(kind, type) and issubclass(kind, Struct) and kind.__struct_config__.tag
)


def document() -> dict[str, Any]:
    """Return the document."""
    schemas, components = schemas_of((*RECEIVED.values(), *SENT, BookView, *batches.NAMED))
    received = {
        f"client.{kind}": _received(kind, message, schema)
        for (kind, message), schema in zip(RECEIVED.items(), schemas, strict=False)
    }
    sent = {
        message.__name__: _sent(message, schema)
        for message, schema in zip(SENT, schemas[len(RECEIVED) :], strict=False)
    }
    return portable(
        {
            "asyncapi": "3.0.0",
            "info": {
                "title": "Exchange stream",
                "version": "1",
                "description": (
                    "What happens, as it happens, and order entry over a WebSocket. Where the door"
                    " asks for keys, `authenticate` comes first; x-scopes are those of which a"
                    " message asks for one."
                ),
            },
            "defaultContentType": "application/json",
            "channels": {CHANNEL: {"address": "/stream", "messages": {**received, **sent}}},
            "operations": {
                "ask": _operation("receive", "What clients send", received),
                "tell": _operation("send", "What clients get", sent),
            },
            "components": {"schemas": titled(components)},
        }
    )


def asked_scopes(kind: str) -> frozenset[KeyScope]:
    """Return one of which scopes a message asks for, at the most."""
    message = RECEIVED[kind]
    return (Access.READ if message is Subscribe else scope_of(message)).scopes


def _operation(action: str, title: str, messages: dict[str, Any]) -> dict[str, Any]:
    return {
        "action": action,
        "title": title,
        "channel": {"$ref": f"#/channels/{CHANNEL}"},
        "messages": [{"$ref": REF + name} for name in messages],
    }


def _received(kind: str, message: type[Struct], schema: dict[str, Any]) -> dict[str, Any]:
    payload = {"allOf": [schema, {"properties": {"type": {"const": kind}}}]}
    scopes = sorted(scope.value for scope in asked_scopes(kind))
    needed = {"x-scopes": scopes} if scopes else {}  # a message has no security of its own
    return {"name": kind, **told(getdoc(message) or ""), **needed, "payload": payload}


def _sent(message: type[Struct], schema: dict[str, Any]) -> dict[str, Any]:
    name = message.__struct_config__.tag
    return {"name": name, **told(getdoc(message) or ""), "payload": schema}
