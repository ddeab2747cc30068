"""How far long work is: a bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from exchange.tools.terminal import sized

LINE_EVERY_S: Final = 2.0

Tell = Callable[[str, int, int], None]
"""Called with what is done now, how many bytes of it are done, and of how many; 0: nobody knows."""


@contextmanager
def telling(console: Console) -> Iterator[Tell]:
    """Lend a function that shows progress on ``console`` until the context ends."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with _bar(console) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, all_of_them: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[what] = progress.add_task(escape(what))
            progress.update(tasks[what], completed=done, total=all_of_them or None)

        yield tell


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._begun_s = self._told_s = 0.0

    def __call__(self, what: str, done: int, all_of_them: int) -> None:
        now_s = time.monotonic()
        if what != self._what:
            self._what, self._begun_s, self._told_s = what, now_s, now_s
        if now_s - self._told_s < LINE_EVERY_S:
            return
        self._told_s = now_s
        far = self._far(done, all_of_them, now_s - self._begun_s) if all_of_them else " ..."
        self._console.print(f"{what}{far}", markup=False, highlight=False, soft_wrap=True)

    def _far(self, done: int, all_of_them: int, seconds: float) -> str:
        rate = done / seconds
        left = f", {(all_of_them - done) / rate:.0f} s left" if done else ""
        return (
            f": {done / all_of_them:.0%}, {sized(done)} of {sized(all_of_them)},"
            f" {sized(int(rate))}/s{left}"
        )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
