"""The operators' desk, as an operator sees it."""

import re
import time
from collections.abc import Iterator

import asyncpg
import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Services
from tests.running import Exchange

HELD_S = 120.0  # until followers stand still for a quarter of a second when they are asked to


@pytest.fixture
def page(page: Page, faults: list[str]) -> Iterator[Page]:
    """An empty page. The analysts' process goes last: it may say that it is busy."""
    yield page
    forgive(faults, 503)


def place(http: httpx.Client, **fields: object) -> httpx.Response:
    order = {"client_id": "ada", "instrument": "BTC-USD", "side": "buy", "type": "limit"}
    response = http.post("/orders", json={**order, "price": 10, "quantity": 1, **fields})
    assert response.status_code in (200, 201), response.text
    return response


def trade(http: httpx.Client, instrument: str) -> None:
    for side in ("sell", "buy"):
        place(http, instrument=instrument, side=side)


def test_the_status_is_live_with_trends_matchers_and_what_was_changed(
    page: Page, desk: str
) -> None:
    page.goto(f"{desk}/")

    expect(page.get_by_role("status").first).to_contain_text("live")
    expect(page.get_by_text(re.compile("^Healthy: .*read model book"))).to_be_visible()
    expect(page.get_by_role("img", name="lag of book 1")).to_be_visible()
    expect(page.get_by_role("table", name="Shards")).to_contain_text("running")
    expect(page.get_by_role("table", name="Take-overs")).to_contain_text("1")
    expect(page.get_by_role("table", name="The newest changes")).to_contain_text("switch")


def test_a_pause_says_what_it_will_do_who_does_it_and_why_and_is_taken_back_by_keyboard(
    page: Page, desk: str
) -> None:
    page.goto(f"{desk}/")

    page.get_by_role("button", name="Pause vwap 1").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("is not kept up any more, until somebody presses Resume.")
    expect(dialog).to_contain_text("Queries read it as of now.")
    for nobody in ("", " "):
        dialog.get_by_label("Who").fill(nobody)
        page.keyboard.press("Enter")
        assert dialog.get_by_label("Who").evaluate("field => !field.validity.valid")
    dialog.get_by_label("Who").fill("grace")
    dialog.get_by_label("Why").fill("to see a pause")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Generation 1 of vwap is paused.")
    dialog.get_by_role("button", name="Close").press("Enter")

    expect(page.get_by_role("row", name=re.compile("vwap 1 live, paused"))).to_be_visible()
    changes = page.get_by_role("table", name="The newest changes")
    newest = changes.get_by_role("row", name=re.compile("grace pause vwap")).first
    expect(newest).to_contain_text("to see a pause")
    page.get_by_role("button", name="Resume vwap 1").press("Enter")
    dialog.get_by_role("button", name="Resume").press("Enter")
    expect(dialog).to_contain_text("goes on")
    dialog.get_by_role("button", name="Close").press("Enter")
    expect(page.get_by_role("button", name="Pause vwap 1")).to_be_visible()


def forgive(faults: list[str], *statuses: int) -> None:
    """Take out what the browser tells of answers that a machine with other work may give."""
    faults[:] = [one for one in faults if not any(f"status of {it}" in one for it in statuses)]


