"""Where does the time of one order go, from its bytes to the answer and to the feed?

Workload: ``exchange load`` sends single orders over HTTP (30 % at the market, uniform prices, 100
clients, an idempotency key each) while every read model is kept up: first 200 a second, each at its
intended time, of which hardly two are under way at once; then as many as 100 connections take, each
with one order under way. A share of the orders is traced, as an operator would trace them, to a
collector in this process. A hop lasts from one noted moment of a trace to the next, so the hops up
to the answer add up to the order's whole time in the gateway, and each has a budget.

Not included: the way from the client to the gateway and back, and what the client itself takes. The
medians of hops do not add up to the median of the whole. The traces cost what they cost.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

from rich.table import Table

from bench.load import load
from bench.runner import Findings, Goal, ask, histogram, parser_of, table_of
from bench.venue import free_ports, running, tell
from exchange.config import LOOPBACK
from tests.collector import Span, collecting

ALONE_RATE: Final = 200
WARM_UP_S: Final = 3
SHARES: Final = {"alone": 0.5, "under load": 0.05}
FLUSH_S: Final = 6.0  # spans are sent every five seconds
GATEWAY, MATCH, FEED = "POST /orders", "match PlaceOrder", "apply feed"
ANSWER: Final = "the whole request"
FED: Final = "from the commit to the feed"


@dataclass(frozen=True, slots=True)
class Hop:
    """A part of an order's way and how long it may take, in milliseconds at the median."""

    name: str
    alone_ms: float
    loaded_ms: float


# What an order may take at the median, 4 ms alone and 28 ms at 100 connections, shared out.
HOPS: Final = (
    Hop("gateway: read, checked, sent", 0.6, 4.0),
    Hop("Kafka, wait for the matcher", 1.3, 8.0),
    Hop("matcher: names claimed", 0.5, 3.0),
    Hop("matcher: decided", 0.2, 3.0),
    Hop("matcher: committed", 0.7, 4.0),
    Hop("Valkey: heard by the gateway", 0.4, 4.0),
    Hop("gateway: answered", 0.3, 2.0),
)

Times = dict[str, list[float]]


def times_of(spans: Sequence[Span]) -> Times:
    """Return how many milliseconds each hop of each whole trace took."""
    traces: dict[str, dict[str, Span]] = {}
    for span in spans:
        traces.setdefault(span.trace, {}).setdefault(span.name, span)
    found: Times = {name: [] for name in (*(hop.name for hop in HOPS), ANSWER, FED)}
    for of in traces.values():
        order, match = of.get(GATEWAY), of.get(MATCH)
        if order is None or match is None or "heard" not in order.moments_ns:
            continue
        moments = (
            order.begun_ns,
            order.moments_ns["sent"],
            match.begun_ns,
            match.moments_ns["claimed"],
            match.moments_ns["decided"],
            match.ended_ns,
            order.moments_ns["heard"],
            order.ended_ns,
        )
        for hop, begun_ns, ended_ns in zip(HOPS, moments[:-1], moments[1:], strict=True):
            found[hop.name].append((ended_ns - begun_ns) / 1e6)
        found[ANSWER].append((order.ended_ns - order.begun_ns) / 1e6)
        if FEED in of:  # one trace of those of a batch has the span
            found[FED].append((of[FEED].ended_ns - match.ended_ns) / 1e6)
    return found


async def measure(seconds: int) -> dict[str, Any]:
    """Measure alone, then under load, each on an exchange of its own."""
    found: dict[str, Any] = {}
    for name, rate in (("alone", ALONE_RATE), ("under load", 0)):
        tell(f"An order {name}")
        (port,) = free_ports(1)
        tracing: dict[str, Any] = {
            "traces_exporter": "otlp",
            "traces_endpoint": f"http://{LOOPBACK}:{port}/v1/traces",
            "traces_share": SHARES[name],
        }
        async with collecting(port) as collector, running(**tracing) as bench:
            await load(bench.url, WARM_UP_S, websocket=False, rate=rate)
            await asyncio.sleep(FLUSH_S)
            collector.spans.clear()
            loaded = await load(bench.url, seconds, websocket=False, rate=rate)
            await asyncio.sleep(FLUSH_S)
            found[name] = {"load": loaded, "hops_ms": times_of(collector.spans)}
    return found


def findings(found: dict[str, Any]) -> Findings:
    """Return a table of the hops for each workload."""
    tables = [
        hops_table(name, found[name], [getattr(hop, budget) for hop in HOPS])
        for name, budget in (("alone", "alone_ms"), ("under load", "loaded_ms"))
    ]
    goals = [
        Goal(
            f"ms of an order {name}, at the median",
            median(found[name]["hops_ms"][ANSWER]),
            sum(getattr(hop, budget) for hop in HOPS),
            at_most=True,
        )
        for name, budget in (("alone", "alone_ms"), ("under load", "loaded_ms"))
    ]
    rates = (f"{name}: {found[name]['load']['orders_per_second']:,.0f}/s" for name in found)
    pictures = [
        histogram(found[name]["hops_ms"][ANSWER], f"How long an order {name} took")
        for name in found
    ]
    return Findings(f"orders {', '.join(rates)}", tables, goals, pictures)


def hops_table(name: str, found: dict[str, Any], budgets_ms: Sequence[float]) -> Table:
    """Return the median and the 95th percentile of each hop beside its budget."""
    table = table_of(f"ms of an order {name}", "budget", "p50", "p95", "orders")
    hops_ms: Times = found["hops_ms"]
    for hop, budget_ms in zip(HOPS, budgets_ms, strict=True):
        table.add_row(hop.name, f"{budget_ms:.1f}", *_figures(hops_ms[hop.name]))
    table.add_section()
    table.add_row(ANSWER, f"{sum(budgets_ms):.1f}", *_figures(hops_ms[ANSWER]))
    table.add_row(FED, "", *_figures(hops_ms[FED]))
    return table


def _figures(values_ms: Sequence[float]) -> tuple[str, str, str]:
    if len(values_ms) < 2:
        return "", "", str(len(values_ms))
    p95_ms = quantiles(values_ms, n=20, method="inclusive")[-1]
    return f"{median(values_ms):.2f}", f"{p95_ms:.2f}", f"{len(values_ms):,}"


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each workload")

    def measured(options: argparse.Namespace) -> dict[str, Any]:
        return asyncio.run(measure(options.seconds))

    ask(parser, measured, findings)


if __name__ == "__main__":
    main()
