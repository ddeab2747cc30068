"""A real browser, and one running exchange, shared by the tests of this folder.

These tests are synchronous: Playwright's browser has an event loop of its own, and the exchange
lives on that of the services. ``page`` fails its test for whatever a person would not see but the
browser tells: an error on the console, a breach of the content policy, a request to another host.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)

from exchange.config import PROJECT, Settings
from tests.browser import LEFT_OUT, chromium, flags, is_required
from tests.conftest import (
    PAGES_REDIS_DATABASE,
    Services,
    drop_database,
    free_ports,
    new_database,
    new_topic,
)
from tests.running import Exchange, running

ORDER_WAIT_MS = 20_000  # a busy machine
TEST_S = 600  # with the first test of a package come all of its processes
PAGE_TIMEOUT_MS = 45_000  # where all is well it takes a second; a busy machine takes its time
BLANK = '<!doctype html><link rel="icon" href="data:,">'  # a browser would ask for an icon
SIZE: ViewportSize = {"width": 1280, "height": 800}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a busy machine take its time; every wait of these tests has a bound of its own."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TEST_S))


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Playwright, whose loop must have ended before any asynchronous test runs in this thread."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium. Without one these tests are left out, but never where changes are checked."""
    path = chromium()
    if path is None:
        assert not is_required(), LEFT_OUT
        pytest.skip(LEFT_OUT)
    expect.set_options(timeout=PAGE_TIMEOUT_MS)
    with playwright.chromium.launch(executable_path=path, args=flags()) as browser:
        yield browser


@pytest.fixture(scope="package")
def exchange(
    services: Services,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Exchange]:
    """A running exchange, one of each process, with BTC-USD on shard 0 and ETH-EUR on shard 1."""
    database_url = new_database(services, template_database)
    settings = replace(
        Settings.load({}, dotenv=None),
        port=free_ports(1)[0],
        analyst_port=free_ports(1)[0],
        operator_port=free_ports(1)[0],
        operator_allow_changes=True,
        shards=2,
        metrics_port=free_ports(1)[0],  # those above it are not looked at: one may be taken
        order_wait_ms=ORDER_WAIT_MS,
        kafka_topic=new_topic(services, 2),
        kafka_bootstrap_servers=services.kafka_bootstrap_servers,
        database_url=database_url,
        redis_url=services.redis_database(PAGES_REDIS_DATABASE),
        kafka_is_local=False,
        database_is_local=False,
        redis_is_local=False,
    )
    directory: Path = tmp_path_factory.mktemp("pages")
    with services.portal.wrap_async_context_manager(running(settings, directory)) as exchange:
        yield exchange
    drop_database(services, database_url)


@pytest.fixture
def http(exchange: Exchange) -> Iterator[httpx.Client]:
    """What others do meanwhile."""
    with httpx.Client(base_url=exchange.urls[0], timeout=30, verify=False) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Window:
    """A context, which is like a browser of its own, and what it told that no page may cause."""

    context: BrowserContext
    faults: list[str]