def test_a_model_is_rebuilt_and_taken_back_from_the_page_alone_and_no_trader_sees_it(
    market: Page, desk: str, instrument: str, http: httpx.Client, faults: list[str]
) -> None:
    tape = market.locator("#tape tbody tr")
    page = market.context.new_page()
    page.goto(f"{desk}/")

    page.get_by_role("button", name="Rebuild trades 1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("events to read")
    dialog.get_by_role("button", name="Rebuild").click()
    expect(dialog).to_be_hidden()  # the steps are told in the row
    expect(page.get_by_role("row", name=re.compile("^trades 2 live"))).to_be_visible(
        timeout=1_000 * HELD_S
    )
    log = page.get_by_role("row", name=re.compile("^trades 2 live")).locator("details")
    log.get_by_text("log", exact=True).click()
    expect(log).to_contain_text(
        re.compile(r"\dZ Reading [\d,]+ events.*\dZ Live", re.DOTALL), use_inner_text=True
    )
    trade(http, instrument)
    expect(tape).to_have_count(1)

    page.get_by_role("button", name="Roll back trades 1").click()
    expect(dialog).to_contain_text("Queries go back from generation 2")
    back = dialog.get_by_text("Generation 1 of trades is live again")
    busy = dialog.get_by_text("could not be held for long enough")
    deadline_s = time.monotonic() + HELD_S
    while time.monotonic() < deadline_s:  # a machine with other work says so, and to try again
        dialog.get_by_role("button", name="Roll back").click()
        expect(back.or_(busy)).to_be_visible()
        if back.is_visible():
            break
    expect(back).to_be_visible()
    trade(http, instrument)
    expect(tape).to_have_count(2)
    expect(market.locator("#line [data-part=gaps]")).to_have_text("gaps 0")
    page.close()
    forgive(faults, 409)


def test_a_stale_page_is_refused_in_words(page: Page, desk: str, faults: list[str]) -> None:
    page.goto(f"{desk}/")
    page.get_by_role("button", name="Verify orders 1").wait_for()
    page.route(
        "**/projections/orders/pause", lambda route: route.continue_(post_data='{"expect_live": 7}')
    )

    page.get_by_role("button", name="Pause orders 1").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Pause").click()

    expect(dialog).to_contain_text("Generation 1 of orders is live, not 7 as was expected")
    (told,) = faults  # the browser tells of each refusal
    assert "409" in told
    faults.clear()


# A value that the table cannot take stops the model at its event: the first trade of this client.
REFUSE = """
alter table positions_g1 add constraint refused check (client_id <> 'unwelcome') not valid
"""
TAKE = "alter table positions_g1 drop constraint refused"


def test_a_model_that_stopped_shows_its_event_and_goes_on_without_it(
    page: Page,
    desk: str,
    http: httpx.Client,
    exchange: Exchange,
    services: Services,
) -> None:
    def run(statement: str) -> None:
        services.portal.call(executed, exchange.settings.database_url, statement)

    run(REFUSE)
    place(http, side="sell", price=666, client_id="unwelcome")
    place(http, price=666, client_id="taker")
    page.goto(f"{desk}/")
    card = page.get_by_role("article", name="Generation 1 of positions failed")
    expect(card).to_contain_text("refused")
    expect(card).to_contain_text("It is the live one and stands still. Queries read it as of now.")
    expect(card.locator("pre")).to_contain_text('"taker_client_id": "taker"')

    dialog = page.get_by_role("dialog")
    card.get_by_role("button", name="Retry positions 1").click()
    expect(dialog).to_contain_text("Mend the cause first: else it stops there again.")
    dialog.get_by_role("button", name="Retry").click()
    expect(dialog).to_contain_text("Generation 1 of positions is tried again.")
    dialog.get_by_role("button", name="Close").click()
    expect(card).to_contain_text("and it stopped once more")

    card.get_by_role("button", name="Skip positions 1").click()
    expect(dialog).to_contain_text("for ever: its figures lack what the event did")
    dialog.get_by_role("button", name="Skip").click()  # without a reason nothing is sent
    dialog.get_by_label("Why").fill("the table refuses it")
    dialog.get_by_role("button", name="Skip").click()
    expect(dialog).to_contain_text("positions passes over event 0:")
    dialog.get_by_role("button", name="Close").click()
    expect(card).to_have_count(0)
    expect(page.get_by_role("table", name="Events that definitions pass over")).to_contain_text(
        "the table refuses it"
    )
    expect(page.get_by_role("row", name=re.compile("^positions 1 live"))).to_be_visible()
    run(TAKE)


async def executed(database_url: str, statement: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(statement)
    await connection.close()


def test_while_hidden_it_asks_nothing(sleeper: Page, desk: str) -> None:
    sleeper.goto(f"{desk}/")
    sleeper.get_by_role("button", name="Verify orders 1").wait_for()
    asked: list[str] = []
    sleeper.evaluate(
        "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true})"
    )
    sleeper.on("request", lambda request: asked.append(request.url))

    sleeper.clock.run_for(60_000)

    assert asked == []
    with sleeper.expect_request("**/state"):
        sleeper.evaluate(
            "delete document.visibilityState;document.dispatchEvent(new Event('visibilitychange'))"
        )


def test_the_log_is_browsed_by_what_it_says_and_the_page_shown_is_verified(
    page: Page, desk: str, http: httpx.Client
) -> None:
    order = place(http, client_id="browser").json()["order"]["order_id"]
    page.goto(f"{desk}/#log")
    expect(page.get_by_text(re.compile(r"\d events, up to "))).to_be_visible()
    page.get_by_role("textbox", name="Client").fill("browser")
    page.get_by_role("button", name="Show").click()

    events = page.get_by_role("table", name="Events")
    expect(page.get_by_text(re.compile("^2 events, up to "))).to_be_visible()
    expect(events).to_contain_text("OrderAccepted")
    expect(events).to_contain_text("OrderRested")
    expect(page.get_by_text("Chain verified: as the matcher wrote it, 0:")).to_be_visible()
    assert "client_id=browser" in page.url
    command = events.locator("tbody tr td:last-child").first.inner_text()
    page.goto(f"{desk}/#log?command_id={command}")  # of the whole log, not of this page
    expect(events.locator("tbody tr td:last-child")).to_have_text([command, command])
    events.get_by_role("link", name=order).first.click()
    expect(page.get_by_text("buy 1 BTC-USD at 10 of browser: open")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("OrderAccepted, OrderRested"))).to_be_visible()


def test_an_orders_life_names_with_whom_it_traded_and_links_there(
    page: Page, desk: str, http: httpx.Client, instrument: str
) -> None:
    maker = place(http, client_id="anna", instrument=instrument, side="sell")
    taker = place(http, client_id="ben", instrument=instrument).json()["order"]["order_id"]
    page.goto(f"{desk}/#order?order_id={maker.json()['order']['order_id']}")

    trade = page.get_by_role("row", name=re.compile("TradeExecuted.*taker_client_id ben"))
    expect(trade.get_by_role("link", name=re.compile(r"^0:\d+$"))).to_be_visible()
    trade.get_by_role("link", name=taker).click()
    expect(page.get_by_text(f"buy 1 {instrument} at 10 of ben: filled")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("maker_client_id anna"))).to_be_visible()


