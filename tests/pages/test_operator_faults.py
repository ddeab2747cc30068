"""A desk of its own: while the world around it breaks it says so, and ends live by itself."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect
from redis import Redis

from exchange.config import Settings
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.directory import RunDirectory
from exchange.stack.run import exchange_processes
from tests.conftest import Services, free_ports
from tests.faults.proxy import Proxy
from tests.pages.conftest import until_answers
from tests.pages.test_operator import executed
from tests.running import Exchange

LIVE = re.compile("^live; the exchange is (healthy|degraded)")
AWAY_MS = 60_000  # the desk goes last of all processes, and starts anew

# Notes each frame in which the page called itself live with figures of a look that is over.
WATCH = """
window.lies = [];
const look = () => {
  const text = document.getElementById("line").textContent;
  const isGrey = document.documentElement.hasAttribute("data-stale");
  if (text.startsWith("live") === isGrey) window.lies.push(text);
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


@pytest.fixture(scope="module")
def database(exchange: Exchange, services: Services) -> Iterator[Proxy]:
    """What stands between this desk and PostgreSQL."""
    port = httpx.URL(exchange.settings.database_url).port
    assert port is not None
    proxy = Proxy(port)
    services.portal.call(proxy.start)
    yield proxy
    services.portal.call(proxy.stop)


@pytest.fixture(scope="module")
def shaken(
    exchange: Exchange,
    analyst_url: str,
    database: Proxy,
    services: Services,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, ManagedProcess]]:
    """A desk of this module's own, which may be killed."""
    del analyst_url
    url = httpx.URL(exchange.settings.database_url).copy_with(port=database.port)
    settings: Settings = replace(
        exchange.settings,
        operator_port=free_ports(1)[0],
        database_url=str(url),
        trace_url="http://traces.example/{trace_id}",
    )
    run = RunDirectory(Path(tmp_path_factory.mktemp("desk")))
    run.prepare()
    desk = exchange_processes(settings, run)[-1][-1]
    services.portal.call(desk.start)
    until_answers(f"{settings.operator_address}/state")
    yield settings.operator_address, desk
    services.portal.call(desk.stop)


@pytest.fixture
def status(page: Page, shaken: tuple[str, ManagedProcess], faults: list[str]) -> Iterator[Page]:
    """The page, live; it must never have called old figures the present ones."""
    page.goto(f"{shaken[0]}/")
    expect(page.locator("#line")).to_have_text(LIVE)
    page.evaluate(WATCH)
    yield page
    assert page.evaluate("window.lies") == []
    told = re.compile("net::ERR_|status of 503")
    faults[:] = [fault for fault in faults if not told.search(fault)]


def test_a_desk_that_was_killed_is_told_and_comes_back(
    status: Page, shaken: tuple[str, ManagedProcess], services: Services
) -> None:
    services.portal.call(shaken[1].kill)
    line = status.locator("#line")
    expect(line).to_have_text(re.compile(r"^STALE: figures are of \d+ s ago. Why: the desk does"))
    status.get_by_role("button", name="Pause book 1").click()
    expect(status.get_by_role("dialog")).to_contain_text("STALE: figures are of")
    status.get_by_role("button", name="Leave").click()

    services.portal.call(shaken[1].start)
    expect(line).to_have_text(LIVE, timeout=AWAY_MS)


TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_sampled_command_is_linked_to_where_its_trace_is_seen(
    status: Page, shaken: tuple[str, ManagedProcess], exchange: Exchange, services: Services
) -> None:
    add = f"insert into traces values (0, 1, '{TRACED}')"
    services.portal.call(executed, exchange.settings.database_url, add)

    status.goto(f"{shaken[0]}/#log?type=InstrumentRegistered")

    link = status.get_by_role("link", name="trace", exact=True)
    expect(link).to_have_attribute("href", f"http://traces.example/{TRACED.split('-')[1]}")


@pytest.mark.long
def test_a_gateway_that_was_killed_is_a_row_of_its_own(
    status: Page, exchange: Exchange, services: Services
) -> None:
    services.portal.call(exchange.gateways[0].kill)
    expect(status.locator("#line")).to_have_text(re.compile("^live, but no gateway answers"))
    expect(status.get_by_role("row", name=re.compile("^gateway away"))).to_be_visible()
    expect(status.get_by_text("Healthy:")).to_have_count(0)

    services.portal.call(exchange.gateways[0].start)
    expect(status.locator("#line")).to_have_text(LIVE, timeout=AWAY_MS)
    expect(status.get_by_text(re.compile("^Healthy: "))).to_be_visible()


@pytest.mark.long
def test_while_postgres_is_away_figures_are_called_stale(
    status: Page, database: Proxy, services: Services
) -> None:
    cut = services.portal.start_task_soon(database.cut, 8.0)
    line = status.locator("#line")
    expect(line).to_have_text(re.compile("^STALE: figures are of .* PostgreSQL"))
    expect(status.get_by_role("row", name=re.compile("^book 1"))).to_be_visible()
    cut.result()
    expect(line).to_have_text(LIVE, timeout=AWAY_MS)

    silence = services.portal.start_task_soon(database.hold, 12.0)
    expect(line).to_have_text(re.compile("^STALE: "))
    silence.result()
    expect(line).to_have_text(LIVE, timeout=AWAY_MS)


@pytest.mark.long
def test_after_redis_was_emptied_the_book_is_filled_again_before_the_eyes(
    status: Page, exchange: Exchange
) -> None:
    with Redis.from_url(exchange.settings.redis_url) as redis:
        redis.flushdb()

    expect(status.get_by_role("row", name=re.compile("^book 1 live"))).to_be_visible()
    expect(status.locator("#line")).to_have_text(
        re.compile("^live; the exchange is healthy"), timeout=AWAY_MS
    )
    expect(status.get_by_role("img", name="lag of book 1: now 0")).to_be_visible()
