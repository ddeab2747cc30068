"""``docs/events.md`` names every event, field, value and column, and nothing else."""

import re
from collections.abc import Iterator
from enum import Enum, StrEnum
from typing import get_args

import asyncpg
import msgspec
import pytest
from msgspec.inspect import Field, Type, type_info

from exchange.config import PROJECT
from exchange.domain.events import Event
from exchange.domain.values import (
    CancelReason,
    KeyAlgorithm,
    KeyScope,
    OrderType,
    RejectReason,
    Side,
)
from exchange.log.events import LATER_VALUES, UPCASTERS

TEXT = (PROJECT / "docs/events.md").read_text()
EVENTS = get_args(Event)
# What a field counts is told by its name, or else by its type.
UNITS = {
    "time_ms": "ms",
    "price": "price",
    "tick_size": "price",
    "quantity": "quantity",
    "lot_size": "quantity",
    "taker_remaining": "quantity, or 0",
    "maker_remaining": "quantity, or 0",
    "instrument": "name",
    "base": "id",
    "quote": "id",
    "asked_by": "id",
    "key_id": "key",
    "rotated_from": "key",
    "signed_by": "key",
    "public_key": "hex",
    "expires_ms": "ms",
    "overlap_ms": "ms",
    "ends_ms": "ms",
    "addresses": "networks",
    "scopes": "scopes",
    "sha256": "hex",
    "body_hash": "hex",
}
PLAIN = {"IntType": "integer", "StrType": "text", "VarTupleType": "list"}
ENUMS: dict[type[Enum], str] = {
    Side: "side",
    OrderType: "type",
    RejectReason: "reason",
    CancelReason: "reason",
    KeyAlgorithm: "algorithm",
    KeyScope: "scopes",
}


def section(title: str) -> str:
    """Return what stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/events.md has no section {title}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """Return the rows of a section's tables, without their headings."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if re.fullmatch(r"`.*`", row[0])]


def fields_of(event: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """Yield each field of an event with its unit."""
    info = type_info(event)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        yield field.name, unit_of(field)


def unit_of(field: Field) -> str:
    names = {type(one).__name__ for one in kinds(field.type)}
    known = UNITS.get(field.name) or ("id" if field.name.endswith("_id") else None)
    enums = [
        ENUMS[one.cls] for one in kinds(field.type) if isinstance(one, msgspec.inspect.EnumType)
    ]
    plain = enums[0] if enums else PLAIN[min(names - {"NoneType"})]
    return (known or plain) + ("?" if "NoneType" in names else "")


def kinds(of: Type) -> list[Type]:
    return list(of.types) if isinstance(of, msgspec.inspect.UnionType) else [of]


def test_every_event_has_a_section() -> None:
    told = re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE)

    assert told == [event.__name__ for event in EVENTS]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_field_is_told_with_its_unit(event: type[msgspec.Struct]) -> None:
    told = [(row[0].strip("`"), row[1]) for row in rows(f"`{event.__name__}`")]

    assert told == list(fields_of(event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_what_came_later_is_told_so(event: type[msgspec.Struct]) -> None:
    info = type_info(event)
    assert isinstance(info, msgspec.inspect.StructType)
    optional = {field.name for field in info.fields if not field.required}
    since = {row[0].strip("`"): row[2] for row in rows(f"`{event.__name__}`")}
    later = LATER_VALUES.get(event.__name__, {})

    assert {name for name, version in since.items() if version != "1"} == optional
    assert event.__name__ not in UPCASTERS, "tell the fields of each form"
    told = set(re.findall(r"`(\w+)` since (\d+)", section(f"`{event.__name__}`")))
    assert told == {(value.value, str(version)) for value, version in later.items()}


@pytest.mark.parametrize(
    "values", [Side, OrderType, KeyAlgorithm, KeyScope], ids=lambda values: values.__name__
)
def test_every_value_is_told(values: type[StrEnum]) -> None:
    found = [
        line for line in section("Values").splitlines() if line.startswith(f"| {ENUMS[values]} |")
    ]

    assert re.findall(r"`([\w-]+)`", found[0]) == [value.value for value in values]


def test_every_reason_is_told() -> None:
    told = [row[0].strip("`") for row in rows("Reasons")]

    assert told == [reason.value for reason in (*RejectReason, *CancelReason)]


@pytest.mark.anyio
async def test_every_column_is_told(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        columns = await connection.fetch(
            "select attname, format_type(atttypid, null) as type from pg_attribute"
            " where attrelid = 'events'::regclass and attnum > 0 and not attisdropped"
        )
    finally:
        await connection.close()
    short = {"timestamp with time zone": "timestamptz"}

    told = {(row[0].strip("`"), row[1]) for row in rows("Where an event stands")}
    assert told == {(c["attname"], short.get(c["type"], c["type"])) for c in columns}
