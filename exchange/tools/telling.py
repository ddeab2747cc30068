"""How far long work is: a bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from exchange.tools.terminal import sized

LINE_EVERY_S: Final = 2.0

Tell = Callable[[str, int, int], None]
"""Called with what is done now, how much of it is done, and of how much; 0: nobody knows."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is counted: how a number of it is told, its name after it, and how a bar shows it."""

    told: Callable[[int], str]
    name: str
    columns: Callable[[], tuple[ProgressColumn, ...]]


BYTES: Final = Unit(
    sized, "", lambda: (TaskProgressColumn(), DownloadColumn(), TransferSpeedColumn())
)
EVENTS: Final = Unit(
    lambda count: f"{count:,}",
    " events",
    lambda: (TaskProgressColumn(show_speed=True), MofNCompleteColumn()),
)


@contextmanager
def telling(console: Console, unit: Unit = BYTES) -> Iterator[Tell]:
    """Lend a function that shows progress on ``console`` until the context ends."""
    if not console.is_terminal:
        yield _Lines(console, unit)
        return
    with _bar(console, unit) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, all_of_them: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(escape(what))
            for name, task in tasks.items():
                progress.update(task, visible=name == what)
            progress.update(tasks[what], completed=done, total=all_of_them or None)

        yield tell


class _Lines:
    def __init__(self, console: Console, unit: Unit) -> None:
        self._console = console
        self._unit = unit
        self._what = ""
        self._begun_s = self._told_s = 0.0

    def __call__(self, what: str, done: int, all_of_them: int) -> None:
        now_s = time.monotonic()
        if what != self._what:
            self._what, self._begun_s, self._told_s = what, now_s, now_s
        if now_s - self._told_s < LINE_EVERY_S:
            return
        self._told_s = now_s
        seconds = now_s - self._begun_s
        far = self._far(done, all_of_them, seconds) if all_of_them else f" ... {seconds:.0f} s"
        self._console.print(f"{what}{far}", markup=False, highlight=False, soft_wrap=True)

    def _far(self, done: int, all_of_them: int, seconds: float) -> str:
        rate, told = done / seconds, self._unit.told
        left = f", {(all_of_them - done) / rate:.0f} s left" if done else ""
        return (
            f": {done / all_of_them:.0%}, {told(done)} of {told(all_of_them)}{self._unit.name},"
            f" {told(int(rate))}/s{left}"
        )


def _bar(console: Console, unit: Unit) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        *unit.columns(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
