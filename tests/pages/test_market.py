"""The market page, as a trader sees it."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.pages.conftest import Place, until_live
from tests.running import Exchange


def rows(page: Page, side: str) -> list[list[str]]:
    """Return price, size and total of each row of the ladder that shows something."""
    lines = page.locator(f"#ladder tr.{side}:not([data-empty])")
    return [
        [cell.strip() for cell in line.locator("td").all_inner_texts()[1:]] for line in lines.all()
    ]


def test_an_instrument_is_chosen_and_is_in_the_address(market: Page, instrument: str) -> None:
    expect(market.get_by_label("Instrument")).to_have_value(instrument)

    market.get_by_label("Instrument").select_option("BTC-USD")

    expect(market).to_have_url(re.compile(r"\?instrument=BTC-USD$"))
    until_live(market)


def test_own_orders_begin_on_the_first_screen_and_nothing_jumps(market: Page, place: Place) -> None:
    def top(selector: str) -> float:
        found: float = market.locator(selector).evaluate("it => it.getBoundingClientRect().top")
        return found

    before = top("main")
    place("sell", "1", "1000000.00")
    place("buy", "0.5")
    place("buy", "1", "900000.00")

    expect(market.locator("#ticker [data-part=ask]")).to_have_text("ask 1\u202f000\u202f000.00")
    assert top("main") == before
    assert top("#orders") + 40 < top("#line")
    assert top("#positions") + 40 < top("#line")


def test_an_unknown_instrument_is_told(page: Page) -> None:
    page.goto("/?instrument=NONE")

    expect(page.get_by_role("alert")).to_have_text("There is no instrument NONE.")


def test_the_ladder_shows_both_sides_with_sums(market: Page, place: Place) -> None:
    place("sell", "1.5", "101.00")
    place("sell", "2", "100.50")
    place("buy", "3", "99.50")

    expect(market.locator("#ladder .spread")).to_have_text("spread 1.00")
    assert rows(market, "asks") == [["101.00", "1.500", "3.500"], ["100.50", "2.000", "2.000"]]
    assert rows(market, "bids") == [["99.50", "3.000", "3.000"]]


def test_rows_are_grouped_by_ticks_never_at_a_better_price(market: Page, place: Place) -> None:
    place("sell", "1", "100.01")
    place("sell", "1", "100.09")
    place("buy", "1", "99.99")
    place("buy", "1", "99.91")
    expect(market.locator("#ladder .spread")).to_have_text("spread 0.02")

    market.get_by_label("Group by").select_option("10")

    expect(market.locator("#ladder tr.asks:not([data-empty])")).to_have_count(1)
    assert rows(market, "asks") == [["100.10", "2.000", "2.000"]]
    assert rows(market, "bids") == [["99.90", "2.000", "2.000"]]


def test_a_level_that_is_gone_leaves_the_middle_where_it_was(market: Page, place: Place) -> None:
    place("sell", "1", "100.01")
    order = place("buy", "1", "99.99")["order"]["order_id"]
    spread = market.locator("#ladder .spread")
    expect(spread).to_have_text("spread 0.02")
    before = spread.bounding_box()

    market.request.post(f"/orders/{order}/cancel", data={"client_id": "other"})

    expect(spread).to_have_text("one side is empty")
    assert spread.bounding_box() == before


def test_the_ladder_is_walked_by_arrows(market: Page, place: Place) -> None:
    place("sell", "1", "100.02")
    place("sell", "1", "100.01")
    expect(market.locator("#ladder tr.asks:not([data-empty])")).to_have_count(2)
    market.get_by_role("button", name="100.01", exact=True).focus()

    market.keyboard.press("ArrowUp")
    expect(market.get_by_role("button", name="100.02", exact=True)).to_be_focused()
    market.keyboard.press("ArrowRight")

    expect(market.locator("#ladder button:focus")).to_have_text("1.000")


def test_trades_come_with_size_time_and_the_takers_side(market: Page, place: Place) -> None:
    place("sell", "2", "100.00")
    place("buy", "0.5")

    tape = market.locator("#tape tbody tr")
    expect(tape).to_have_count(1)
    expect(tape.locator("td").nth(1)).to_have_text("100.00")
    expect(tape.locator("td").nth(2)).to_have_text("0.500")
    expect(tape.locator("td").nth(3)).to_have_text("buy")


def test_a_large_trade_is_marked_by_more_than_a_colour(market: Page, place: Place) -> None:
    place("sell", "100", "100.00")
    for _ in range(11):
        place("buy", "0.1")
    place("buy", "5")

    expect(market.locator("#tape tr.large td").nth(2)).to_have_text("5.000 ★")
    expect(market.locator("#tape tr.large")).to_have_count(1)


def test_trades_before_the_page_are_there_at_once(
    page: Page, place: Place, instrument: str
) -> None:
    place("sell", "1", "100.00")
    traded = place("buy", "1")
    page.request.get(f"/market/trades?instrument={instrument}&min_sequence={traded['sequence']}")

    page.goto(f"/?instrument={instrument}")

    expect(page.locator("#tape tbody tr")).to_have_count(1)


def test_the_ticker_tells_last_best_and_day(market: Page, place: Place) -> None:
    place("sell", "1", "1234567.89")
    place("buy", "0.4")
    place("buy", "1", "1.00")

    ticker = market.locator("#ticker")
    expect(ticker.locator("[data-part=last]")).to_have_text("1\u202f234\u202f567.89 USD")
    expect(ticker.locator("[data-part=bid]")).to_have_text("bid 1.00")
    # At once, though the figures of the day are read every 30 s.
    for part, words in (("volume", "volume 0.4 "), ("high", "high 1\u202f234\u202f567.89")):
        expect(ticker.locator(f"[data-part={part}]")).to_contain_text(words, timeout=10_000)
    expect(market).to_have_title(re.compile("567.89"))


def test_candles_move_with_each_trade_and_are_a_table_too(market: Page, place: Place) -> None:
    place("sell", "1", "100.00")
    place("buy", "0.5")
    market.get_by_text("As a table").click()
    cells = market.locator("#candles tbody tr").first.locator("td")
    expect(cells.nth(4)).to_have_text("100.00")
    assert market.locator(".chart").evaluate("it => it.scrollWidth <= it.clientWidth")

    place("sell", "1", "99.50")
    place("buy", "0.25")

    expect(market.locator("#candles tbody")).to_contain_text("99.50")


def test_the_interval_of_candles_is_chosen_and_kept(market: Page) -> None:
    hour = market.get_by_role("button", name="1 h", exact=True)

    hour.click()
    expect(hour).to_have_attribute("aria-pressed", "true")
    market.reload()

    expect(hour).to_have_attribute("aria-pressed", "true")


def test_a_canvas_is_told_in_a_sentence(market: Page, place: Place, instrument: str) -> None:
    place("sell", "1", "100.00")
    place("buy", "0.5")
    market.reload()

    expect(
        market.get_by_role("img", name=re.compile(rf"Chart of {instrument}: last price 100\.00"))
    ).to_be_visible()
    expect(market.get_by_role("img", name=re.compile("Depth"))).to_be_visible()


# Keeps the charts that the page makes where a test finds them.
KEEP_CHARTS = """
window.charts = {};
let given;
const kept = (name, make) => (...how) => (window.charts[name] = make(...how));
Object.defineProperty(window, "LightweightCharts", {
  get: () => given,
  set(all) {
    given = {...all, createChart: kept("candles", all.createChart),
      createOptionsChart: kept("depth", all.createOptionsChart)};
  },
});
"""


def until(page: Page, is_so: str, arg: Any = None) -> None:
    """Wait until an expression is true; Playwright's own way would need more than the policy."""
    frame = f"const look = () => {is_so} ? done() : requestAnimationFrame(look); look();"
    page.evaluate(f"arg => new Promise((done) => {{ {frame} }})", arg)


