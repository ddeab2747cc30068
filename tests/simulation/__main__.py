"""``make simulate SEEDS=1000-9999``: simulate one life per seed, on all cores."""

import logging
import multiprocessing
import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tests.simulation.world import simulate

FAILURES_SHOWN_MAX = 10


class Rate(ProgressColumn):
    """Seeds per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} seeds/s")


def live(seed: int) -> tuple[int, str | None]:
    """Return the seed and, if it failed, why."""
    logging.disable()  # many lives at once: what each of them logs says nothing here
    try:
        simulate(seed)
    except Exception as error:
        return seed, repr(error)
    return seed, None


def main(
    seeds: Annotated[str, typer.Argument(help="How many, or from-to.")] = "1000",
    jobs: Annotated[int, typer.Option(help="Processes at once.")] = os.cpu_count() or 1,
) -> None:
    """Simulate the exchange under faults; exit with 1 if any seed breaks an invariant."""
    first, _, last = seeds.rpartition("-")
    try:
        wanted = range(int(first), int(last) + 1) if first else range(int(last))
    except ValueError:
        raise typer.BadParameter(f"{seeds!r} is neither a number nor from-to, as 17-17") from None
    console = Console()
    if len(wanted) == 1:
        console.print(simulate(wanted[0]))  # with its traceback
        return
    failed = _live_all(wanted, jobs, console)
    console.print(f"{len(wanted)} seeds, {failed} failed", highlight=False)
    sys.exit(1 if failed else 0)


def _live_all(wanted: range, jobs: int, console: Console) -> int:
    failed = 0
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress, multiprocessing.Pool(jobs) as pool:
        task = progress.add_task("", total=len(wanted))
        for seed, error in pool.imap_unordered(live, wanted, chunksize=10):
            progress.advance(task)
            if error is None:
                continue
            failed += 1
            if failed <= FAILURES_SHOWN_MAX:
                console.print(f"seed {seed}: {error}\n  make simulate SEEDS={seed}-{seed}")
    return failed


if __name__ == "__main__":
    typer.run(main)
