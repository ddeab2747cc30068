"""Does an order cost more processor time than at another commit?

Workload: ``bench.orders`` at 100 connections, of a checkout of the other commit and of this one, in
turns, at least six of each; the first of each does not count. What is compared is the processor
time per order of all processes together, since rates of a shared machine change from one minute to
the next by more than most changes do.

The verdict is of the medians. A difference that is not larger than the spread of either commit's
own turns is none: it says so.

Not included: latency, memory, and a commit whose dependencies are others: both run on this one's.
"""

import json
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.progress import Progress

from bench.runner import Findings, ask, parser_of, spread, table_of
from bench.wrk import require_wrk
from exchange.config import PROJECT

TURNS_MIN: Final = 6
ROUND: Final = ("--rounds", "1", "--json")


@dataclass(frozen=True, slots=True)
class Compared:
    """Microseconds of processor time per order, of each turn."""

    base: str
    base_us: list[float] = field(default_factory=list)
    here_us: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """This commit's time as a multiple of the other's."""
        return statistics.median(self.here_us) / statistics.median(self.base_us)

    @property
    def is_told_apart(self) -> bool:
        """Whether the medians differ by more than the middle half of either's turns is wide."""
        apart = abs(statistics.median(self.here_us) - statistics.median(self.base_us))
        return apart > max(middle_half(self.base_us), middle_half(self.here_us))


def middle_half(values: list[float]) -> float:
    """Return how wide the middle half of the values is."""
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Lend the files of a commit, in a directory that is deleted."""
    with TemporaryDirectory(prefix="exchange-bench-base-") as name:
        path = Path(name) / "base"
        git = ["git", "-C", str(PROJECT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(path), commit], check=True)
        (path / ".run").mkdir()
        (path / ".run" / "kafka-jars").symlink_to(PROJECT / ".run" / "kafka-jars")
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def us_per_order(project: Path, seconds: int) -> float:
    """Run one turn and return the processor time per order, of all processes together."""
    told = subprocess.run(
        [sys.executable, "-m", "bench.orders", *ROUND, "--seconds", str(seconds)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        check=True,
    )
    us: dict[str, float] = json.loads(told.stdout)["cpu_us_per_order"]
    return sum(us.values())


def measure(options: Namespace) -> Compared:
    """Run both in turns, after one of each that does not count."""
    compared = Compared(options.base)
    with checkout(options.base) as base, Progress(console=Console(stderr=True)) as progress:
        steps = progress.add_task("In turns", total=2 * (options.turns + 1))
        for turn in range(options.turns + 1):
            for project, figures in ((base, compared.base_us), (PROJECT, compared.here_us)):
                us = us_per_order(project, options.seconds)
                if turn:
                    figures.append(us)
                progress.advance(steps)
    return compared


def findings(compared: Compared) -> Findings:
    """Return both, and whether they can be told apart."""
    table = table_of("", "cpu us per order")
    table.add_row(compared.base, spread(compared.base_us))
    table.add_row("here", spread(compared.here_us))
    if compared.is_told_apart:
        verdict = f"An order costs {compared.ratio:.2f} times as much as at {compared.base}."
    else:
        verdict = f"No verdict: the difference ({compared.ratio:.2f}) is within the spread."
    return Findings(f"{len(compared.here_us)} turns each", [table, verdict])


def turns(text: str) -> int:
    """Read a number of turns; fewer than six say nothing."""
    if (number := int(text)) < TURNS_MIN:
        raise ValueError(f"at least {TURNS_MIN}")
    return number


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("base", help="the other commit, for example main")
    parser.add_argument("--turns", type=turns, default=TURNS_MIN)
    parser.add_argument("--seconds", type=int, default=8, help="of each part of a turn")
    require_wrk()
    ask(parser, measure, findings)


if __name__ == "__main__":
    main()