def test_the_log_is_followed(page: Page, desk: str, http: httpx.Client) -> None:
    page.goto(f"{desk}/#log?client_id=follower")
    expect(page.get_by_text("the end of the log")).to_be_visible()
    page.get_by_label("Follow").check()
    expect(page.get_by_text("Following: 0 events")).to_be_visible()

    events = page.get_by_role("table", name="Events")
    for price in (3, 4):  # what came before stays
        place(http, client_id="follower", price=price)
        expect(events).to_contain_text(f"price {price}, ")
    expect(events).to_contain_text("price 3, ")


def test_the_log_opens_at_its_end_and_a_refusal_names_the_field_and_keeps_the_events(
    page: Page, desk: str, http: httpx.Client, instrument: str, faults: list[str]
) -> None:
    for price in range(101, 131):  # more events than a page has
        place(http, price=price, instrument=instrument, client_id="opens")
    page.goto(f"{desk}/#log")
    events = page.get_by_role("table", name="Events")
    expect(events).to_contain_text("price 130, ")
    expect(page.get_by_text("the end of the log")).to_be_visible()

    known = page.locator("#log").get_by_label("Instrument")
    expect(
        known.locator("xpath=ancestor::form").locator(f"option[value={instrument}]")
    ).to_have_count(1)
    kind = page.get_by_label("Type of event")
    assert "TradeExecuted" in kind.evaluate("field => [...field.list.options].map(o => o.value)")
    kind.fill("trade")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#log .bad")).to_contain_text("Type of event: must be one of")
    expect(events).to_contain_text("price 130, ")
    forgive(faults, 422)


