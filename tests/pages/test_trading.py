"""Trading on the market page, as a person does it."""

import json
import re
import signal
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.conftest import Services
from tests.pages.axe import found_by_axe
from tests.pages.conftest import Place, until_live
from tests.running import Exchange


@pytest.fixture
def client() -> str:
    return f"trader-{uuid4().hex[:8]}"


@pytest.fixture
def trader(market: Page, client: str) -> Page:
    """The page of somebody who has chosen a client id."""
    market.get_by_label("Client id").fill(client)
    market.get_by_role("button", name="Use").click()
    expect(market.get_by_text("Trading as")).to_contain_text(client)
    return market


def fill(page: Page, price: str, quantity: str, side: str = "Buy") -> None:
    page.get_by_role("radio", name=side).check()
    page.get_by_label("Price", exact=True).fill(price)
    page.get_by_label("Quantity", exact=True).fill(quantity)


def send(page: Page) -> None:
    page.locator("#entry-send").click()


def orders(page: Page) -> Locator:
    return page.get_by_role("table", name="My open orders").locator("tbody tr")


def pending(page: Page) -> Locator:
    return page.get_by_role("table", name="Not known yet").locator("tbody tr")


def fills(page: Page) -> Locator:
    return page.get_by_role("table", name="My fills").locator("tbody tr")


Told = Callable[[], list[Any]]


@pytest.fixture
def of_exchange(http: httpx.Client, place: Place, client: str) -> Told:
    """Ask for all orders of the client."""

    def told() -> list[Any]:
        newer = place("buy", "0.001", "0.01")["sequence"]  # than whatever the client did
        answer = http.get("/orders", params={"client_id": client, "min_sequence": f"0:{newer}"})
        assert answer.status_code == 200, answer.text
        orders: list[Any] = answer.json()["orders"]
        return orders

    return told


def test_a_client_id_is_chosen_and_said_loudly_to_be_no_login(market: Page) -> None:
    expect(market.locator("#client-said")).to_contain_text("This is not a login")
    fill(market, "100", "1")
    expect(market.locator("#entry-send")).to_have_text(re.compile("Choose a client id first"))
    expect(market.locator("#entry-send")).to_have_attribute("aria-disabled", "true")

    market.get_by_label("Client id").fill("a/b")
    market.get_by_role("button", name="Use").click()

    expect(market.locator("#client-why")).to_have_text(
        "A client id has no / and no control character."
    )


def test_a_client_id_outlives_the_page(trader: Page, client: str) -> None:
    trader.reload()

    expect(trader.get_by_text("Trading as")).to_contain_text(client)


def test_what_was_said_to_one_client_is_not_said_to_the_next(trader: Page, place: Place) -> None:
    place("sell", "1", "100")
    fill(trader, "100", "1")
    send(trader)
    expect(trader.locator("#news")).to_contain_text("Bought 1 ")

    trader.get_by_label("Client id").fill("somebody-else")
    trader.get_by_role("button", name="Use").click()

    expect(trader.get_by_text("Trading as")).to_contain_text("somebody-else")
    expect(trader.locator("#news")).to_have_text("")
    expect(trader.locator("#entry-answer")).to_have_text("")
    expect(trader.get_by_role("button", name="Fill in last order")).to_be_hidden()


def test_no_order_goes_out_while_another_client_id_is_typed(trader: Page, client: str) -> None:
    fill(trader, "100", "1")
    button = trader.locator("#entry-send")

    trader.get_by_label("Client id").fill("somebody-else")
    expect(button).to_have_text(re.compile("confirm the client id somebody-else first"))
    expect(button).to_have_attribute("aria-disabled", "true")

    trader.get_by_label("Client id").fill(client)
    expect(button).to_have_attribute("aria-disabled", "false")


