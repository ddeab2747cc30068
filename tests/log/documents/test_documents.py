"""Events as documents: what readers hold for ever.

``examples.jsonl`` has documents as they were once published. They are never changed and stay valid:
one may be added. ``docs/schemas`` is what this build publishes.
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from msgspec.structs import replace
from pyarrow import Schema

from exchange.config import PROJECT
from exchange.domain.events import Event
from exchange.domain.values import RejectReason, Side
from exchange.export.columns import EVENTS
from exchange.log.documents.document import Documents
from exchange.log.documents.schemas import FORM, breaks, schemas
from exchange.log.events import UnknownEvent
from exchange.ports import EMPTY_CHAIN
from exchange.tools.analysts.schemas import write_schemas
from exchange.tools.terminal import ToolError
from tests.builders import (
    accepted_market,
    place,
    registered,
    rejected,
    stored,
    trade,
)
from tests.log.test_events import (
    LATER_TEXTS,
    LATER_VALUE_TEXTS,
    LATEST_VALUE_TEXTS,
    STORED_TEXTS,
)

EXAMPLES = [
    json.loads(line) for line in Path(__file__).with_name("examples.jsonl").read_text().splitlines()
]
SCHEMAS = schemas()
CHAIN = bytes(range(32))


def strictly(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator that refuses fields which the schema does not name."""
    return Draft202012Validator({**schema, "additionalProperties": False})


def documents(*events: Event) -> list[dict[str, Any]]:
    making = Documents()
    return [making.of(stored(event, at), CHAIN) for at, event in enumerate(events, 1)]


def test_an_amount_is_a_decimal_and_the_integer_of_the_log() -> None:
    _, traded = documents(registered(), trade(maker=1, taker=2, price=7_015_050, quantity=10))

    assert traded == {
        "shard": 0,
        "position": 2,
        "chain": CHAIN.hex(),
        "time": "2023-11-14T22:13:20.000Z",
        "instrument": "BTC-USD",
        "type": "TradeExecuted",
        "version": 1,
        "command_id": "018f0000-0000-7000-8000-000000000001",
        "kafka_offset": 41,
        "price": "70150.5",
        "price_units": 7_015_050,
        "quantity": "0.0000001",
        "quantity_units": 10,
        "taker_side": "buy",
        "taker_order_id": "order-2",
        "taker_client_id": "client-2",
        "taker_remaining": "0",
        "taker_remaining_units": 0,
        "maker_order_id": "order-1",
        "maker_client_id": "client-1",
        "maker_remaining": "0",
        "maker_remaining_units": 0,
    }


def test_what_has_no_price_or_no_scales_is_null() -> None:
    order = place(1, Side.BUY, price=5, quantity=10)

    refused, _, market = documents(
        rejected(order, RejectReason.UNKNOWN_INSTRUMENT),
        registered(),
        accepted_market(2, Side.SELL, quantity=10),
    )

    assert (refused["price"], refused["price_units"]) == (None, 5)
    assert (market["price"], market["price_units"]) == (None, None)
    assert market["quantity"] == "0.0000001"


def test_documents_begun_in_the_middle_know_the_instruments() -> None:
    making = Documents([stored(registered())])

    assert making.of(stored(accepted_market(2, Side.SELL, quantity=10)), CHAIN)["quantity"]


def test_an_event_of_a_newer_build_is_named() -> None:
    newer = replace(stored(registered(), 7), type="OrderAmended", data='{"type":"OrderAmended"}')

    with pytest.raises(UnknownEvent, match="OrderAmended at position 7 of shard 0"):
        Documents().of(newer, EMPTY_CHAIN)


def test_every_stored_event_makes_a_document_of_its_schema() -> None:
    making, made = Documents([stored(registered())]), set()
    for event, _ in STORED_TEXTS + LATER_TEXTS + LATER_VALUE_TEXTS + LATEST_VALUE_TEXTS:
        document = making.of(stored(event), CHAIN)
        strictly(SCHEMAS[document["type"]]).validate(json.loads(json.dumps(document)))
        made.add(document["type"])

    assert made == SCHEMAS.keys() == {event.__name__ for event in get_args(Event)}


def test_every_document_that_was_published_stays_valid() -> None:
    named: dict[str, set[str]] = {name: set() for name in SCHEMAS}
    for example in EXAMPLES:
        strictly(SCHEMAS[example["type"]]).validate(example)
        named[example["type"]] |= example.keys()

    assert named == {name: set(schema["properties"]) for name, schema in SCHEMAS.items()}


def test_the_names_are_those_of_an_export() -> None:
    columns: Schema = EVENTS
    names = {name for schema in SCHEMAS.values() for name in schema["properties"]}

    assert names - {"chain"} == set(columns.names) - {"data"}


def test_the_schemas_in_the_docs_are_those_of_the_events() -> None:
    folder = PROJECT / "docs/schemas"
    kept = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}

    assert kept == {f"{name}.v{FORM}.json": schema for name, schema in SCHEMAS.items()}, (
        "make them anew: exchange schemas docs/schemas"
    )


BEFORE = {"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("properties", "required", "broken"),
    [
        ({"c": {"type": "string"}}, ["a"], []),
        ({"a": {"type": "string", "examples": ["x"], "description": "y"}}, ["a"], []),
        ({"b": None}, ["a"], ["b is gone"]),
        ({"b": {"type": "string"}}, ["a"], ["b was {'type': 'integer'} and is {'type': 'string'}"]),
        ({"c": {"type": "string"}}, ["a", "c"], ["c is needed now"]),
        ({}, [], ["a may be left out now"]),
    ],
)
def test_a_schema_may_gain_optional_fields_and_nothing_else(
    properties: dict[str, Any], required: list[str], broken: list[str]
) -> None:
    merged = {**BEFORE["properties"], **properties}  # type: ignore[dict-item]
    after = {name: form for name, form in merged.items() if form is not None}

    assert breaks(BEFORE, {"properties": after, "required": required}) == broken


def test_a_schema_that_would_break_readers_is_not_written(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    path = tmp_path / f"TradeExecuted.v{FORM}.json"
    schema = json.loads(path.read_text())
    schema["properties"]["venue"] = {"type": "string"}
    path.write_text(json.dumps(schema))

    with pytest.raises(ToolError, match=r"TradeExecuted\.v1\.json: venue is gone"):
        write_schemas(tmp_path)

    assert json.loads(path.read_text()) == schema
