"""What a load came to: numbers, and a picture of how long orders waited."""

from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from exchange.tools.market.load import Measured, Plan
from exchange.tools.market.waits import buckets, picture

PERCENTS: Final = (50, 95, 99)
BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 60_000, 3_600_000)
TARGET_RATE: Final = 2_000  # what the load test of this exchange is to reach
TARGET_P50_MS: Final = 100


def progress(console: Console) -> Progress:
    """Return the progress line of a load."""
    return Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def line(measured: Measured) -> str:
    """Say in a few words how a load goes."""
    p50, p99 = measured.percentile_ms(50), measured.percentile_ms(99)
    failed = measured.answered - measured.accepted
    return (
        f"{measured.answered:,} orders  {measured.rate:,.0f}/s  not accepted {failed:,}"
        f"  p50 {p50:.0f} ms  p99 {p99:.0f} ms"
    )


def done(plan: Plan, measured: Measured) -> float:
    """Return which share of a load is done, by the limit that is nearer."""
    by_time = measured.seconds / plan.duration_s
    by_count = measured.sent / plan.total if plan.total else 0.0
    return min(1.0, max(by_time, by_count))


def left_s(plan: Plan, measured: Measured) -> float:
    """Return how long a load will go on, if it goes on as it did."""
    share = done(plan, measured)
    return measured.seconds * (1 - share) / share if share else plan.duration_s


def document(plan: Plan, measured: Measured) -> dict[str, Any]:
    """Return the result for a script."""
    return {
        "base_url": plan.base_url,
        "connections": plan.connections,
        "websocket": plan.websocket,
        "batch": plan.batch,
        "intended_rate": plan.rate or None,
        "seconds": round(measured.seconds, 3),
        "orders": measured.answered,
        "orders_per_second": round(measured.rate, 1),
        "success_rate": round(measured.success, 6),
        "latency_ms": {
            **{f"p{percent}": measured.percentile_ms(percent) for percent in PERCENTS},
            "max": measured.latencies.get_max_value() / 1000,
        },
        "answers": dict(measured.answers.most_common()),
        "histogram_ms": [{"up_to": up_to, "orders": n} for up_to, n in histogram(measured)],
    }


def histogram(measured: Measured) -> list[tuple[int, int]]:
    """Return how many orders waited up to each bound, but longer than the one before it."""
    counts = dict.fromkeys(BUCKETS_MS, 0)
    for waited_ms, orders in waits(measured):
        bound = next((b for b in BUCKETS_MS if waited_ms <= b), BUCKETS_MS[-1])
        counts[bound] += orders
    return list(counts.items())


def waits(measured: Measured) -> Iterator[tuple[float, int]]:
    """Yield each latency in milliseconds, and how many orders had it."""
    for item in measured.latencies.get_recorded_iterator():
        yield item.value_iterated_to / 1000, item.count_added_in_this_iter_step


def _verdict(plan: Plan, measured: Measured) -> str:
    """Return how the load compares with the target; a rate below it was never to reach it."""
    if 0 < plan.rate < TARGET_RATE:
        return f"{plan.rate:,.0f} a second were intended."
    met = measured.rate >= TARGET_RATE and measured.percentile_ms(50) < TARGET_P50_MS
    told = f"The target, {TARGET_RATE:,} a second at a median below {TARGET_P50_MS} ms"
    return f"{told}: {'reached' if met else 'not reached'}."


def show(console: Console, plan: Plan, measured: Measured) -> None:
    """Print the result for a person."""
    table = Table(
        title=f"{escape(plan.base_url)}, {plan.connections} connections", title_justify="left"
    )
    for name in ("accepted/s", "accepted", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    latencies = [f"{measured.percentile_ms(percent):.1f} ms" for percent in PERCENTS]
    longest = f"{measured.latencies.get_max_value() / 1000:.0f} ms"
    table.add_row(f"{measured.rate:,.0f}", f"{measured.success:.2%}", *latencies, longest)
    console.print(table)
    for outcome, count in measured.answers.most_common():
        console.print(f"  answered {outcome}: {count:,}", highlight=False)
    since = "its intended time" if plan.rate else "sending it"
    console.print(
        f"Latency is of accepted orders, from {since}. {_verdict(plan, measured)}", highlight=False
    )
    if measured.accepted:
        console.print()
        console.print(picture(buckets(waits(measured)), "How long accepted orders waited"))
