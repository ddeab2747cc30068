"""The market page, as a trader sees it."""

from playwright.sync_api import Page, expect


def test_it_names_the_instruments(page: Page) -> None:
    page.goto("/")

    expect(page.get_by_role("row", name="BTC-USD")).to_contain_text("0.01")
    expect(page.get_by_role("row", name="ETH-EUR")).to_contain_text("0.05")
