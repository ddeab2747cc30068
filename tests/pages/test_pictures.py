"""Pictures of the pages as people see them; `PICTURES=1` keeps them for the documentation."""

import random
import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.pages.conftest import until_live

pytestmark = pytest.mark.long  # pictures, and what is in them

MIDDLE = 70_150
Picture = Callable[[Page, str], None]


def fill(http: httpx.Client) -> None:
    """Let a few clients trade BTC-USD, so that there is something to see."""
    chance = random.Random(7)
    entries = []
    for number in range(400):
        side = chance.choice(("buy", "sell"))
        away = abs(chance.gauss(0, 40)) * (-1 if side == "buy" else 1)
        entries.append(
            {
                "action": "place",
                "client_id": f"client-{number % 5}",
                "instrument": "BTC-USD",
                "side": side,
                "quantity": f"{chance.uniform(0.01, 2):.3f}",
                **(
                    {"type": "market"}
                    if number > 150 and chance.random() < 0.3
                    else {"type": "limit", "price": f"{MIDDLE + away:.2f}"}
                ),
            }
        )
    for begin in range(0, len(entries), 50):
        answer = http.post("/orders/batch", json={"entries": entries[begin : begin + 50]})
        assert answer.status_code == 200, answer.text


def test_the_market(page: Page, http: httpx.Client, picture: Picture) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto("/?instrument=BTC-USD")
    until_live(page)
    fill(http)
    page.get_by_label("Client id").fill("client-1")
    page.get_by_role("button", name="Use").click()
    page.reload()
    until_live(page)
    expect(page.get_by_role("table", name="My open orders").locator("tbody tr")).not_to_have_count(
        0
    )
    expect(page.locator("#tape tbody tr")).not_to_have_count(0)
    expect(page.locator("#candles canvas").first).to_be_visible()

    picture(page, "market")


def test_the_desk(page: Page, http: httpx.Client, desk: str, picture: Picture) -> None:
    fill(http)
    page.emulate_media(color_scheme="dark")
    page.goto(f"{desk}/")
    page.get_by_role("button", name="Rebuild settlement 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Rebuild").click()
    expect(page.get_by_role("dialog")).to_be_hidden()  # the steps are told in the row
    expect(page.get_by_role("row", name=re.compile("^settlement 2 live"))).to_be_visible(
        timeout=120_000
    )

    page.evaluate("scrollTo(0, 0)")
    picture(page, "desk")