def test_bars_of_volume_stay_below_the_candles(page: Page, place: Place, instrument: str) -> None:
    for price in ("100.00", "90.00"):
        place("sell", "1", price)
        place("buy", "1")
    page.add_init_script(KEEP_CHARTS)
    page.goto(f"/?instrument={instrument}")
    until(page, "charts.candles?.panes()[0].getSeries().every((it) => it.data().length)")

    low, top = page.evaluate("""() => {
      const [volume, candles] = charts.candles.panes()[0].getSeries();
      return [candles.priceToCoordinate(90), volume.priceToCoordinate(volume.data()[0].value)];
    }""")

    assert 0 < low < top  # pixels from above


def test_a_depth_of_another_width_shows_the_same_prices(
    page: Page, place: Place, instrument: str
) -> None:
    place("sell", "1", "101.00")
    place("buy", "1", "99.00")
    page.add_init_script(KEEP_CHARTS)
    page.goto(f"/?instrument={instrument}")
    shown = "charts.depth.timeScale().getVisibleLogicalRange()"
    until(page, f"(charts.depth && {shown}?.from < 0)")
    before = page.evaluate(f"[{shown}, charts.depth.timeScale().width()]")

    page.set_viewport_size({"width": 1800, "height": 800})

    until(page, "charts.depth.timeScale().width() > arg", before[1])
    near = " && ".join(f"Math.abs({shown}.{end} - arg.{end}) < 1" for end in ("from", "to"))
    until(page, f"({near})", before[0])


