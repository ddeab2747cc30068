"""The market page while the world around it breaks.

It ends live, without a gap, and never shows an old price as the present one.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import CDPSession, Page, WebSocketRoute, expect
from redis import Redis

from tests.conftest import Services
from tests.e2e.operator_commands import run
from tests.faults.proxy import Proxy
from tests.pages.conftest import Place, until_live
from tests.running import Exchange

AWAY_MS = 20_000  # until a page that was left alone is live again, on a busy machine
SLEPT_MS = 10 * 60 * 1000

# Notes each frame in which the page called itself live although it had heard nothing for longer
# than it promises; a busy machine draws late, so half a second is let pass.
WATCH = """
window.lies = [];
const watch = () => {
  const state = document.getElementById("line").dataset.state;
  const age = document.querySelector("#line [data-part=age]").textContent;
  const seconds = Number(/[0-9.]+/.exec(age)?.[0] ?? 0);
  const isGrey = document.querySelector("section.book").hasAttribute("data-stale");
  if ((state === "live") === isGrey || (state === "live" && seconds > 3))
    window.lies.push(`${state}, ${age}, ${isGrey ? "grey" : "not grey"}`);
  requestAnimationFrame(watch);
};
requestAnimationFrame(watch);
"""


@pytest.fixture
def proxy(exchange: Exchange, services: Services) -> Iterator[Proxy]:
    """What stands between the browser and the gateway."""
    proxy = Proxy(exchange.settings.port)
    services.portal.call(proxy.start)
    yield proxy
    services.portal.call(proxy.stop)


@pytest.fixture
def distant(page: Page, proxy: Proxy, instrument: str) -> Iterator[Page]:
    """The page, live, behind a link that tests may disturb."""
    page.goto(f"http://127.0.0.1:{proxy.port}/?instrument={instrument}")
    until_live(page)
    page.evaluate(WATCH)
    yield page
    assert page.evaluate("window.lies") == []


def prints(page: Page) -> list[str]:
    """Return the sizes on the tape, newest first."""
    return page.locator("#tape tbody tr:not(.seam) td:nth-child(3)").all_inner_texts()


def part(page: Page, name: str) -> Any:
    return page.locator(f"#line [data-part={name}]")


def live_again(page: Page) -> None:
    expect(page.locator("#line")).to_have_attribute("data-state", "live", timeout=AWAY_MS)
    expect(part(page, "gaps")).to_have_text("gaps 0")


def trade(place: Place, quantity: str) -> None:
    place("sell", quantity, "100.00")
    place("buy", quantity)


@pytest.mark.long
def test_a_connection_that_is_open_but_silent_turns_grey_and_says_why(
    distant: Page, proxy: Proxy, place: Place, services: Services
) -> None:
    """Frozen prices under a green dot are what people complain of most."""
    trade(place, "1")
    expect(distant.locator("#tape tbody tr")).to_have_count(1)

    silence = services.portal.start_task_soon(proxy.hold, 8.0)
    expect(distant.locator("#line")).to_have_attribute("data-state", "stale")
    expect(part(distant, "state")).to_have_text(
        re.compile(r"stale: nothing was heard for \d\.\d s")
    )
    expect(distant.locator("section.book")).to_have_attribute("data-stale", "")
    trade(place, "2")
    silence.result()

    live_again(distant)
    expect(distant.locator("#tape tr:not(.seam)")).to_have_count(3)  # and the head
    assert prints(distant) == ["2.000", "1.000"]


@pytest.mark.long
def test_a_link_that_is_cut_is_resumed(
    distant: Page, proxy: Proxy, place: Place, services: Services, faults: list[str]
) -> None:
    trade(place, "1")
    expect(distant.locator("#tape tbody tr")).to_have_count(1)

    cut = services.portal.start_task_soon(proxy.cut, 2.0)
    expect(distant.locator("#line")).to_have_attribute("data-state", re.compile("resuming|away"))
    trade(place, "2")
    cut.result()

    live_again(distant)
    expect(part(distant, "resumed")).to_have_text("brought afterwards 1")
    expect(distant.locator("#tape tr.seam")).to_have_count(1)
    assert prints(distant) == ["2.000", "1.000"]
    assert all("net::ERR_" in fault for fault in faults), faults
    faults.clear()


@pytest.mark.long
def test_a_slow_link_shows_everything_in_its_order(
    distant: Page, proxy: Proxy, place: Place, services: Services
) -> None:
    slow = services.portal.start_task_soon(proxy.slow, 4.0, 0.4)
    for quantity in ("1", "2", "3", "4"):
        trade(place, quantity)
    slow.result()

    live_again(distant)
    expect(distant.locator("#tape tbody tr:not(.seam)")).to_have_count(4)
    assert prints(distant) == ["4.000", "3.000", "2.000", "1.000"]


def frozen(page: Page) -> CDPSession:
    session = page.context.new_cdp_session(page)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    return session


@pytest.mark.long
def test_a_tab_that_was_frozen_goes_on_where_it_was(market: Page, place: Place) -> None:
    trade(place, "1")
    expect(market.locator("#tape tbody tr")).to_have_count(1)

    session = frozen(market)
    trade(place, "2")
    session.send("Page.setWebLifecycleState", {"state": "active"})

    expect(market.locator("#tape tbody tr:not(.seam)")).to_have_count(2)
    live_again(market)


@pytest.mark.long
def test_a_machine_that_slept_ten_minutes_resumes_at_once(
    sleeper: Page, place: Place, instrument: str
) -> None:
    sleeper.goto(f"/?instrument={instrument}")
    until_live(sleeper)
    trade(place, "1")
    expect(sleeper.locator("#tape tbody tr")).to_have_count(1)

    with sleeper.expect_websocket():  # at once: before anything else is waited for
        sleeper.clock.fast_forward(SLEPT_MS)
    trade(place, "2")

    live_again(sleeper)
    # On a busy machine a connection may take so long that another one is tried.
    expect(part(sleeper, "reconnects")).to_have_text(re.compile(r"^reconnects [1-9]"))
    expect(sleeper.locator("#tape tbody tr:not(.seam)")).to_have_count(2)


def test_a_subscription_that_is_refused_is_asked_for_again_and_the_others_go_on(
    page: Page, place: Place, instrument: str
) -> None:
    is_away = [True]

    def between(browser: WebSocketRoute) -> None:
        server = browser.connect_to_server()

        def sent(text: str | bytes) -> None:
            told = json.loads(text)
            if is_away[0] and "trades" in told.get("channels", ()):
                answer = {"type": "error", "id": told["id"], "detail": "Trades are away."}
                browser.send(json.dumps(answer))
            else:
                server.send(text)

        browser.on_message(sent)

    page.route_web_socket("**/stream", between)
    page.goto(f"/?instrument={instrument}")
    expect(part(page, "state")).to_have_text("■ stale: trades: Trades are away.")
    place("sell", "1", "100.00")
    expect(page.locator("#ladder tr.asks:not([data-empty])")).to_have_count(1)

    is_away[0] = False

    live_again(page)
    expect(part(page, "reconnects")).to_have_text("reconnects 0")


def test_a_flushed_redis_leaves_the_book_right(
    market: Page,
    place: Place,
    exchange: Exchange,
    services: Services,
    faults: list[str],
) -> None:
    place("sell", "5", "101.00")
    expect(market.locator("#ladder tr.asks:not([data-empty])")).to_have_count(1)

    with Redis.from_url(exchange.settings.redis_url) as redis:
        redis.flushdb()
    place("sell", "2", "100.00")
    services.portal.call(exchange.until_healthy)
    place("buy", "1", "99.00")

    live_again(market)
    expect(market.locator("#ladder .spread")).to_have_text("spread 1.00", timeout=AWAY_MS)
    expect(market.locator("#ladder tr.asks:not([data-empty])")).to_have_count(2)
    # What is asked for over HTTP is asked again until there is an answer.
    assert all("503 (Service Unavailable)" in fault for fault in faults), faults
    faults.clear()


def test_a_book_that_is_switched_is_not_seen(
    market: Page, place: Place, exchange: Exchange, services: Services
) -> None:
    trade(place, "1")
    expect(market.locator("#tape tbody tr")).to_have_count(1)

    told = services.portal.call(run, exchange, "rebuild", "book")
    assert told.code == 0, told
    trade(place, "2")
    place("buy", "3", "99.00")

    expect(market.locator("#tape tbody tr:not(.seam)")).to_have_count(2)
    expect(market.locator("#ladder tr.bids:not([data-empty])")).to_have_count(1)
    live_again(market)


@pytest.mark.long
def test_a_gateway_that_flaps_leaves_one_line_on_the_tape(
    distant: Page, proxy: Proxy, place: Place, services: Services, faults: list[str]
) -> None:
    trade(place, "1")
    expect(distant.locator("#tape tbody tr")).to_have_count(1)

    for number in range(3):
        services.portal.call(proxy.cut, 0.1)
        expect(part(distant, "reconnects")).to_have_text(
            re.compile(rf"reconnects [{number + 1}-9]")
        )
        live_again(distant)

    expect(distant.locator("#tape tr.seam")).to_have_count(1)
    faults[:] = [fault for fault in faults if "net::ERR_" not in fault]