def test_an_order_is_placed_watched_and_cancelled(
    trader: Page, of_exchange: Told, place: Place
) -> None:
    fill(trader, "100.5", "0.4")
    expect(trader.locator("#entry-total")).to_have_text("40.2 USD")
    send(trader)

    expect(orders(trader)).to_have_count(1)
    expect(orders(trader)).to_contain_text("100.50")
    order_id = orders(trader).locator("td.id").inner_text()
    place("sell", "0.1", "100.5")
    expect(orders(trader)).to_contain_text("partially filled")
    expect(fills(trader)).to_contain_text("maker")
    orders(trader).get_by_role("button", name="Cancel").click()

    expect(orders(trader)).to_have_count(0)
    (order,) = of_exchange()
    assert (order["status"], order["filled_quantity"]) == ("cancelled", 0.1)
    assert order["order_id"] == order_id


def test_amounts_are_sent_as_text_with_one_key(trader: Page) -> None:
    fill(trader, "123456789.01", "0.001")
    with trader.expect_request("**/orders") as asked:
        send(trader)

    body: Any = asked.value.post_data_json
    assert (body["price"], body["quantity"]) == ("123456789.01", "0.001")
    assert body["order_id"] == body["idempotency_key"]
    assert len(body["idempotency_key"]) == 32


def test_an_order_off_the_tick_or_the_lot_is_told_before_it_is_sent(trader: Page) -> None:
    fill(trader, "100.005", "0.0005")

    expect(trader.locator("#entry-price-problem")).to_contain_text("more than 2 decimal places")
    expect(trader.locator("#entry-quantity-problem")).to_contain_text("more than 3 decimal places")
    expect(trader.locator("#entry-send")).to_have_attribute("aria-disabled", "true")


def test_arrow_keys_step_by_the_tick_and_the_lot(trader: Page) -> None:
    price = trader.get_by_label("Price", exact=True)
    price.fill("100")
    price.press("ArrowUp")
    expect(price).to_have_value("100.01")
    price.press("Shift+ArrowDown")
    expect(price).to_have_value("99.91")

    quantity = trader.get_by_label("Quantity", exact=True)
    quantity.press("ArrowUp")
    expect(quantity).to_have_value("0.001")


def test_a_turn_of_the_wheel_changes_no_amount(trader: Page) -> None:
    price = trader.get_by_label("Price", exact=True)
    price.fill("100")
    price.hover()

    trader.mouse.wheel(0, 300)
    trader.mouse.wheel(0, -100)

    expect(price).to_have_value("100")


def test_slippage_over_two_percent_warns_and_over_five_wants_a_tick(
    trader: Page, place: Place
) -> None:
    place("sell", "1", "100")
    place("sell", "1", "106")
    place("sell", "1", "130")
    trader.get_by_role("radio", name="Market").check()
    expected = trader.locator("#entry-expected")

    trader.get_by_label("Quantity", exact=True).fill("1")
    expect(expected).to_have_text("1 would trade at about 100.")
    expect(expected).to_have_class("quiet")

    trader.get_by_label("Quantity", exact=True).fill("2")
    expect(expected).to_contain_text("Careful: 2 would trade at about 103, 3.00 % worse")
    expect(expected).to_have_class("warning")
    expect(trader.locator("#entry-send")).to_have_attribute("aria-disabled", "false")

    trader.get_by_label("Quantity", exact=True).fill("4")
    expect(expected).to_contain_text("Far away! 3 would trade at about 112, 12.00 % worse")
    expect(expected).to_contain_text("1 would be cancelled")
    expect(trader.locator("#entry-send")).to_have_attribute("aria-disabled", "true")
    trader.get_by_role("checkbox", name="I want to trade that far away").check()
    expect(trader.locator("#entry-send")).to_have_attribute("aria-disabled", "false")


def test_a_click_on_a_level_fills_the_form(trader: Page, place: Place) -> None:
    place("sell", "1", "100")
    place("sell", "2", "101")
    ladder = trader.locator("#ladder")

    ladder.get_by_role("button", name="101.00").click()
    expect(trader.get_by_label("Price", exact=True)).to_have_value("101")
    expect(trader.get_by_label("Quantity", exact=True)).to_have_value("")

    ladder.get_by_role("button", name="2.000").click()
    expect(trader.get_by_label("Quantity", exact=True)).to_have_value("3")
    expect(trader.get_by_role("radio", name="Buy")).to_be_checked()


