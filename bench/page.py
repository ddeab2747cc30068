"""How soon does a trader see the market page, and what does a busy market ask of the browser?

Workload: a Chromium without a window, on the same machine, loads the page of an instrument with 400
levels and 2,000 trades, each time with nothing kept. A candle or a level counts as seen in the
frame after it was drawn. In turns with it Chromium loads an empty page of the same server, which
is the limit. Then the page stays open while pairs of orders make 200 trades a second at random
prices, and every eleventh order rests in the book. The work of a frame is what its main thread does
from one frame to the next, as a trace of Chromium has it, in processor time: the exchange has the
same two cores. The heap is what is left after a collection, the weight that of all files of a page.

Not included: TLS, a network, a graphics card, the drawing threads, several pages.
"""

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from statistics import median, quantiles
from typing import Any, Final

import httpx
from playwright.async_api import Browser, CDPSession, Page, async_playwright

from bench.batches import UNLIMITED
from bench.runner import Findings, Goal, ask, histogram, parser_of, spread, table_of
from bench.traced import CATEGORIES, Traced, traced
from bench.venue import running
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.pages import site
from exchange.pages.site import MARKET, OPERATOR, Built, built
from tests.browser import chromium, flags

MIDDLE: Final = 70_000
NEAR: Final = 50  # trades are within so many dollars of the middle
FAR: Final = 200  # and what rests is this much beyond
WORKERS: Final = 4
PAIRS: Final = 5  # in a request: ten requests a second of each worker make 200 trades
BEFORE: Final = 2_000 // WORKERS // PAIRS  # requests of a worker before the first load
WARM_UP_S: Final = 15  # until each list of the page is as long as it gets
SEEN_TIMEOUT_S: Final = 60
NO_BROWSER: Final = "Not asked: no Chromium is in PATH (Debian: apt install chromium)."

# Notes when the page is loaded, and when a level and a candle have been drawn.
NOTES: Final = """
window.seen = {};
const level = "#ladder tr.bids:not([data-empty])";
const candle = '#candles [role=img][aria-label*="last price"]';
(function look() {
  if (document.readyState === "complete") seen.loaded ??= performance.now();
  if (document.querySelector(level)) seen.book ??= performance.now();
  if (document.querySelector(candle)) seen.candle ??= performance.now();
  requestAnimationFrame(look);
})();
"""


@dataclass
class Measured:
    """What was found; empty without a browser."""

    empty_ms: list[float] = field(default_factory=list)
    book_ms: list[float] = field(default_factory=list)
    candle_ms: list[float] = field(default_factory=list)
    trades_per_second: float = 0.0
    heap_bytes: list[int] = field(default_factory=list)
    trace: Traced | None = None


async def measure(rounds: int, rate: float, seconds: float) -> Measured:
    """Load the page some times, and then let the market be busy."""
    measured = Measured()
    path = chromium()
    if path is None:
        return measured
    async with running(**UNLIMITED) as bench, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=flags())
        async with trading(bench.url, rate, BEFORE) as trades:
            await trades.done
        for _ in range(rounds):
            await load(browser, bench.url, measured)
        page = await (await browser.new_context()).new_page()
        await page.goto(f"{bench.url}/?instrument={INSTRUMENT_DEFAULT}")
        session = await page.context.new_cdp_session(page)
        async with trading(bench.url, rate) as trades:
            await asyncio.sleep(WARM_UP_S)
            measured.heap_bytes.append(await heap(session))
            before, began_s = trades.made, time.monotonic()
            await browser.start_tracing(page=page, categories=list(CATEGORIES))
            await asyncio.sleep(seconds)
            measured.trades_per_second = (trades.made - before) / (time.monotonic() - began_s)
            measured.trace = traced(await browser.stop_tracing())
            measured.heap_bytes.append(await heap(session))
        await browser.close()
    return measured


@dataclass
class Trades:
    """How many trades were made, and what ends when no more are."""

    made: int = 0
    done: asyncio.Future[Any] = field(default_factory=asyncio.Future)


