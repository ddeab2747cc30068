"""What axe finds on the pages, in dark and in light, full and empty."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.pages.conftest import Place, until_live

pytestmark = pytest.mark.long  # axe reads the whole page each time


def found_by_axe(page: Page) -> list[str]:
    """Return the rules that are broken, and where."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in violations
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("colours", ["green-red", "blue-orange"])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_on_the_market_page(
    open_context: Callable[..., BrowserContext],
    place: Place,
    instrument: str,
    faults: list[str],
    scheme: str,
    colours: str,
) -> None:
    client = f"{scheme}-{colours}"
    place("sell", "1", "100.00")
    place("buy", "0.5")
    place("buy", "1", "99.00")
    page = open_context(color_scheme=scheme).new_page()
    page.goto(f"/?instrument={instrument}")
    until_live(page)
    page.get_by_label("Colours").select_option(colours)
    page.get_by_text("As a table").click()
    page.get_by_label("Client id").fill(client)
    page.get_by_role("button", name="Use").click()
    place("buy", "0.2", "99.50", client=client)
    place("sell", "0.1", client=client)
    expect(page.locator("#tape tbody tr")).to_have_count(2)
    expect(page.get_by_role("table", name="My open orders").locator("tbody tr")).to_have_count(1)
    expect(page.locator("#ladder tr.bids .own:not([hidden])")).to_have_count(1)

    assert found_by_axe(page) == []
    assert faults == []


def test_axe_finds_nothing_on_an_empty_market(market: Page) -> None:
    assert found_by_axe(market) == []