def test_a_click_on_a_ladder_that_moves_takes_what_the_pointer_went_down_on(
    trader: Page, place: Place
) -> None:
    place("sell", "1", "101")
    trader.locator("#ladder").get_by_role("button", name="101.00").hover()
    trader.mouse.down()
    place("sell", "1", "100")
    expect(trader.locator("#ladder tr.asks:not([data-empty])")).to_have_count(2)

    trader.mouse.up()

    expect(trader.get_by_label("Price", exact=True)).to_have_value("101")


def test_own_orders_are_marked_in_the_ladder_and_cancelled_there(trader: Page) -> None:
    fill(trader, "90", "1")
    send(trader)

    trader.get_by_role("button", name="cancel 1 own order").click()

    expect(orders(trader)).to_have_count(0)


def test_a_refusal_says_why_and_is_read_out(trader: Page, faults: list[str]) -> None:
    def elsewhere(route: Route) -> None:
        body: Any = route.request.post_data_json
        route.continue_(post_data=json.dumps({**body, "instrument": "NO-SUCH"}))

    trader.route("**/orders", elsewhere)
    fill(trader, "100", "1")
    send(trader)

    expect(trader.locator("#entry-answer")).to_contain_text("Buy 1 T")
    expect(trader.locator("#entry-answer")).to_contain_text("not done. ")
    expect(trader.locator("#news")).to_contain_text("not done. ")
    expect(pending(trader)).to_have_count(0)
    faults.clear()  # the browser tells of every 404


def test_a_202_is_shown_as_pending_and_outlives_the_page(
    trader: Page, exchange: Exchange, of_exchange: Told
) -> None:
    def without_waiting(route: Route) -> None:
        route.continue_(headers={**route.request.headers, "prefer": "respond-async"})

    (matcher,) = exchange.matchers
    trader.route("**/orders", without_waiting)
    fill(trader, "100", "1")
    matcher.signal(signal.SIGSTOP)
    try:
        send(trader)
        expect(pending(trader)).to_contain_text("pending")
        expect(pending(trader)).to_contain_text("has not decided it yet")
        trader.reload()
        expect(pending(trader)).to_contain_text("pending")
    finally:
        matcher.signal(signal.SIGCONT)

    expect(orders(trader)).to_have_count(1)
    expect(pending(trader)).to_have_count(0)
    assert [order["status"] for order in of_exchange()] == ["open"]


def test_an_order_whose_answer_is_lost_is_sent_again_under_its_key(
    trader: Page, of_exchange: Told, faults: list[str]
) -> None:
    sent: list[Any] = []

    def lose_the_first_answer(route: Route) -> None:
        sent.append(route.request.post_data)
        if len(sent) == 1:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()

    trader.route("**/orders", lose_the_first_answer)
    fill(trader, "100", "1")
    send(trader)

    expect(orders(trader)).to_have_count(1)
    expect(trader.locator("#entry-answer")).to_contain_text("open")
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert len(of_exchange()) == 1
    faults.clear()  # the browser tells of every broken connection


def test_an_unknown_outcome_is_never_shown_as_a_failure(
    trader: Page, of_exchange: Told, faults: list[str]
) -> None:
    """The gateway says 503, unknown, until somebody looks; the page is closed meanwhile."""
    problem = {"code": "kafka.unavailable", "status": 503, "outcome": "unknown", "detail": "Away."}

    def unknown(route: Route) -> None:
        body = json.dumps(problem)
        route.fulfill(status=503, body=body, content_type="application/problem+json")

    trader.route("**/orders", unknown)
    fill(trader, "100", "1")
    send(trader)
    expect(pending(trader)).to_contain_text("not known yet")
    expect(pending(trader)).to_contain_text("Away.")
    expect(trader.locator("#entry-answer")).to_have_text("")
    trader.reload()
    expect(pending(trader)).to_contain_text("not known yet")

    trader.unroute("**/orders")

    expect(orders(trader)).to_have_count(1)
    expect(pending(trader)).to_have_count(0)
    assert len(of_exchange()) == 1
    faults.clear()


def switch_keys_on(page: Page) -> None:
    page.get_by_role("button", name="Keys (?)").click()
    page.get_by_role("checkbox", name="Keys act by themselves").check()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("heading", name="Market", exact=True).click()


