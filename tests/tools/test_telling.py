"""Where there is no terminal, a line every two seconds says how far long work is."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from exchange.tools import telling


def test_lines_tell_rate_and_time_left_or_how_long_it_takes_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(telling, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    shown = StringIO()

    with telling.telling(Console(file=shown), telling.EVENTS) as tell:
        for what, done, all_of_them in (
            ("folding", 1_000, 8_000),
            ("folding", 2_000, 8_000),
            ("folding", 4_000, 8_000),
            ("comparing", 0, 0),
            ("comparing", 0, 0),
            ("comparing", 0, 0),
        ):
            tell(what, done, all_of_them)
            clock.now_s += 1.0

    assert shown.getvalue().splitlines() == [
        "folding: 50%, 4,000 of 8,000 events, 2,000/s, 2 s left",
        "comparing ... 2 s",
    ]


def test_share_and_time_left_are_whole_at_any_width() -> None:
    far = telling.Far("positions generation 12: reading", 12_500_000, 25_000_000, 123_456.7, 1234.0)

    lines = {width: telling.fitted(far, width) for width in range(60, 161)}

    assert all(len(line) <= width for width, line in lines.items())
    assert all("50%" in line and "1,234 s left" in line for line in lines.values())
    assert "12,500,000 of 25,000,000 events" in lines[100]
    assert "━" in lines[130]


def test_what_is_done_is_cut_before_the_figures() -> None:
    far = telling.Far("a" * 80, 1, 4, left_s=3.0)

    assert telling.fitted(far, 60) == f"{'a' * 44}…: 25%, 3 s left"
    assert telling.fitted(telling.Far("a" * 80), 60) == f"{'a' * 59}…"
