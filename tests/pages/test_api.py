"""The page of the interface: both documents, as somebody sees them who writes a client.

Swagger UI takes seconds to draw it, so all tests but one look at a page that is loaded once.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Response, expect

from exchange.analyst import app as analyst
from exchange.gateway.app import ROUTES
from exchange.gateway.description import asyncapi, openapi
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
    expect(place.get_by_role("button", name="Try it out")).to_be_visible()
    return place


def tried(docs: Page, place: Locator, path: str) -> Any:
    """Return what the exchange answers to the request that "Execute" sends."""

    def is_it(response: Response) -> bool:
        return response.url.split("?")[0].endswith(path)

    with docs.expect_response(is_it) as answer:
        place.get_by_role("button", name="Execute", exact=True).click()
    shown = place.locator(".live-responses-table tbody .response-col_status").first
    expect(shown).to_contain_text(str(answer.value.status))
    return answer.value.json()


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


def test_an_order_can_be_placed_from_the_page_and_is_in_the_book(
    docs: Page, picture: Callable[[Page, str], None]
) -> None:
    place = opened(docs, "place_order")
    place.get_by_role("button", name="Try it out").click()
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
    place.get_by_role("button", name="Try it out").click()
    place.locator("tr[data-param-name=instrument] input").fill("ETH-EUR")
    place.locator("tr[data-param-name=min_sequence] input").fill(str(placed["sequence"]))
    book = tried(docs, place, "/market/orderbook")

    assert {"price": 1.25, "quantity": 0.5}.items() <= book["bids"][-1].items()
    answer = place.locator(".live-responses-table")
    expect(answer).to_contain_text('"price": 1.25')
    place.get_by_role("button", name="Execute", exact=True).scroll_into_view_if_needed()
    answer.scroll_into_view_if_needed()
    picture(docs, "api")


def test_a_refusal_is_shown_with_its_reason(docs: Page, faults: list[str]) -> None:
    place = opened(docs, "get_ticker")
    place.get_by_role("button", name="Try it out").click()
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
    viewer.get_by_role("tab", name="client.limit", exact=True).click()
    picture(docs, "api-stream")

    docs.get_by_role("link", name="HTTP", exact=True).click()
    expect(viewer).to_be_hidden()


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


@pytest.mark.long  # Swagger UI takes half a second for each
def test_every_endpoint_opens_without_an_error(docs: Page) -> None:
    docs.locator(".opblock:not(.is-open) .opblock-summary-control").evaluate_all(
        "all => all.forEach(it => it.click())"
    )

    expect(docs.locator(".opblock .responses-wrapper")).to_have_count(COUNT)
    assert docs.get_by_text("Could not resolve reference").count() == 0
    assert docs.locator(".errors-wrapper").count() == 0
