"""The page of the interface: both documents, as somebody sees them who writes a client.

Swagger UI takes seconds to draw it, so all tests but one look at a page that is loaded once.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Response, Route, expect

from exchange.analyst import app as analyst
from exchange.gateway.app import ROUTES
from exchange.gateway.description import asyncapi, openapi
from exchange.pages.site import API, Built, built
from tests.pages.conftest import Window

OPENAPI = openapi.document(ROUTES)
ASYNCAPI = asyncapi.document()
ANALYSTS = openapi.document(analyst.ROUTES, title=analyst.TITLE, about=analyst.ABOUT)
DARK = "rgb(28, 32, 34)"  # Swagger UI's own
COUNT = sum(len(item) for item in OPENAPI["paths"].values())


@pytest.fixture(scope="module")
def loaded(shared_window: Window) -> Iterator[Page]:
    """The page, loaded by an address that leads to no endpoint."""
    shared_window.faults.clear()
    with shared_window.context.new_page() as page:
        page.goto("/docs#/nowhere/nothing")
        expect(page.get_by_role("link", name="HTTP", exact=True)).to_be_visible()
        assert shared_window.faults == []
        yield page


@pytest.fixture
def docs(loaded: Page, faults: list[str]) -> Iterator[Page]:
    """The page with all endpoints; the browser told of no fault."""
    loaded.goto("/docs#/")
    loaded.get_by_placeholder("Search: words of path").fill("")
    expect(loaded.locator(".opblock")).to_have_count(COUNT)
    yield loaded
    assert faults == []


def opened(docs: Page, operation: str) -> Locator:
    """Return the place of an endpoint, shown in full by its address."""
    (tag,) = {
        described["tags"][0]
        for item in OPENAPI["paths"].values()
        for described in item.values()
        if described["operationId"] == operation
    }
    docs.goto(f"/docs#/{tag}/{operation}")
    place = docs.locator(f"#operations-{tag}-{operation}")
    expect(place.locator(".try-out button").first).to_be_visible()
    return place


def trying(place: Locator) -> None:
    """Have the endpoint's fields open: a test before may have opened them."""
    button = place.get_by_role("button", name="Try it out")
    if button.is_visible():
        button.click()


def tried(docs: Page, place: Locator, path: str) -> Any:
    """Return what the exchange answers to the request that "Execute" sends."""

    def is_it(response: Response) -> bool:
        return response.url.split("?")[0].endswith(path)

    with docs.expect_response(is_it) as answer:
        place.get_by_role("button", name="Execute", exact=True).click()
    shown = place.locator(".live-responses-table tbody .response-col_status").first
    expect(shown).to_contain_text(str(answer.value.status))
    return answer.value.json()


def call(blank: Page, name: str, body: str, *arguments: Any) -> Any:
    """Return what a function over a module of this page (``m``) and arguments (``a``) returns."""
    whole = built(API)
    assert isinstance(whole, Built)
    path = next(f"/{file}" for file in whole.files if file.endswith(f"/api/{name}.js"))
    script = f"async ([path, a]) => {{ const m = await import(path); {body} }}"
    return blank.evaluate(script, [path, list(arguments)])


