"""The JSON Schema of each type of event as a document, made from the event's type.

Read ``schemas``. Readers hold documents for ever and learn of a new build late, so a schema changes
only as ``breaks`` lets it: it may gain optional fields, and values of a field are not listed as the
only ones. What would break readers needs a type of event of its own.
"""

from enum import Enum
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct
from msgspec.inspect import (
    EnumType,
    Field,
    NoneType,
    StructType,
    UnionType,
    VarTupleType,
    type_info,
)

from exchange.domain.events import Event
from exchange.domain.values import RejectReason
from exchange.log.documents.document import PRICES, QUANTITIES, RENAMED
from exchange.log.documents.text import DECIMAL_PATTERN

FORM: Final = 1  # of documents; ``breaks`` holds every type of event to it
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_EVERY: Final[dict[str, dict[str, Any]]] = {
    "shard": {"type": "integer", "minimum": 0},
    "position": {
        "type": "integer",
        "minimum": 1,
        "description": "In the shard's log: 1, 2, 3 … without a gap.",
    },
    "chain": {
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "The hash chain over all events of the shard up to this one.",
    },
    "time": {"type": "string", "format": "date-time", "description": "The engine's time, in UTC."},
    "instrument": {"type": ["string", "null"]},
    "type": {"type": "string"},
    "version": {"type": "integer", "minimum": 1, "description": "Of the event's form in the log."},
    "command_id": {"type": "string", "format": "uuid"},
    "kafka_offset": {"type": "integer"},
}


def schema_id(name: str) -> str:
    """Return the name of the schema of a type of event: a document's ``ce_dataschema``."""
    return f"urn:exchange:event:{name}:v{FORM}"


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of every type of event, by its name."""
    return {event.__name__: _schema(event) for event in get_args(Event)}


def breaks(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say in words how a changed schema of one type would break readers and stored documents."""
    found: list[str] = []
    for name, was in before["properties"].items():
        now = after["properties"].get(name)
        if now is None:
            found.append(f"{name} is gone")
        elif _meaning(now) != _meaning(was):
            found.append(f"{name} was {_meaning(was)} and is {_meaning(now)}")
    needed, was_needed = set(after["required"]), set(before["required"])
    found += [f"{name} is needed now" for name in sorted(needed - was_needed)]
    found += [f"{name} may be left out now" for name in sorted(was_needed - needed)]
    return found


def _meaning(form: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader may rely on: the form without what is said of it."""
    return {name: value for name, value in form.items() if name not in ("description", "examples")}


def _schema(event: type[Struct]) -> dict[str, Any]:
    properties, required = dict(_EVERY), list(_EVERY)
    properties["type"] = {"const": event.__name__}
    info = type_info(event)
    assert isinstance(info, StructType)
    decimals_may_miss = any(field.type == type_info(RejectReason) for field in info.fields)
    for field in info.fields:
        if field.name == "time_ms":
            continue
        if field.name == "instrument":
            properties["instrument"] = {"type": "string"}
            continue
        for name, form in _forms(field, decimals_may_miss=decimals_may_miss).items():
            properties[name] = form
            if field.required:
                required.append(name)
    return {
        "$schema": DIALECT,
        "$id": schema_id(event.__name__),
        "title": event.__name__,
        "description": (event.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": required,
    }


def _forms(field: Field, *, decimals_may_miss: bool) -> dict[str, dict[str, Any]]:
    """Return what stands for an event's field in a document: an amount is there twice."""
    kinds = field.type.types if isinstance(field.type, UnionType) else (field.type,)
    may_be_null = any(isinstance(kind, NoneType) for kind in kinds)
    if field.name in PRICES + QUANTITIES:
        written = {"type": "string", "pattern": DECIMAL_PATTERN}
        return {
            field.name: _or_null(written, may_be_null or decimals_may_miss),
            f"{field.name}_units": _or_null({"type": "integer", "minimum": 0}, may_be_null),
        }
    (kind,) = (kind for kind in kinds if not isinstance(kind, NoneType))
    name = RENAMED.get(field.name, field.name)
    if isinstance(kind, EnumType):
        values: list[Enum] = list(kind.cls)
        return {name: {"type": "string", "examples": [value.value for value in values]}}
    if isinstance(kind, VarTupleType):
        return {name: {"type": "array", "items": {"type": "string"}}}
    plain = "integer" if isinstance(kind, msgspec.inspect.IntType) else "string"
    return {name: _or_null({"type": plain}, may_be_null)}


def _or_null(form: dict[str, Any], may_be_null: bool) -> dict[str, Any]:
    return {**form, "type": [form["type"], "null"]} if may_be_null else form
