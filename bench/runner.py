"""How each benchmark runs and tells what it found.

Read ``ask``: it is the whole of what a benchmark does besides measuring. It looks how quiet the
machine is before it begins, since figures of a busy machine say little; then it prints tables and
what was wanted, or the same as JSON.
"""

import argparse
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from exchange.config import PROJECT
from exchange.tools.market.waits import buckets, picture

T = TypeVar("T")

LOOK_S: Final = 2.0
BUSY_SHARE: Final = 0.10  # of all processors, used by others; a quiet machine has 0.01 to 0.04
CPU_INFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Where:
    """On what a benchmark ran, and which part of the processors others used before."""

    machine: str
    busy_share: float

    @property
    def is_quiet(self) -> bool:
        return self.busy_share <= BUSY_SHARE

    def __str__(self) -> str:
        return f"{self.machine}; {self.busy_share:.0%} busy before it began"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is wanted; ``at_most`` where less is better."""

    what: str
    reached: float
    wanted: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        if self.at_most:
            return self.reached <= self.wanted
        return self.reached >= self.wanted

    def told(self, where: Where) -> str:
        """Return a line about it, without a verdict if the machine was busy."""
        wanted = f"wanted {'at most' if self.at_most else 'at least'} {figure(self.wanted)}"
        verdict = "good" if self.is_met else "SHORT"
        return f"{self.what}: {figure(self.reached)}, {wanted}" + (
            f": {verdict}" if where.is_quiet else ""
        )


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is to print: the workload in a line, tables, what was wanted, and pictures."""

    workload: str
    parts: Sequence[Table | str]
    goals: Sequence[Goal] = ()
    pictures: Sequence[Table] = ()


def ask(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], T],
    findings: Callable[[T], Findings],
    document: Callable[[T], Mapping[str, Any]] = msgspec.to_builtins,
) -> None:
    """Read the options, measure, and print what was found.

    Args:
        parser: Of the benchmark's own options; ``--json`` is added.
        measure: Measures; its progress goes to standard error.
        findings: Makes of it what people read.
        document: Makes of it what scripts read, as fields of a JSON object.
    """
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    options = parser.parse_args()
    where = here()
    measured = measure(options)
    found = findings(measured)
    if options.json:
        goals = [{**asdict(goal), "met": goal.is_met} for goal in found.goals]
        whole = {**asdict(where), **document(measured), "goals": goals if where.is_quiet else []}
        print(msgspec.json.encode(whole).decode())
        return
    console = Console()
    for part in (str(where), found.workload, *found.parts):
        console.print(part, highlight=False)
    for goal in found.goals:
        console.print(goal.told(where), highlight=False)
    if found.goals and not where.is_quiet:
        console.print("No verdict: the machine was busy when this began.", highlight=False)
    for shown in found.pictures:
        console.print()
        console.print(shown)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the question."""
    return argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)


def rounds_parser(doc: str | None, *, events: int) -> argparse.ArgumentParser:
    """Return the parser of a measurement over a log of ``events``, in rounds."""
    parser = parser_of(doc)
    parser.add_argument("--events", type=int, default=events)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def here() -> Where:
    """Return what this runs on, after a look at what else runs there."""
    return Where(machine(), psutil.cpu_percent(interval=LOOK_S) / 100)


def machine() -> str:
    """Return what this runs on, and which commit it is, with a mark if files differ from it."""
    head = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = " with changes" if _git("status", "--porcelain", "-uno") else ""
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({_processor()}), {python}, commit {head}{changed}"


def _git(*words: str) -> str:
    told = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=False)
    return told.stdout.strip()


def _processor() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def table_of(first: str, *others: str) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table()
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def figure(value: float) -> str:
    """Return a number for people: three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return the median of some rounds, and the least and most if there are several."""
    median = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile of two values or more."""
    return float(statistics.quantiles(values, n=100, method="inclusive")[98])


def histogram(values_ms: Iterable[float], title: str) -> Table:
    """Return the picture of some times, each of which counts once."""
    return picture(buckets((value_ms, 1) for value_ms in values_ms), title)


def rates_table(
    count: int, seconds_of: Mapping[str, Sequence[float]], *, of: str = "events"
) -> Table:
    """Return a table of how long each took for so many events, in several rounds.

    The ratio is that of the rate to the first one's, which is the limit.
    """
    table = table_of("", "seconds", f"{of}/s", "ratio")
    limit = statistics.median(next(iter(seconds_of.values())))
    for name, seconds in seconds_of.items():
        median = statistics.median(seconds)
        table.add_row(name, spread(seconds, 2), f"{count / median:,.0f}", f"{limit / median:.2f}")
    return table
