"""The documents describe what runs: every route and message, and real answers fit the schemas."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from exchange.analyst import app as analyst
from exchange.config import PROJECT
from exchange.gateway.app import INTERFACE, ROUTES
from exchange.gateway.description import asyncapi, openapi
from exchange.gateway.description.requests_file import requests_file
from exchange.gateway.http.declaration import OPERATIONS
from exchange.gateway.resources import commands
from exchange.gateway.stream.protocol.messages import CONTROLS, MESSAGES
from tests.gateway.conftest import PATIENCE_S, Venue, gateway_at, order
from tests.gateway.stream.test_stream import Client, connected

OPENAPI = openapi.document(ROUTES)
ASYNCAPI = asyncapi.document()
ANALYSTS = openapi.document(analyst.ROUTES)
DOCUMENTS = {"OpenAPI": OPENAPI, "AsyncAPI": ASYNCAPI, "of the analyst": ANALYSTS}
SUMMARY_CHARACTERS_MAX = 100  # a line of a page
OF_REPLAYS = ("ReplayChanged", "Replayed")
SENT = [name for name in ASYNCAPI["channels"]["stream"]["messages"] if "client." not in name]

# A schema cannot say how many decimal places an instrument has, so right data may be refused; and
# 503 is the right answer to a sequence that is not reached (a crash is looked for by itself).
EXCLUDED: list[CheckFunction] = [positive_data_acceptance, not_a_server_error]
EXAMPLES = 2  # of right and of wrong data, for each endpoint
EXAMPLES_LONG = 50
CRASHED = 500


def test_every_route_is_declared_and_in_the_document() -> None:
    described = {(m.upper(), path) for path, item in OPENAPI["paths"].items() for m in item}

    assert described == {
        (method, route.path) for route in ROUTES for method in (route.methods or set()) - {"HEAD"}
    }


def test_what_only_reads_is_named_by_what_it_gets() -> None:
    reading = [item["get"]["operationId"] for item in OPENAPI["paths"].values() if "get" in item]

    assert [name for name in reading if not name.startswith("get_")] == []


def test_every_parameter_in_a_path_is_described() -> None:
    for route in ROUTES:
        declared = {parameter.name for parameter in OPERATIONS[route.endpoint].path}
        assert declared == set(route.param_convertors)


def test_only_what_must_be_given_has_an_example() -> None:
    """A page for trying requests out sends each example unless somebody takes it out."""
    for item in OPENAPI["paths"].values():
        for described in item.values():
            for parameter in described["parameters"]:
                assert parameter["required"] or "example" not in parameter, parameter["name"]


def test_every_message_of_the_stream_is_in_the_document() -> None:
    messages = ASYNCAPI["channels"]["stream"]["messages"].values()

    assert {message["name"] for message in messages} == {*MESSAGES, *CONTROLS} | {
        "connected", "subscribed", "unsubscribed", "trades", "orders", "orderbook", "ticker",
        "heartbeat", "pong", "order_accepted", "order_cancelled", "order_pending", "error",
        "all_cancelled", "authenticated", "replay", "replayed",
    }  # fmt: skip


def test_the_file_of_requests_is_up_to_date() -> None:
    written = (PROJECT / "docs" / "exchange.http").read_text()

    assert written == requests_file(INTERFACE), "run `exchange requests`"


@pytest.mark.anyio
async def test_the_documents_are_served(http: httpx.AsyncClient) -> None:
    assert (await http.get("/openapi.json")).json() == json.loads(json.dumps(OPENAPI))
    assert (await http.get("/asyncapi.json")).json() == json.loads(json.dumps(ASYNCAPI))


@pytest.mark.anyio
async def test_only_documents_are_kept_and_no_type_is_guessed(
    http: httpx.AsyncClient, instrument: str
) -> None:
    documents = ("/openapi.json", "/asyncapi.json", "/requests.http")
    others = (
        "/livez",
        "/metrics",
        "/instruments",
        "/nowhere",
        f"/orders/{instrument}",
        "/openapi.json?x=1",
    )
    answers = {path: await http.get(path) for path in (*documents, *others)}
    answers["POST"] = await http.post("/orders", json=order(instrument))
    answers["too large"] = await http.post("/orders", content=b"x" * 20_000)

    kept = {
        path for path, answer in answers.items() if "max-age" in answer.headers["Cache-Control"]
    }
    assert kept == set(documents)
    assert {answers[path].headers["Cache-Control"] for path in {*answers} - kept} == {"no-store"}
    assert {a.headers["X-Content-Type-Options"] for a in answers.values()} == {"nosniff"}


@pytest.mark.anyio
async def test_real_answers_fit_their_schemas(http: httpx.AsyncClient, instrument: str) -> None:
    name = {"instrument": instrument}
    asked = await http.post("/orders", json=order(instrument, side="sell"))
    asynchronous = await http.post(
        "/orders", json=order(instrument), headers={"Prefer": "respond-async"}
    )
    resting = await http.post("/orders", json=order(instrument, price=9))
    order_id = resting.json()["order"]["order_id"]
    command_id = resting.json()["command_id"]
    fresh = {"min_sequence": f"0:{resting.json()['sequence']}"}

    answers = {
        "/orders post": [asked, asynchronous, await http.post("/orders", json={})],
        "/orders get": [await http.get("/orders", params={"client_id": "alice", **fresh})],
        "/market/orderbook get": [await http.get("/market/orderbook", params={**name, **fresh})],
        "/market/trades get": [await http.get("/market/trades", params={**name, **fresh})],
        "/market/fills get": [
            await http.get("/market/fills", params={"client_id": "alice", **name, **fresh})
        ],
        "/market/ticker get": [await http.get("/market/ticker", params={**name, **fresh})],
        "/market/analytics get": [await http.get("/market/analytics", params={**name, **fresh})],
        "/market/positions/{client_id} get": [
            await http.get("/market/positions/alice", params=fresh)
        ],
        "/market/orderbook/snapshot post": [
            await http.post("/market/orderbook/snapshot", json=name)
        ],
        "/orders/{order_id} get": [
            await http.get(f"/orders/{order_id}"),
            await http.get("/orders/nobodys"),
        ],
        "/orders/{order_id}/cancel post": [
            await http.post(f"/orders/{order_id}/cancel"),
            await http.post(f"/orders/{order_id}/cancel"),
        ],
        "/orders/cancel-all post": [
            await http.post("/orders/cancel-all", json={"client_id": "alice", **name}),
            await http.post("/orders/cancel-all", json={}),
        ],
        "/orders/{order_id}/events get": [await http.get(f"/orders/{order_id}/events")],
        "/commands/{command_id} get": [await http.get(f"/commands/{command_id}")],
        "/settlement/cycles get": [await http.get("/settlement/cycles", params=fresh)],
        "/settlement/cycles/close post": [await http.post("/settlement/cycles/close")],
        "/settlement/cycles/{cycle_id} get": [await http.get("/settlement/cycles/1")],
        "/instruments get": [await http.get("/instruments")],
        "/healthz get": [await http.get("/healthz")],
        "/livez get": [await http.get("/livez")],
    }

    for where, responses in answers.items():
        path, _, method = where.partition(" ")
        for response in responses:
            check_answer(path, method, response)
    assert asynchronous.status_code == 202


@pytest.mark.anyio
async def test_real_messages_fit_their_schemas(http: httpx.AsyncClient, instrument: str) -> None:
    channels = ["trades", "orders", "orderbook", "ticker"]
    entry = {**order(instrument), "type": "limit", "id": "1"}
    seen: set[str] = set()
    async with connected(http) as client:
        await client.send(type="authenticate")
        await client.send(type="subscribe", channels=channels, instrument=instrument)
        await client.send(**{**entry, "side": "sell"})
        await client.send(**entry)
        await client.send(**{**entry, "price": 9, "order_id": f"rests-{instrument}"})
        await client.send(type="cancel", order_id=f"rests-{instrument}")
        batch = [{"action": "place", **order(instrument)}, {"action": "cancel", "order_id": "no"}]
        await client.send(type="batch", entries=batch)
        await client.send(type="cancel_all", client_id="alice", instrument=instrument)
        await client.send(type="ping", id="2")
        await client.send(type="unknown")
        await client.send(type="unsubscribe", channels=["ticker"], instrument=instrument)
        async with asyncio.timeout(PATIENCE_S):
            while not seen >= set(SENT) - {"Connected", "OrderPending", *OF_REPLAYS}:
                seen |= kinds_of(await anything(client))


async def anything(client: Client) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await client.socket.recv())
    return message


def kinds_of(message: dict[str, Any]) -> set[str]:
    """Return which described messages this is; there must be one."""
    described = ASYNCAPI["channels"]["stream"]["messages"]
    same = [name for name in SENT if described[name]["name"] == message["type"]]
    fits = {n for n in same if not errors(ASYNCAPI, described[n]["payload"], message)}
    assert fits, message
    return fits


def check_answer(path: str, method: str, response: httpx.Response) -> None:
    described = OPENAPI["paths"][path][method]["responses"][str(response.status_code)]["content"]
    schema = described[response.headers["Content-Type"]]["schema"]
    assert errors(OPENAPI, schema, response.json()) == [], response.text


def errors(document: dict[str, Any], schema: dict[str, Any], value: object) -> list[str]:
    """Return what is wrong with a value; members that the schema does not have are wrong too."""
    closed = {name: _closed(part) for name, part in document["components"]["schemas"].items()}
    validator = Draft202012Validator({**schema, "components": {"schemas": closed}})
    return [error.message for error in validator.iter_errors(value)]


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False} if "properties" in schema else schema


@pytest.mark.anyio
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(EXAMPLES_LONG, marks=pytest.mark.long)]
)
@pytest.mark.timeout(1_800)
async def test_the_server_does_what_its_document_says(
    venue: Venue, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LATE_S", 0)  # "not found" would take a second each time
    async with gateway_at(venue) as http:
        url = f"{http.base_url}".rstrip("/")
        await asyncio.to_thread(explore, url, examples)


def explore(url: str, examples: int) -> None:
    """Send right and wrong requests to every endpoint; the same ones each time."""
    document = httpx.get(f"{url}/openapi.json").json()
    del document["components"]["securitySchemes"]  # this gateway's door is open
    for item in document["paths"].values():
        for operation in item.values():
            del operation["security"]
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "414", "431"]  # too long is wrong
    described = [_operation(found) for found in schema.get_all_operations()]
    for operation in described:
        _explore_operation(operation, examples)


def _operation(found: Any) -> Any:
    return found.ok()


def _explore_operation(described: Any, examples: int) -> None:
    takes = OPENAPI["paths"][described.path][described.method.lower()]
    can_be_wrong = bool(takes["parameters"] or "requestBody" in takes)
    for mode in GenerationMode if can_be_wrong else [GenerationMode.POSITIVE]:
        with requests.Session() as session:
            _explore_in(mode, described, examples, session)


def _explore_in(
    mode: GenerationMode, described: Any, examples: int, session: requests.Session
) -> None:
    @given(case=described.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        response = case.call_and_validate(session=session, excluded_checks=EXCLUDED)
        assert response.status_code != CRASHED, response.text

    run_examples: Callable[[], None] = run
    run_examples()


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_reference_leads_somewhere_and_no_schema_is_left_over(
    document: dict[str, Any],
) -> None:
    references = {*references_in(document)}

    for reference in references:
        assert reference.startswith("#/"), reference
        part: Any = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name.replace("~1", "/").replace("~0", "~")]
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert schemas - references == set()


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_summaries_are_plain_and_short_and_descriptions_are_markdown(
    document: dict[str, Any],
) -> None:
    for summary in prose_in(document, "summary"):
        assert 5 < len(summary) <= SUMMARY_CHARACTERS_MAX, summary
        assert not {*"`\n"} & {*summary}, summary
    for description in prose_in(document, "description"):
        assert "``" not in description
        assert description.count("`") % 2 == 0, description
        assert not re.search(r"^( {4}|\t)", description, re.MULTILINE), description  # code


@pytest.mark.parametrize("document", [OPENAPI, ANALYSTS], ids=["gateway", "analyst"])
def test_every_endpoint_and_message_says_what_it_is_for(document: dict[str, Any]) -> None:
    for item in document["paths"].values():
        for described in item.values():
            assert described["summary"][0].isupper()


def references_in(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        yield from part.get("discriminator", {}).get("mapping", {}).values()
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from references_in(one)


def prose_in(part: Any, name: str) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get(name), str):
            yield part[name]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from prose_in(one, name)