def test_fills_and_positions_follow_own_trades(trader: Page, place: Place) -> None:
    place("sell", "2", "100")
    fill(trader, "100", "1.5")
    send(trader)

    expect(fills(trader)).to_have_count(1)
    expect(fills(trader)).to_contain_text("taker")
    position = trader.get_by_role("table", name="My positions").locator("tbody tr")
    expect(position).to_contain_text("1.5 long")
    expect(fills(trader)).to_contain_text("100.00")
    place("buy", "0.5", "100")
    place("sell", "1", "90")
    place("buy", "1", "90")

    expect(position).to_contain_text("−15 USD")
    expect(position.locator("td[data-side=sell]")).to_have_count(1)


def test_only_own_fills_and_refusals_are_read_out(trader: Page, place: Place) -> None:
    live = trader.locator("[aria-live]")
    expect(live).to_have_count(1)
    expect(live).to_have_attribute("aria-live", "polite")
    place("sell", "1", "100")
    place("buy", "0.4", "100")
    expect(trader.locator("#tape tbody tr")).to_have_count(1)
    expect(live).to_have_text("")

    fill(trader, "100", "0.6")
    send(trader)

    expect(live).to_have_text(re.compile(r"Bought 0\.6 T\d+-USD at 100\.00$"))


def test_keys_are_off_until_somebody_switches_them_on_in_their_list(trader: Page) -> None:
    trader.keyboard.press("?")
    listed = trader.get_by_role("dialog", name="Keys")
    expect(listed.get_by_role("row", name="Shift X")).to_contain_text("cancel all orders")
    trader.keyboard.press("Escape")
    trader.get_by_role("heading", name="Market", exact=True).click()
    trader.keyboard.press("s")
    expect(trader.get_by_role("radio", name="Buy")).to_be_checked()

    expect(trader.get_by_role("button", name="Keys (?)")).to_have_text("Keys (?): off")
    switch_keys_on(trader)
    expect(trader.get_by_role("button", name="Keys (?)")).to_have_text("Keys (?): on")
    trader.keyboard.press("s")

    expect(trader.get_by_role("radio", name="Sell")).to_be_checked()


def test_keys_place_and_cancel_and_never_act_while_somebody_types(
    trader: Page, of_exchange: Told
) -> None:
    switch_keys_on(trader)
    trader.keyboard.press("p")
    trader.keyboard.type("200")
    trader.keyboard.press("b")
    expect(trader.get_by_label("Price", exact=True)).to_have_value("200b")
    trader.keyboard.press("Backspace")
    trader.keyboard.press("Escape")
    trader.keyboard.press("2")
    expect(trader.get_by_label("Quantity", exact=True)).to_have_value("0.1")
    trader.keyboard.press("Enter")
    expect(orders(trader)).to_have_count(1)
    trader.keyboard.press("q")
    trader.keyboard.type("3")
    trader.keyboard.press("Enter")
    expect(orders(trader)).to_have_count(2)
    expect(orders(trader).first).to_contain_text("3")

    trader.keyboard.press("Escape")
    trader.keyboard.press("x")
    expect(orders(trader)).to_have_count(1)
    expect(orders(trader)).to_contain_text("0.1")
    trader.keyboard.press("Shift+X")
    trader.keyboard.press("Enter")
    expect(orders(trader)).to_have_count(0)

    assert {order["status"] for order in of_exchange()} == {"cancelled"}


def test_everything_is_done_by_keyboard_alone(market: Page, client: str) -> None:
    """Only Tab, arrows, Space, Enter and what is typed, from the beginning of the page."""

    def tab_to(target: Locator) -> None:
        for _ in range(60):
            if target.evaluate("element => element === document.activeElement"):
                return
            market.keyboard.press("Tab")
        raise AssertionError(f"{target} is not reached")

    tab_to(market.get_by_label("Client id"))
    market.keyboard.type(client)
    market.keyboard.press("Enter")
    expect(market.get_by_text("Trading as")).to_contain_text(client)
    tab_to(market.get_by_role("radio", name="Buy"))
    market.keyboard.press("ArrowRight")
    expect(market.get_by_role("radio", name="Sell")).to_be_checked()
    tab_to(market.get_by_label("Price", exact=True))
    market.keyboard.type("300")
    tab_to(market.get_by_label("Quantity", exact=True))
    market.keyboard.type("2")
    tab_to(market.locator("#entry-send"))
    market.keyboard.press("Space")
    expect(orders(market)).to_have_count(1)
    market.keyboard.press("Space")
    expect(orders(market)).to_have_count(2)
    cancels = orders(market).get_by_role("button")
    tab_to(cancels.first)
    market.keyboard.press("Enter")
    expect(orders(market)).to_have_count(1)
    expect(cancels.first).to_be_focused()  # the next one, where the first was
    market.keyboard.press("Enter")
    expect(orders(market)).to_have_count(0)