def test_what_is_typed_before_the_first_state_comes_is_kept(page: Page, desk: str) -> None:
    page.route("**/state", lambda _: None)
    page.goto(f"{desk}/#log")
    client = page.locator("#log").get_by_label("Client")
    client.fill("typed")
    page.unroute("**/state")  # lets go what was held

    expect(page.get_by_text("the end of the log")).to_be_visible()
    expect(client).to_have_value("typed")


def test_an_instrument_that_there_is_not_is_told_with_those_there_are(
    page: Page, desk: str, faults: list[str]
) -> None:
    page.goto(f"{desk}/#time?instrument=eth-usd")

    expect(
        page.get_by_text(re.compile("Nobody registered eth-usd; there are: .*BTC-USD"))
    ).to_be_visible()
    field = page.locator("#time").get_by_label("Instrument")
    assert "BTC-USD" in field.evaluate("field => [...field.list.options].map(o => o.value)")
    forgive(faults, 404)


def test_the_newest_events_are_one_click_away(page: Page, desk: str, http: httpx.Client) -> None:
    position = place(http, client_id="newest").json()["sequence"]
    page.goto(f"{desk}/#log")

    page.get_by_role("button", name="Newest events").click()

    rows = page.get_by_role("table", name="Events").locator("tbody tr")
    expect(rows.last).to_contain_text("newest")
    expect(rows.last).to_contain_text(f"0:{position}")
    expect(page.get_by_text("the end of the log")).to_be_visible()


# Somebody with all rights: the trigger would refuse it.
TAMPER = """
alter table events disable trigger user;
update events set kafka_offset = kafka_offset {} where shard = 0 and position = {};
alter table events enable trigger user;
"""


def test_a_chain_that_is_broken_is_told_loudly(
    page: Page, desk: str, http: httpx.Client, exchange: Exchange, services: Services
) -> None:
    position = place(http, client_id="tampered").json()["sequence"]
    url = exchange.settings.database_url
    services.portal.call(executed, url, TAMPER.format("+ 1", position))
    try:
        page.goto(f"{desk}/#log?client_id=tampered")
        alert = page.get_by_role("alert").filter(has_text="THE CHAIN IS BROKEN")
        expect(alert).to_contain_text("is not as it was written")
        expect(page.get_by_text("NOT as it was written").first).to_be_visible()
        expect(page.get_by_text("Chain verified")).to_have_count(0)
    finally:
        services.portal.call(executed, url, TAMPER.format("- 1", position))
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("Chain verified")).to_be_visible()


def test_time_travel_shows_the_book_then_by_field_step_and_slider(
    page: Page, desk: str, http: httpx.Client
) -> None:
    before = place(http, price=7, quantity=3).json()["sequence"]
    after = place(http, price=8, quantity=5).json()["sequence"]
    page.goto(f"{desk}/#time?at=0:{before}&instrument=BTC-USD")

    bids = page.get_by_role("table", name="Bids")
    expect(page.get_by_text(f"NOT LIVE: BTC-USD as of 0:{before}")).to_be_visible()
    expect(bids.get_by_role("row", name=re.compile("^7 "))).to_be_visible()
    expect(bids.get_by_role("row", name=re.compile("^8 "))).to_have_count(0)
    page.get_by_label("Compare with").fill(f"0:{after}")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("row", name="bid 8 – 5")).to_be_visible()
    expect(page.get_by_role("columnheader", name=f"at 0:{after}")).to_be_visible()
    for _ in range(after - before):
        page.get_by_role("button", name="+1 event").press("Enter")
    expect(bids.get_by_role("row", name=re.compile("^8 "))).to_be_visible()
    page.get_by_role("button", name="−1 batch").press("Enter")
    expect(bids.get_by_role("row", name=re.compile("^8 "))).to_have_count(0)
    expect(page.get_by_text("its end")).to_be_visible()
    page.get_by_role("button", name="+1 batch").press("Enter")
    expect(bids.get_by_role("row", name=re.compile("^8 "))).to_be_visible()
    page.get_by_role("button", name="Compare with this moment").press("Enter")
    expect(page.get_by_role("row", name="nothing differs")).to_be_visible()
    page.get_by_role("button", name="−1 batch").press("Enter")
    expect(page.get_by_text(f"and what differs at 0:{after}")).to_be_visible()
    expect(page.get_by_role("row", name="bid 8 – 5")).to_be_visible()
    page.get_by_role("slider").press("Home")
    expect(
        page.get_by_text("There was no instrument").or_(page.get_by_text("NOT LIVE: "))
    ).to_be_visible()