def test_the_line_tells_sequence_age_and_gaps(market: Page, place: Place) -> None:
    sequence = place("buy", "1", "99.00")["sequence"]

    line = market.locator("#line")
    expect(line.locator("[data-part=sequence]")).to_have_text(f"sequence {sequence}")
    expect(line.locator("[data-part=age]")).to_have_text(re.compile(r"heard [01]\.\d s ago"))
    expect(line.locator("[data-part=gaps]")).to_have_text("gaps 0")
    expect(line.locator("[data-part=ping]")).to_have_text(re.compile(r"ping \d+ ms"))


def test_it_is_dark_and_light_as_the_system_is_or_as_chosen(market: Page) -> None:
    market.emulate_media(color_scheme="light")
    light = ground(market)
    market.emulate_media(color_scheme="dark")
    assert ground(market) != light

    market.get_by_label("Theme").select_option("light")

    assert ground(market) == light


def ground(page: Page) -> Any:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_eyes_that_tell_red_from_green_badly_have_other_colours(market: Page, place: Place) -> None:
    place("buy", "1", "99.00")
    price = market.get_by_role("button", name="99.00", exact=True)
    before = price.evaluate("it => getComputedStyle(it).color")

    market.get_by_label("Colours").select_option("blue-orange")

    assert price.evaluate("it => getComputedStyle(it).color") != before


def test_a_killed_gateway_ends_in_live_without_a_gap(
    market: Page, place: Place, exchange: Exchange, services: Any, faults: list[str]
) -> None:
    place("sell", "5", "100.00")
    place("buy", "1")
    expect(market.locator("#tape tbody tr")).to_have_count(1)

    services.portal.call(exchange.gateways[0].kill)
    expect(market.locator("#line")).to_have_attribute("data-state", "resuming")
    expect(market.locator("section.book")).to_have_attribute("data-stale", "")
    services.portal.call(exchange.gateways[0].start)
    services.portal.call(exchange.until_healthy)
    place("buy", "2")

    until_live(market)
    expect(market.locator("#tape tr.seam")).to_have_text(re.compile("resumed at .*nothing missed"))
    expect(market.locator("#tape tbody tr")).to_have_count(3)
    expect(market.locator("#line [data-part=gaps]")).to_have_text("gaps 0")
    assert rows(market, "asks") == [["100.00", "2.000", "2.000"]]
    # The browser itself tells of each connection that it could not make.
    assert all("ERR_CONNECTION" in fault for fault in faults), faults
    faults.clear()