def test_cancel_all_asks_first_and_cancels_what_is_not_listed_too(
    trader: Page, http: httpx.Client, client: str, instrument: str
) -> None:
    order = {"action": "place", "client_id": client, "side": "buy", "type": "limit", "quantity": 1}
    names = [instrument] * 59 + ["ETH-EUR"]
    entries = [{**order, "instrument": name, "price": 10} for name in names]
    assert http.post("/orders/batch", json={"entries": entries}).status_code == 200
    trader.reload()
    expect(orders(trader)).to_have_count(50)

    trader.get_by_role("button", name="Cancel all").click()
    question = trader.get_by_role("dialog")
    expect(question).to_contain_text(f"Cancel all open orders of {client}, of every instrument?")
    question.get_by_role("button", name="Back").click()
    expect(orders(trader)).to_have_count(50)

    trader.get_by_role("button", name="Cancel all").click()
    question.get_by_role("button", name="Cancel all").click()
    expect(trader.locator("#entry-answer")).to_contain_text("60 cancelled")
    expect(orders(trader)).to_have_count(0)


def test_fifty_orders_are_shown_newest_first_and_older_ones_on_the_next_page(
    trader: Page, http: httpx.Client, client: str, instrument: str
) -> None:
    order = {"action": "place", "client_id": client, "instrument": instrument, "side": "buy"}
    entries = [{**order, "type": "limit", "price": 10 + n, "quantity": 1} for n in range(60)]
    assert http.post("/orders/batch", json={"entries": entries}).status_code == 200

    trader.reload()
    expect(orders(trader)).to_have_count(50)
    expect(orders(trader).first).to_contain_text("69")
    trader.get_by_role("button", name="Older orders").click()
    expect(orders(trader)).to_have_count(10)
    expect(orders(trader).last).to_contain_text("10")
    trader.get_by_role("button", name="Newest orders").click()
    expect(orders(trader)).to_have_count(50)


def test_orders_of_other_instruments_are_listed_too(
    trader: Page, http: httpx.Client, client: str
) -> None:
    order = {"client_id": client, "instrument": "ETH-EUR", "side": "buy", "type": "limit"}
    http.post("/orders", json={**order, "price": 20, "quantity": 1})

    trader.reload()

    expect(orders(trader)).to_contain_text("ETH-EUR")
    orders(trader).get_by_role("button", name="Cancel").click()
    expect(orders(trader)).to_have_count(0)


def test_who_wants_to_be_asked_is_asked(trader: Page) -> None:
    trader.get_by_role("button", name="Keys (?)").click()
    trader.get_by_role("checkbox", name="Ask before each order").check()
    trader.get_by_role("button", name="Close").click()
    fill(trader, "100", "1")

    send(trader)
    question = trader.get_by_role("dialog", name="at 100.00?")
    question.get_by_role("button", name="Back").click()
    expect(orders(trader)).to_have_count(0)
    send(trader)
    question.get_by_role("button", name="Send").click()

    expect(orders(trader)).to_have_count(1)


def test_sizes_and_the_last_order_are_buttons_that_work_before_a_price_is_typed(
    trader: Page,
) -> None:
    trader.get_by_role("group", name="Sizes").get_by_role("button", name="10", exact=True).click()
    expect(trader.get_by_label("Quantity", exact=True)).to_have_value("10")
    trader.get_by_label("Price", exact=True).fill("70")
    send(trader)
    expect(orders(trader)).to_have_count(1)
    fill(trader, "80", "1", side="Sell")

    trader.get_by_role("button", name="Fill in last order").click()

    expect(trader.locator("#entry-answer")).to_have_text("")
    expect(trader.get_by_label("Price", exact=True)).to_have_value("70")
    expect(trader.get_by_label("Quantity", exact=True)).to_have_value("10")
    expect(trader.get_by_role("radio", name="Buy")).to_be_checked()