def test_escape_returns_to_the_book_now_which_goes_on_but_not_while_one_types(
    page: Page, desk: str, http: httpx.Client
) -> None:
    at = place(http, price=5).json()["sequence"]
    page.goto(f"{desk}/#time?at=0:{at}&client_id=ada")
    expect(page.get_by_text(f"NOT LIVE: BTC-USD as of 0:{at}")).to_be_visible()

    page.get_by_label("Client, for").press("Escape")
    assert f"at=0%3A{at}" in page.url or f"at=0:{at}" in page.url
    page.get_by_role("slider").press("Escape")
    expect(page.get_by_text("LIVE: BTC-USD, as the log goes on")).to_be_visible()
    expect(page.locator("#time").get_by_label("Instrument")).to_have_value("BTC-USD")
    place(http, price=6, quantity=9)
    bids = page.get_by_role("table", name="Bids")
    expect(bids.get_by_role("row", name=re.compile("^6 "))).to_be_visible()


def test_how_long_commits_take_is_told_of_each_matcher(
    page: Page, desk: str, http: httpx.Client
) -> None:
    page.goto(f"{desk}/")
    row = page.get_by_role("table", name="Shards").get_by_role("row", name=re.compile("^0 running"))
    expect(row).to_be_visible()
    told = row.get_by_role("img", name=re.compile(r"milliseconds of a commit.*: \d+\.\d now"))
    for _ in range(6):  # what counts is what is decided between two samples
        place(http, price=2)
        if told.is_visible():
            break
        page.wait_for_timeout(2_500)
    expect(told).to_be_visible()


def test_two_shards_are_told_apart_in_every_part(page: Page, desk: str, http: httpx.Client) -> None:
    placed = place(http, instrument="ETH-EUR", client_id="beyond").json()
    at = f"1:{placed['sequence']}"

    page.goto(f"{desk}/")
    shards = page.get_by_role("table", name="Shards")
    for shard in (0, 1):
        expect(shards.get_by_role("row", name=re.compile(f"^{shard} running"))).to_be_visible()
    page.goto(f"{desk}/#log?client_id=beyond")
    expect(page.get_by_text("Chain verified: as the matcher wrote it, 1:")).to_be_visible()
    rows = page.get_by_role("table", name="Events").locator("tbody tr")
    expect(rows.last).to_contain_text(at)
    rows.last.get_by_role("link", name=placed["order"]["order_id"]).click()
    expect(page.get_by_role("link", name=at, exact=True).first).to_be_visible()

    page.goto(f"{desk}/#time?at={at}&instrument=ETH-EUR")
    expect(page.get_by_text(f"NOT LIVE: ETH-EUR as of {at}")).to_be_visible()
    expect(page.get_by_text("Position in the log of shard 1")).to_be_visible()
    bids = page.get_by_role("table", name="Bids")
    expect(bids.get_by_role("row", name=re.compile("^10 "))).to_be_visible()
    page.get_by_role("button", name="−1 batch").press("Enter")
    expect(bids.get_by_role("row", name=re.compile("^10 "))).to_have_count(0)
    page.get_by_label("Shard to move in").select_option("0")
    expect(page.get_by_text("Position in the log of shard 0")).to_be_visible()
    page.get_by_role("button", name="−1 event", exact=True).press("Enter")
    expect(page.get_by_text(re.compile(r"NOT LIVE: ETH-EUR as of 0:\d+,1:\d+"))).to_be_visible()