def new_window(browser: Browser, exchange: Exchange) -> Window:
    """Make a context, and note what it tells."""
    faults: list[str] = []
    own = urlsplit(exchange.urls[0]).hostname

    def asked(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.hostname != own:
            faults.append(f"a request to {request.url}")

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":  # breaches of the content policy are told of here too
            faults.append(f"on the console: {message.text} {message.location}")

    context = browser.new_context(viewport=SIZE, base_url=exchange.urls[0])
    context.set_default_timeout(PAGE_TIMEOUT_MS)
    context.on("request", asked)
    context.on("console", said)
    context.on("weberror", lambda error: faults.append(f"an exception: {error.error}"))
    return Window(context, faults)


@pytest.fixture(scope="package")
def shared_window(browser: Browser, exchange: Exchange) -> Iterator[Window]:
    """The window of all tests: it loads the sixty files of a page once."""
    window = new_window(browser, exchange)
    with window.context:
        yield window


@pytest.fixture(scope="package")
def shared_blank(shared_window: Window) -> Page:
    """A page of the gateway's origin on which nothing runs."""
    page = shared_window.context.new_page()
    page.route("**/blank", lambda route: route.fulfill(body=BLANK, content_type="text/html"))
    page.goto("/blank")
    return page


@pytest.fixture
def faults(shared_window: Window) -> list[str]:
    """What the browser told that no page may cause. A test that causes one takes it out."""
    shared_window.faults.clear()
    return shared_window.faults


@pytest.fixture
def blank(shared_blank: Page, faults: list[str]) -> Iterator[Page]:
    """Where pure modules are called; all tests have one, since these keep nothing."""
    yield shared_blank
    assert faults == []


@pytest.fixture
def page(shared_window: Window, blank: Page) -> Iterator[Page]:
    """An empty page of a browser that keeps nothing of former ones but their files.

    At the end of its test the browser must have told of no fault.
    """
    blank.evaluate("localStorage.clear()")
    with shared_window.context.new_page() as page:
        yield page


@pytest.fixture
def sleeper(browser: Browser, exchange: Exchange) -> Iterator[Page]:
    """A page whose clock tests may move. A window has one clock, so it is in one of its own."""
    window = new_window(browser, exchange)
    with window.context:
        page = window.context.new_page()
        page.clock.install()
        yield page
        assert window.faults == []


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Page, str], None]:
    """Take a picture of a page; with PICTURES=1 it is the one of the documentation."""
    folder = PROJECT / "docs" / "pictures" if os.environ.get("PICTURES") else tmp_path

    def taken(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return taken


UNTIL_LIVE = """timeoutMs => new Promise((resolve) => {
  const line = document.getElementById("line");
  const look = () => { if (line.dataset.state === "live") resolve(); };
  new MutationObserver(look).observe(line, {attributeFilter: ["data-state"]});
  setTimeout(resolve, timeoutMs);
  look();
})"""
numbers = count(1)
Place = Callable[..., Any]


@pytest.fixture
def instrument(http: httpx.Client) -> str:
    """An instrument of this test's own on shard 0: prices of 0.01, quantities of 0.001."""
    name = f"T{next(numbers)}-USD"
    definition = {
        "instrument": name,
        "base": name.partition("-")[0],
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 3,
        "tick_size": 0.01,
        "lot_size": 0.001,
        "shard": 0,
    }
    answer = http.post("/instruments", json=definition)
    assert answer.status_code == 201, answer.text
    return name


@pytest.fixture
def place(http: httpx.Client, instrument: str) -> Place:
    """Place an order of somebody else; at the market without a price."""

    def placed(side: str, quantity: str, price: str | None = None, client: str = "other") -> Any:
        body = {
            "client_id": client,
            "instrument": instrument,
            "side": side,
            "type": "market" if price is None else "limit",
            "quantity": quantity,
        }
        answer = http.post("/orders", json=body if price is None else {**body, "price": price})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return placed


@pytest.fixture
def market(page: Page, instrument: str) -> Page:
    """The page of the instrument, live."""
    page.goto(f"/?instrument={instrument}")
    until_live(page)
    return page


def until_live(page: Page) -> None:
    """Wait for the heartbeat that says so; ``expect`` would look once a second."""
    page.evaluate(UNTIL_LIVE, PAGE_TIMEOUT_MS)
    expect(page.locator("#line [data-part=state]")).to_have_text("● live")


# Desk and analysts go last of all processes: on a busy machine all others go first.
ANSWERS_S = 240.0


def until_answers(url: str) -> None:
    """Wait until an address answers as it does when all is well."""
    deadline_s = time.monotonic() + ANSWERS_S
    with httpx.Client(timeout=30, verify=False) as http:
        while True:
            told = "nothing"
            with suppress(httpx.TransportError):
                answer = http.get(url)
                if answer.status_code == 200:
                    return
                told = answer.text
            assert time.monotonic() < deadline_s, f"{url} answers {told}"
            time.sleep(0.05)


@pytest.fixture(scope="package")
def readers(exchange: Exchange, services: Services) -> Iterator[None]:
    """The analysts' process and the desk, which begin at the same time."""
    for process in (exchange.analyst, exchange.operator):
        services.portal.call(process.start)
    yield
    for process in (exchange.operator, exchange.analyst):
        services.portal.call(process.stop)


@pytest.fixture(scope="package")
def analyst_url(exchange: Exchange, readers: None) -> str:
    """Where the analysts' process is."""
    del readers
    until_answers(f"{exchange.settings.analyst_address}/livez")
    return exchange.settings.analyst_address


@pytest.fixture(scope="package")
def desk(exchange: Exchange, analyst_url: str) -> str:
    """Where the desk is that allows changes, with an analysts' process behind it."""
    del analyst_url
    until_answers(f"{exchange.settings.operator_address}/state")
    return exchange.settings.operator_address
