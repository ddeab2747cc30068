"""What a run came to: a table for people, a document for scripts."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.venue import machine
from tests.checks import doubled, events_by_command, lost
from tests.faults.checkers import CHECKERS, Evidence, calls, heal_times, judge
from tests.faults.history import Line
from tests.faults.schedule import KINDS
from tests.load import Command

BOUND: Final = 3  # no failure in N independent faults: below 3/N with 95 % confidence


@dataclass(frozen=True)
class Row:
    """All faults of one kind."""

    fault: str
    times: int
    lost: int
    doubled: int
    worst_heal_s: float | None
    worst_take_over_s: float | None


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    seed: int
    minutes: float
    rows: list[Row]
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
    heals: dict[str, list[float | None]] = defaultdict(list)
    for fault, healed_s in zip(faults, heal_times(evidence.recorded), strict=True):
        heals[fault["fault"]].append(healed_s)
    missing = _by_fault(faults, lost(history, by_command))
    twice = _by_fault(faults, doubled(history, by_command))
    take_overs: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        if "take_over_s" in fault:
            take_overs[fault["fault"]].append(fault["take_over_s"])
    rows = [
        Row(
            kind,
            len(heals[kind]),
            missing[kind],
            twice[kind],
            _worst(heals[kind]),
            max(take_overs[kind], default=None),
        )
        for kind in KINDS
        if heals[kind]
    ]
    counted = calls(evidence.recorded)
    return Report(seed, minutes, rows, counted, len(evidence.log), judge(evidence))


def _worst(times: list[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return None if len(known) < len(times) else round(max(known), 2)


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
                "worst_heal_s": row.worst_heal_s,
                "worst_take_over_s": row.worst_take_over_s,
            }
            for row in made.rows
        ],
        "calls": made.calls,
        "events": made.events,
        "invariants": {letter: made.failures.get(letter, "holds") for letter in CHECKERS},
        "failure_rate_below": BOUND / made.faults if made.faults else None,
    }


def show(made: Report, console: Console) -> None:
    table = Table(title=f"{made.faults} faults, seed {made.seed}", title_justify="left")
    table.add_column("fault", no_wrap=True)
    for heading in ("times", "lost", "doubled", "heal max s", "take-over max s"):
        table.add_column(heading, justify="right")
    for row in made.rows:
        cells = (row.times, row.lost, row.doubled, row.worst_heal_s, row.worst_take_over_s)
        table.add_row(row.fault, *("" if cell is None else str(cell) for cell in cells))
    console.print(table)
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