def test_examples_have_keys_of_this_page_alone(blank: Page) -> None:
    document = {
        "parameters": [{"name": "order_id", "example": "order-1"}, {"name": "x", "example": "y"}],
        "value": {"entries": [{"idempotency_key": "abc", "order_id": "order-1", "price": 1.5}]},
        "schema": {"properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    }

    assert call(blank, "keys", "return m.marked(a[0], 'ff')", document) == {
        "parameters": [
            {"name": "order_id", "example": "order-1-ff"},
            {"name": "x", "example": "y"},
        ],
        "value": {
            "entries": [{"idempotency_key": "abc-ff", "order_id": "order-1-ff", "price": 1.5}]
        },
        "schema": document["schema"],
    }


@pytest.mark.parametrize(
    ("sent", "last"),
    [
        # The same again is the same request, whatever stands around it.
        (['{"idempotency_key":"a-ff","q":1}'], '{ "idempotency_key":"a-ff", "q":1 }'),
        # Not of this page, or no request at all.
        (['{"idempotency_key":"mine","q":1}'], '{"idempotency_key":"mine","q":2}'),
        (["no JSON", "null", "[]"], '{"q":1}'),
    ],
)
def test_a_body_goes_as_it_was_typed(blank: Page, sent: list[str], last: str) -> None:
    assert renewed(blank, *sent, last) == last


def test_another_body_gets_another_key_and_another_id(blank: Page) -> None:
    first = '{"idempotency_key":"a-ff","order_id":"o-ff","q":%s}'
    second = '{"idempotency_key":"a-ff-2","order_id":"o-ff-2","q":%s}'
    third = '{"idempotency_key":"a-ff-3","order_id":"o-ff-3","q":%s}'
    exact = "12345678901234567890.10"

    assert renewed(blank, first % 1, first % 2) == second % 2
    assert renewed(blank, first % 1, first % 2, second % exact) == third % exact
    assert renewed(blank, first % 1, first % 2, first % 3) == third % 3


def test_what_a_batch_cancels_keeps_its_id(blank: Page) -> None:
    batch = (
        '{"entries":[{"action":"cancel","order_id":"o-ff"},'
        '{"action":"place","idempotency_key":"%s","order_id":"%s","q":%s}]}'
    )

    assert renewed(blank, batch % ("a-ff", "p-ff", 1), batch % ("a-ff", "p-ff", 2)) == batch % (
        "a-ff-2",
        "p-ff-2",
        2,
    )


def renewed(blank: Page, *sent: str) -> Any:
    """Return what is sent last in place of these bodies, one after the other."""
    return call(blank, "keys", "const it = m.renewing('ff'); return a.map(it).at(-1)", *sent)


def test_every_endpoint_is_shown_with_what_it_is_for(docs: Page) -> None:
    for path, item in OPENAPI["paths"].items():
        for described in item.values():
            name = described["operationId"]
            place = docs.locator(f"#operations-{described['tags'][0]}-{name}")
            expect(place).to_contain_text(described["summary"])
            expect(place.locator(".opblock-summary-path")).to_have_text(
                path.replace("/", "\u200b/"), use_inner_text=False
            )
    expect(docs).to_have_title(OPENAPI["info"]["title"])


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ("orderbook", ["/market/orderbook", "/market/orderbook/snapshot"]),
        ("post cancel left", ["/orders/{order_id}/cancel"]),
        ("BEST bid", ["/market/ticker"]),
        ("register_instrument", ["/instruments"]),
        ("nothing has this", []),
    ],
)
def test_a_search_finds_endpoints_by_all_of_its_words(
    docs: Page, words: str, paths: list[str]
) -> None:
    docs.get_by_placeholder("Search: words of path").fill(words)

    expect(docs.locator(".opblock-summary-path")).to_have_count(len(paths))
    shown = docs.locator(".opblock-summary-path").all()
    assert [place.get_attribute("data-path") for place in shown] == paths


def test_the_example_is_another_order_when_it_was_changed_and_the_same_one_if_not(
    docs: Page,
) -> None:
    place = opened(docs, "place_order")
    trying(place)
    box = place.locator("textarea.body-param__text")
    first = json.loads(box.input_value())
    assert first["order_id"] != "order-1"  # somebody else has placed that

    def placed(price: str) -> Any:
        body = json.loads(box.input_value()) | {"instrument": "ETH-EUR", "price": price}
        box.fill(json.dumps(body))
        return tried(docs, place, "/orders")

    one, other, again = placed("2.00"), placed("3.00"), placed("3.00")

    assert one["order"]["order_id"] == first["order_id"]
    assert other["order"]["order_id"] != one["order"]["order_id"]
    assert other["command_id"] != one["command_id"]
    assert again["command_id"] == other["command_id"]
    assert other["order"]["order_id"] in box.input_value()


def test_an_order_can_be_placed_from_the_page_and_is_in_the_book(
    docs: Page, picture: Callable[[Page, str], None]
) -> None:
    place = opened(docs, "place_order")
    trying(place)
    body = {
        "client_id": "reader",
        "instrument": "ETH-EUR",
        "side": "buy",
        "type": "limit",
        "price": 1.25,
        "quantity": 0.5,
    }
    place.locator("textarea.body-param__text").fill(json.dumps(body))
    placed = tried(docs, place, "/orders")
    assert placed["order"]["status"] == "open"

    place = opened(docs, "get_orderbook")
    trying(place)
    place.locator("tr[data-param-name=instrument] input").fill("ETH-EUR")
    place.locator("tr[data-param-name=min_sequence] input").fill(str(placed["sequence"]))
    book = tried(docs, place, "/market/orderbook")

    assert {"price": 1.25, "quantity": 0.5}.items() <= book["bids"][-1].items()
    answer = place.locator(".live-responses-table")
    expect(answer).to_contain_text('"price": 1.25')
    place.get_by_role("button", name="Execute", exact=True).scroll_into_view_if_needed()
    answer.scroll_into_view_if_needed()
    picture(docs, "api")


def test_an_endpoints_refusals_are_a_line_each_and_open_on_demand(docs: Page) -> None:
    place = opened(docs, "place_order")
    refusals = [
        int(it) for it in OPENAPI["paths"]["/orders"]["post"]["responses"] if int(it) >= 400
    ]
    expect(place.locator("tr.response.folded")).to_have_count(len(refusals))
    line = place.locator("tr.response.folded[data-code='409']")
    expect(line).to_contain_text("idempotency.conflict: The key was used for another request")
    expect(place.get_by_text("Headers it may have: Location")).to_have_count(2)

    fields = place.locator("tr.response[data-code='409'] .response-controls")
    expect(fields).to_have_count(0)
    line.get_by_role("button", name="Fields of 409").press("Enter")
    expect(fields).to_have_count(1)
    line.get_by_role("button", name="Fields of 409").press("Enter")
    expect(fields).to_have_count(0)


