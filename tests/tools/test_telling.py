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