def test_an_order_placed_elsewhere_appears_without_a_question(
    trader: Page, place: Place, client: str
) -> None:
    expect(trader.get_by_text("No open orders.")).to_be_visible()

    place("sell", "1", "500", client=client)

    expect(orders(trader)).to_contain_text("Sell", timeout=10_000)  # 30 s without the stream


def test_while_the_market_is_stale_nothing_is_sent_and_the_button_says_why(
    trader: Page, exchange: Exchange
) -> None:
    (gateway,) = exchange.gateways
    fill(trader, "100", "1")
    button = trader.locator("#entry-send")
    expect(button).to_have_attribute("aria-disabled", "false")

    gateway.signal(signal.SIGSTOP)
    try:
        expect(button).to_have_text(re.compile("nothing was heard for"))
        button.click(force=True)  # a button that is not enabled is not clicked by itself
        expect(pending(trader)).to_have_count(0)
    finally:
        gateway.signal(signal.SIGCONT)

    expect(button).to_have_text(re.compile(r"^Buy T\d+$"))


def test_own_orders_are_right_after_the_gateway_was_killed(
    trader: Page, exchange: Exchange, services: Services, place: Place, faults: list[str]
) -> None:
    for price in ("100", "101"):
        fill(trader, price, "1")
        send(trader)
    expect(orders(trader)).to_have_count(2)
    (gateway,) = exchange.gateways

    services.portal.call(exchange.kill_and_restart, gateway)
    services.portal.call(exchange.until_healthy)
    place("sell", "1.5", "100")

    until_live(trader)
    expect(orders(trader)).to_have_count(1)
    expect(orders(trader)).to_contain_text("partially filled")
    expect(fills(trader)).to_have_count(2)
    expect(trader.locator("#line [data-part=gaps]")).to_have_text("gaps 0")
    faults.clear()  # the browser tells of every broken connection


def test_axe_finds_nothing_in_warnings_keys_and_questions(
    trader: Page, place: Place, faults: list[str]
) -> None:
    place("sell", "1", "100")
    place("sell", "1", "130")
    fill(trader, "90", "1")
    send(trader)
    expect(orders(trader)).to_have_count(1)
    trader.route("**/orders", lambda route: route.abort("connectionreset"))
    send(trader)
    expect(pending(trader)).to_contain_text("not known yet")
    fill(trader, "140", "2")
    expect(trader.locator("#entry-expected")).to_contain_text("Far away!")
    assert found_by_axe(trader) == []

    trader.get_by_role("button", name="Keys (?)").click()
    assert found_by_axe(trader) == []
    trader.keyboard.press("Escape")
    trader.get_by_role("button", name="Cancel all").click()
    assert found_by_axe(trader) == []
    faults.clear()  # the browser tells of every broken connection


def test_own_orders_and_the_typed_price_are_marked_on_the_depth(
    trader: Page, place: Place, client: str
) -> None:
    place("sell", "1", "101.00")
    place("buy", "2", "99.00", client=client)
    fill(trader, "99.5", "1")

    marks = trader.locator("#depth [data-part=marks]")
    expect(marks).to_have_text("■ own orders: 99.00 · ▼ typed: buy at 99.50")


def test_the_ladder_is_entered_by_keyboard_though_nothing_is_offered(
    trader: Page, place: Place, client: str
) -> None:
    place("buy", "2", "99.00", client=client)
    expect(trader.locator("#ladder .own:not([hidden])")).to_have_count(1)

    trader.get_by_label("Group by").focus()
    trader.keyboard.press("Tab")
    expect(trader.locator("#ladder button:focus")).to_have_text("99.00")
    trader.keyboard.press("ArrowLeft")
    trader.keyboard.press("Enter")

    expect(trader.locator("#ladder .own:not([hidden])")).to_have_count(0)
    expect(trader.locator("#ladder tr.bids:not([data-empty])")).to_have_count(0)