def test_a_refusal_is_shown_with_its_reason(docs: Page, faults: list[str]) -> None:
    place = opened(docs, "get_ticker")
    trying(place)
    place.locator("tr[data-param-name=instrument] input").fill("NONE-SUCH")

    assert tried(docs, place, "/market/ticker")["code"] == "instrument.not_found"

    expect(place.locator(".live-responses-table")).to_contain_text("instrument.not_found")
    (refused,) = faults  # Chromium itself tells of any answer above 399
    assert "404" in refused
    faults.clear()


def test_every_message_of_the_stream_is_beside_it(
    docs: Page, picture: Callable[[Page, str], None]
) -> None:
    docs.get_by_role("link", name="Stream", exact=True).click()

    viewer = docs.locator("asyncapi-viewer")
    expect(viewer.get_by_role("heading", name="What clients send").first).to_be_visible()
    expect(docs.locator("#over-http")).to_be_hidden()
    for name in ASYNCAPI["channels"]["stream"]["messages"]:
        tab = viewer.get_by_role("tab", name=name, exact=True)
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
    expect(viewer.get_by_text(re.compile("^Variant"))).to_have_count(0)
    viewer.get_by_role("tab", name="client.limit", exact=True).click()
    picture(docs, "api-stream")

    docs.get_by_role("link", name="HTTP", exact=True).click()
    expect(viewer).to_be_hidden()


def test_a_gateway_that_does_not_tell_its_time_is_asked_again(
    page: Page, faults: list[str]
) -> None:
    asked: list[str] = []

    def lost(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/time", lost)
    with page.expect_response("**/time"):
        page.goto("/docs#stream")

    assert len(asked) == 2
    faults[:] = [one for one in faults if "net::ERR_" not in one]  # the browser tells of it


def test_it_says_where_the_stream_is_and_leads_back_to_the_market(docs: Page) -> None:
    docs.goto("/docs#stream")

    url = docs.evaluate("location.origin").replace("http", "ws", 1) + "/stream"
    expect(docs.locator("#over-stream code").first).to_have_text(url)
    expect(docs.get_by_role("link", name="Market page")).to_have_attribute("href", "./")


def test_the_streams_document_can_be_searched(docs: Page) -> None:
    docs.goto("/docs#stream")
    viewer = docs.locator("asyncapi-viewer")
    found = viewer.get_by_role("navigation").get_by_role("link")
    expect(found.filter(has_text="What clients send")).to_be_visible()

    viewer.get_by_role("searchbox").fill("get")

    expect(found.filter(has_text="What clients send")).to_be_hidden()
    expect(found.filter(has_text="What clients get")).to_be_visible()


def test_it_is_dark_where_the_system_is(docs: Page) -> None:
    docs.emulate_media(color_scheme="dark")
    ground = docs.locator(".swagger-ui").first
    expect(ground).to_have_css("background-color", DARK)

    docs.emulate_media(color_scheme="light")

    expect(ground).not_to_have_css("background-color", DARK)


def test_the_analyst_shows_its_own_document(page: Page, analyst_url: str) -> None:
    page.goto(f"{analyst_url}/docs")

    expect(page).to_have_title(analyst.TITLE)
    endpoints = sum(len(item) for item in ANALYSTS["paths"].values())
    expect(page.locator(".opblock")).to_have_count(endpoints)
    expect(page.get_by_role("link", name="HTTP", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Stream", exact=True)).to_have_count(0)
    expect(page.get_by_role("link", name="Market page")).to_have_count(0)


@pytest.mark.parametrize("anchor", ["#!", "#/", "#streamer", "#/trading/nothing"])
def test_any_anchor_leads_to_the_page(docs: Page, anchor: str) -> None:
    docs.goto(f"/docs{anchor}")

    expect(docs.get_by_role("link", name="HTTP", exact=True)).to_be_visible()
    expect(docs.locator(".opblock")).to_have_count(COUNT)


ALL_OPEN_MS = 300_000  # Swagger UI takes half a second for each, and a busy machine ten times that


@pytest.mark.long
def test_every_endpoint_opens_without_an_error(docs: Page) -> None:
    docs.locator(".opblock:not(.is-open) .opblock-summary-control").evaluate_all(
        "all => all.forEach(it => it.click())"
    )

    expect(docs.locator(".opblock .responses-wrapper")).to_have_count(COUNT, timeout=ALL_OPEN_MS)
    assert docs.get_by_text("Could not resolve reference").count() == 0
    assert docs.locator(".errors-wrapper").count() == 0
