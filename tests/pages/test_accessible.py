"""What axe finds on the pages, full and empty, in dark and in light."""

import httpx
from playwright.sync_api import Page, expect

from tests.pages.axe import found_by_axe
from tests.pages.conftest import Place


def test_axe_finds_nothing_on_the_market_page_empty_and_full(market: Page, place: Place) -> None:
    assert found_by_axe(market) == []

    place("sell", "1", "100.00")
    place("buy", "0.5")
    place("buy", "1", "99.00")
    market.get_by_text("As a table").click()
    market.get_by_label("Client id").fill("axe")
    market.get_by_role("button", name="Use").click()
    place("buy", "0.2", "99.50", client="axe")
    place("sell", "0.1", client="axe")
    expect(market.locator("#tape tbody tr")).to_have_count(2)
    expect(market.get_by_role("table", name="My open orders").locator("tbody tr")).to_have_count(1)
    expect(market.locator("#ladder tr.bids .own:not([hidden])")).to_have_count(1)
    for colours in ("green-red", "blue-orange"):
        market.get_by_label("Colours").select_option(colours)
        assert found_by_axe(market) == []


def test_axe_finds_nothing_on_any_part_of_the_desk(
    page: Page, desk: str, http: httpx.Client
) -> None:
    order = {"client_id": "axe", "instrument": "BTC-USD", "side": "buy", "type": "limit"}
    placed = http.post("/orders", json={**order, "price": 3, "quantity": 1}).json()
    order_id, sequence = placed["order"]["order_id"], placed["sequence"]
    part = page.locator("main > [data-part]:not([hidden])")

    page.goto(f"{desk}/")
    page.get_by_role("button", name="Verify orders 1").wait_for()
    assert found_by_axe(page) == []
    page.get_by_role("button", name="Pause orders 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").wait_for()
    assert found_by_axe(page) == []
    page.keyboard.press("Escape")
    for address, shown in (
        ("log?client_id=axe", "Chain verified"),
        (f"order?order_id={order_id}", "of axe: open"),
        (f"time?at=0:{sequence}&instrument=BTC-USD", "NOT LIVE"),
    ):
        page.goto(f"{desk}/#{address}")
        expect(part).to_contain_text(shown)
        assert found_by_axe(page) == [], address