@asynccontextmanager
async def trading(url: str, rate: float, requests: int = 0) -> AsyncIterator[Trades]:
    """Make trades at a rate until the end; or so many requests of each worker, at once."""
    trades = Trades()
    pause_s = 0.0 if requests else WORKERS * PAIRS / rate
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:

        async def work(number: int) -> None:
            chance, levels = random.Random(number), count(number * FAR // 2)
            next_s = time.monotonic() + pause_s * number / WORKERS
            sent = 0
            while not requests or sent < requests:
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
                next_s = max(next_s + pause_s, time.monotonic())
                entries = [entry for _ in range(PAIRS) for entry in pair(chance)]
                answer = await http.post(
                    "/orders/batch", json={"entries": [*entries, far(next(levels))]}
                )
                answer.raise_for_status()
                trades.made += PAIRS
                sent += 1

        trades.done = asyncio.gather(*(work(number) for number in range(WORKERS)))
        try:
            yield trades
        finally:
            trades.done.cancel()
            with suppress(asyncio.CancelledError):
                await trades.done


def pair(chance: random.Random) -> list[dict[str, Any]]:
    """Return two orders that trade with each other."""
    price = MIDDLE + chance.randrange(-NEAR * 100, NEAR * 100) / 100
    quantity = f"{chance.uniform(0.001, 1):.8f}"
    sides = chance.sample(("buy", "sell"), 2)
    return [placed(side, f"{price:.2f}", quantity) for side in sides]


def far(number: int) -> dict[str, Any]:
    """Return an order that rests on one of 400 levels, each in its turn."""
    away = NEAR + 1 + number % FAR
    side, sign = ("buy", -1) if number // FAR % 2 else ("sell", 1)
    return placed(side, f"{MIDDLE + sign * away}.00", "0.01")


def placed(side: str, price: str, quantity: str) -> dict[str, Any]:
    """Return an entry of a batch that places an order."""
    return {
        "action": "place",
        "client_id": "bench",
        "instrument": INSTRUMENT_DEFAULT,
        "side": side,
        "type": "limit",
        "price": price,
        "quantity": quantity,
    }


async def load(browser: Browser, url: str, measured: Measured) -> None:
    """Load an empty page and the market page, each in a browser that keeps nothing."""
    empty = await opened(browser)
    await empty.goto(f"{url}/livez")
    measured.empty_ms.append(await seen(empty, "loaded"))
    await empty.context.close()

    page = await opened(browser)
    await page.goto(f"{url}/?instrument={INSTRUMENT_DEFAULT}")
    measured.book_ms.append(await seen(page, "book"))
    measured.candle_ms.append(await seen(page, "candle"))
    await page.context.close()


async def opened(browser: Browser) -> Page:
    """Return an empty page that will note what it shows, in a browser that keeps nothing."""
    page = await (await browser.new_context()).new_page()
    await page.add_init_script(NOTES)
    return page


async def seen(page: Page, what: str) -> float:
    """Return how many milliseconds after it was asked for the page showed something."""
    async with asyncio.timeout(SEEN_TIMEOUT_S):
        while True:
            found: float | None = await page.evaluate("what => window.seen[what] ?? null", what)
            if found is not None:
                return found
            await asyncio.sleep(0.02)


async def heap(session: CDPSession) -> int:
    """Return how much memory scripts hold after a collection."""
    await session.send("HeapProfiler.collectGarbage")
    used: int = (await session.send("Runtime.getHeapUsage"))["usedSize"]
    return used


def weight_kb(page: site.Page) -> float:
    """Return how much a page is, as it is sent, without the answers that it asks for."""
    whole = built(page)
    assert isinstance(whole, Built)
    files = (whole.html, *whole.files.values())
    return sum(len(file.packed or file.body) for file in files) / 1_000


def findings(measured: Measured) -> Findings:
    """Return what was seen, and how soon."""
    if measured.trace is None:
        return Findings(NO_BROWSER, [])
    first = table_of("first load, ms", "seen", "ratio")
    limit = median(measured.empty_ms)
    rows = (
        ("an empty page", measured.empty_ms),
        ("book", measured.book_ms),
        ("candle", measured.candle_ms),
    )
    for name, taken_ms in rows:
        first.add_row(name, spread(taken_ms), f"{median(taken_ms) / limit:.1f}")
    frames_ms, tasks_ms = measured.trace.frames_ms, measured.trace.tasks_ms
    percentiles = quantiles(frames_ms, n=100, method="inclusive")
    busy = table_of("frames", "work p50 ms", "p95", "p99", "tasks", "longest ms", "heap kB")
    begin, end = (size / 1_000 for size in measured.heap_bytes)
    busy.add_row(
        f"{len(frames_ms):,}",
        *(f"{percentiles[p - 1]:.1f}" for p in (50, 95, 99)),
        f"{len(tasks_ms):,}",
        f"{max(tasks_ms):.1f}",
        f"{begin:,.0f} to {end:,.0f}",
    )
    page_kb, desk_kb = weight_kb(MARKET), weight_kb(OPERATOR)
    return Findings(
        f"{len(measured.book_ms)} loads; then {measured.trades_per_second:.0f} trades/s",
        [first, busy, f"compressed: the market page {page_kb:.0f} kB, the desk {desk_kb:.0f} kB"],
        [
            Goal("first book, ms", median(measured.book_ms), 1_000, at_most=True),
            Goal("first candle, ms", median(measured.candle_ms), 1_000, at_most=True),
            Goal("work of a frame, p95, ms", percentiles[94], 8, at_most=True),
            Goal("longest task, ms", max(tasks_ms), 50, at_most=True),
            Goal("heap at the end, of that before", end / begin, 1.1, at_most=True),
            Goal("the heavier page, kB", max(page_kb, desk_kb), 150, at_most=True),
        ],
        [histogram(frames_ms, "The work of a frame")],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=200, help="trades a second")
    parser.add_argument("--seconds", type=float, default=60)

    def measured(options: argparse.Namespace) -> Measured:
        return asyncio.run(measure(options.rounds, options.rate, options.seconds))

    ask(parser, measured, findings)


if __name__ == "__main__":
    main()
