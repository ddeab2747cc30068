"""A picture of how long many orders waited: bars on a logarithmic scale, as wide as the terminal.

Waits of 2 ms and of 200 ms both get room, and a second hump or a long tail is seen at a glance.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, count
from typing import Final

from rich.bar import Bar
from rich.table import Table

# Milliseconds, and how many orders waited so long. Of a row: how many waited up to that, but longer
# than the milliseconds of the row before.
Wait = tuple[float, float]

FINE: Final = (1, 1.5, 2, 3, 5, 7)  # of each decade; about equal steps on a logarithmic scale
COARSE: Final = (1, 3)
LEAST_MS: Final = 0.1
ROWS_MAX: Final = 24  # with what stands around it, a picture fits a terminal
PERCENTS: Final = (50, 95, 99)
TRACE: Final = 0.03  # of the longest bar: the least that a bar has, so that one order is seen


def picture(rows: Sequence[Wait], title: str) -> Table:
    """Return the picture of some rows, with a mark where each of ``PERCENTS`` lies."""
    rows = _without_empty_ends(rows)
    total = sum(orders for _, orders in rows)
    most = max((orders for _, orders in rows), default=0.0)
    sums = accumulate(orders for _, orders in rows)
    table = Table(title=title, title_justify="left", box=None, expand=True, show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    before = 0.0
    for (up_to_ms, orders), so_far in zip(rows, sums, strict=True):
        marks = [f"p{p}" for p in PERCENTS if before < p / 100 * total <= so_far]
        bar = Bar(most, 0, max(orders, TRACE * most) if orders else 0)
        table.add_row(f"≤ {up_to_ms:,.10g} ms", bar, f"{orders:,.0f}", " ".join(marks))
        before = so_far
    return table


def buckets(waits: Iterable[Wait]) -> list[Wait]:
    """Return the rows of some waits; also the empty ones between others, since a gap tells."""
    known = sorted(wait for wait in waits if wait[1])
    fine = _sorted_in(known, FINE)
    return fine if len(fine) <= ROWS_MAX else _sorted_in(known, COARSE)


def _without_empty_ends(rows: Sequence[Wait]) -> Sequence[Wait]:
    used = [at for at, (_, orders) in enumerate(rows) if orders]
    return rows[used[0] : used[-1] + 1] if used else ()


def _sorted_in(waits: list[Wait], steps: tuple[float, ...]) -> list[Wait]:
    found: list[Wait] = []
    bounds = _bounds(steps)
    bound, orders = next(bounds), 0.0
    for waited_ms, waiting in waits:
        while waited_ms > bound:
            if orders or found:
                found.append((bound, orders))
            bound, orders = next(bounds), 0.0
        orders += waiting
    return [*found, (bound, orders)] if orders else found


def _bounds(steps: tuple[float, ...]) -> Iterator[float]:
    return (round(LEAST_MS * 10**decade * step, 6) for decade in count() for step in steps)
