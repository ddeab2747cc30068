"""The result of a run: a table for people, a document for scripts."""

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.runner import machine
from tests.checks import doubled, events_by_command, lost
from tests.faults.checkers import CHECKERS, Evidence, calls, heal_times, judge
from tests.faults.history import Line
from tests.faults.schedule import KINDS
from tests.load import Command

BOUND: Final = 3  # no failure in N independent faults: below 3/N with 95 % confidence
TAKE_OVER_MAX_S: Final = {"kill matcher": 2.0, "freeze matcher": 5.0}  # of a standby at work


@dataclass(frozen=True)
class Row:
    """All faults of one kind."""

    fault: str
    times: int
    lost: int
    doubled: int
    heals_s: list[float]  # infinite: never


@dataclass(frozen=True)
class TakeOvers:
    """After all faults of one kind: the seconds until another matcher had raised the epoch."""

    after: str
    times_s: list[float]

    @property
    def limit_s(self) -> float:
        return TAKE_OVER_MAX_S[self.after]

    @property
    def in_time(self) -> int:
        return sum(time_s < self.limit_s for time_s in self.times_s)


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    seed: int
    minutes: float
    rows: list[Row]
    take_overs: list[TakeOvers]
    calls: dict[str, int]
    events: int
    failures: dict[str, str]

    @property
    def faults(self) -> int:
        return sum(row.times for row in self.rows)


def report(evidence: Evidence, *, seed: int, minutes: float) -> Report:
    """Judge the evidence and count it."""
    history, by_command = evidence.recorded.history, events_by_command(evidence.log)
    faults = evidence.recorded.of("fault")
    heals: dict[str, list[float]] = defaultdict(list)
    take_overs: dict[str, list[float]] = defaultdict(list)
    for fault, healed_s in zip(faults, heal_times(evidence.recorded), strict=True):
        heals[fault["fault"]].append(math.inf if healed_s is None else healed_s)
        if "take_over_s" in fault:
            take_overs[fault["fault"]].append(fault["take_over_s"])
    missing = _by_fault(faults, lost(history, by_command))
    twice = _by_fault(faults, doubled(history, by_command))
    rows = [
        Row(kind, len(heals[kind]), missing[kind], twice[kind], heals[kind])
        for kind in KINDS
        if heals[kind]
    ]
    return Report(
        seed,
        minutes,
        rows,
        [TakeOvers(kind, take_overs[kind]) for kind in TAKE_OVER_MAX_S if take_overs[kind]],
        calls(evidence.recorded),
        len(evidence.log),
        judge(evidence),
    )


def _by_fault(faults: list[Line], commands: list[Command]) -> Counter[str]:
    """Count commands by the last fault that had begun when they were answered."""
    counted: Counter[str] = Counter()
    for command in commands:
        at_s = command.outcome.at_s if command.outcome else command.invoked_s
        begun = [fault for fault in faults if fault["began"] <= at_s]
        counted[begun[-1]["fault"] if begun else ""] += 1
    return counted


def document(made: Report) -> dict[str, Any]:
    """Return the report for a script."""
    return {
        "machine": machine(),
        "seed": made.seed,
        "minutes": made.minutes,
        "faults": [
            {
                "fault": row.fault,
                "times": row.times,
                "lost": row.lost,
                "doubled": row.doubled,
                "median_heal_s": _median(row.heals_s),
                "worst_heal_s": _worst(row.heals_s),
            }
            for row in made.rows
        ],
        "take_overs": [
            {
                "after": one.after,
                "times": len(one.times_s),
                "limit_s": one.limit_s,
                "in_time": one.in_time,
                "median_s": _median(one.times_s),
                "worst_s": _worst(one.times_s),
            }
            for one in made.take_overs
        ],
        "calls": made.calls,
        "events": made.events,
        "invariants": {letter: made.failures.get(letter, "holds") for letter in CHECKERS},
        "failure_rate_below": BOUND / made.faults if made.faults else None,
    }


def _median(times_s: list[float]) -> float | None:
    return _known(statistics.median(times_s))


def _worst(times_s: list[float]) -> float | None:
    return _known(max(times_s))


def _known(time_s: float) -> float | None:
    return round(time_s, 2) if math.isfinite(time_s) else None


def show(made: Report, console: Console) -> None:
    title = f"{made.faults} faults, seed {made.seed}"
    faults = _table(title, "fault", "times", "lost", "doubled", "heal median s", "heal max s")
    for row in made.rows:
        heal = _median(row.heals_s), _worst(row.heals_s)
        _add(faults, row.fault, row.times, row.lost, row.doubled, *heal)
    take_overs = _table("take-overs", "after", "times", "in time", "median s", "max s")
    for one in made.take_overs:
        in_time = f"{one.in_time} in {one.limit_s:g} s"
        took = _median(one.times_s), _worst(one.times_s)
        _add(take_overs, one.after, len(one.times_s), in_time, *took)
    console.print(faults)
    if made.take_overs:
        console.print(take_overs)
    commands, *answers = made.calls.items()
    told = ", ".join(f"{count:,} {name}" for name, count in answers)
    console.print(f"{machine()}: {commands[1]:,} commands, whose attempts were {told};")
    console.print(f"{made.events:,} events in the log")
    for letter, check in CHECKERS.items():
        verdict = made.failures.get(letter)
        words = str(check.__doc__).strip()
        console.print(f"{letter}  {'holds' if verdict is None else 'FAILS'}  {words}", markup=False)
        if verdict is not None:
            console.print(f"          {verdict}", markup=False)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, no_wrap=True, justify="right")
    return table


def _add(table: Table, *cells: object) -> None:
    table.add_row(*("never" if cell is None else str(cell) for cell in cells))
