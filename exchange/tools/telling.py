"""How far long work is: a line kept up to date on a terminal, one every few seconds elsewhere.

Whatever the width, the share that is done and the time left are shown whole: the bar goes first,
then the count, then the end of what is said to be done.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from exchange.tools.terminal import sized

LINE_EVERY_S: Final = 2.0
BAR_MAX: Final = 24
BAR_MIN: Final = 8  # a shorter one shows nothing that the share does not

Tell = Callable[[str, int, int], None]
"""Called with what is done now, how much of it is done, and of how much; 0: nobody knows."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is counted: how a number of it is told, and its name after it."""

    told: Callable[[int], str]
    name: str


BYTES: Final = Unit(sized, "")
EVENTS: Final = Unit(lambda count: f"{count:,}", " events")
COMMANDS: Final = Unit(EVENTS.told, " commands")


@dataclass(frozen=True, slots=True)
class Far:
    """How far long work is; where ``wanted`` is 0, only for how long it goes on."""

    what: str
    done: int = 0
    wanted: int = 0
    rate: float | None = None
    left_s: float | None = None
    passed_s: float | None = None

    @property
    def text(self) -> str:
        """What is done, and for how long if that is all that is known."""
        return self.what if self.passed_s is None else f"{self.what} ... {self.passed_s:.0f} s"

    @property
    def share(self) -> float:
        """Which part is done, never more than all of it."""
        return min(1.0, self.done / self.wanted)


def told(far: Far, unit: Unit = EVENTS) -> str:
    """Return a line on how far work is."""
    return f"{far.text}: {_figures(far, unit)[0]}" if far.wanted else far.text


def fitted(far: Far, width: int, unit: Unit = EVENTS) -> str:
    """Return a line of at most ``width`` characters, with a bar if there is room for one."""
    if not far.wanted:
        return _cut(far.text, width)
    every = _figures(far, unit)
    figures = next((one for one in every if len(far.what) + 2 + len(one) <= width), every[-1])
    what = _cut(far.what, width - len(figures) - 2)
    room = min(BAR_MAX, width - len(what) - len(figures) - 4)
    if room < BAR_MIN:
        return f"{what}: {figures}"
    full = int(room * far.share)
    return f"{what}  {'━' * full}{'─' * (room - full)}  {figures}"


class Display:
    """Shows how far work is, while it is entered."""

    def __init__(self, console: Console, unit: Unit = EVENTS) -> None:
        self._console = console
        self._unit = unit
        self._live: Live | None = None
        self._far = Far("")
        self._told_s = time.monotonic()
        self._last = ""

    def __enter__(self) -> "Display":
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,  # which may be a file: its lines are no part of the display
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, far: Far) -> None:
        """Show how far work is: where there is no terminal, at most every ``LINE_EVERY_S``."""
        now_s = time.monotonic()
        if far.what != self._far.what:
            self._told_s = now_s
        self._far = far
        line = told(far, self._unit)
        if self._live is None and now_s - self._told_s >= LINE_EVERY_S and line != self._last:
            self._told_s, self._last = now_s, line
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> Text:
        return Text(fitted(self._far, self._console.width, self._unit), no_wrap=True)


@contextmanager
def telling(console: Console, unit: Unit = BYTES) -> Iterator[Tell]:
    """Lend a function that shows progress on ``console`` until the context ends."""
    begun_s: dict[str, float] = {}
    with Display(console, unit) as display:

        def tell(what: str, done: int, wanted: int) -> None:
            now_s = time.monotonic()
            seconds = now_s - begun_s.setdefault(what, now_s)
            if not wanted:
                display.show(Far(what, passed_s=seconds))
                return
            rate = done / seconds if seconds and done else None
            left_s = max(0, wanted - done) / rate if rate else None
            display.show(Far(what, done, wanted, rate, left_s))

        yield tell


def _figures(far: Far, unit: Unit) -> list[str]:
    """Return what is known of the progress: all of it, then less and less."""
    share = [f"{far.share:.0%}"]
    count = [f"{unit.told(far.done)} of {unit.told(far.wanted)}{unit.name}"]
    rate = [] if far.rate is None else [f"{unit.told(int(far.rate))}/s"]
    left = [] if far.left_s is None else [f"{far.left_s:,.0f} s left"]
    ways = (share + count + rate + left, share + rate + left, share + left)
    return [", ".join(one) for one in ways]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
