"""The picture of waits: every order is in it, and it fits the terminal."""

import re
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from exchange.tools.market.load import Measured, Plan
from exchange.tools.market.report import show
from exchange.tools.market.waits import ROWS_MAX, Wait, buckets, picture

some_waits = st.lists(st.tuples(st.floats(0.001, 3_600_000), st.integers(0, 1_000)), max_size=50)


def drawn(rows: list[Wait], width: int = 60) -> list[str]:
    text = StringIO()
    Console(file=text, width=width).print(picture(rows, "Waits"))
    return [line.rstrip() for line in text.getvalue().splitlines()[1:]]


def test_bounds_are_about_equal_steps_on_a_logarithmic_scale() -> None:
    assert buckets([(1.2, 1), (1.5, 2), (4.0, 3), (9.9, 4)]) == [
        (1.5, 3),
        (2, 0),
        (3, 0),
        (5, 3),
        (7, 0),
        (10, 4),
    ]


def test_a_wide_spread_has_wider_steps() -> None:
    assert [bound for bound, _ in buckets([(0.2, 1), (50_000.0, 1)])] == [
        0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000,
    ]  # fmt: skip


@given(some_waits)
def test_every_order_is_in_a_row_and_there_are_few_rows(waits: list[Wait]) -> None:
    rows = buckets(waits)

    assert len(rows) <= ROWS_MAX
    assert sum(orders for _, orders in rows) == sum(orders for _, orders in waits)
    if rows:
        assert rows[0][1] > 0
        assert rows[-1][1] > 0
        assert rows[-1][0] >= max(waited for waited, orders in waits if orders)


def test_bars_are_as_long_as_there_are_orders_and_say_where_the_percentiles_are() -> None:
    assert drawn([(1, 40), (1.5, 80), (2, 0), (3, 4)], width=40) == [
        "   ≤ 1 ms  ███████▌         40",
        " ≤ 1.5 ms  ███████████████  80  p50 p95",
        "   ≤ 2 ms                    0",
        "   ≤ 3 ms  ▊                 4  p99",
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_the_terminal_and_shows_a_single_order(width: int) -> None:
    lines = drawn(buckets([(5, 1_000_000), (700, 1)]), width)

    assert max(map(len, lines)) <= width
    assert len(lines[0]) > width - 10
    assert re.fullmatch(r" *≤ 700 ms +[^ ]+ +1", lines[-1])


def test_nothing_to_draw_is_nothing() -> None:
    assert drawn([]) == []
    assert drawn([(1, 0)]) == []


def test_a_load_ends_with_it() -> None:
    measured = Measured()
    for milliseconds in (1.9, 2.5, 2.5, 65):
        measured.note("201", milliseconds / 1000, accepted=True)
    text = StringIO()

    plan = Plan("http://localhost:3000", 1, 4, 1.0, 0.0, websocket=False)
    show(Console(file=text, width=80), plan, measured)

    last = [line.split() for line in text.getvalue().splitlines()][-11:]
    assert last[0] == ["How", "long", "accepted", "orders", "waited"]
    assert last[1][:3] == ["≤", "2", "ms"]
    assert last[-1][-3:] == ["1", "p95", "p99"]
