"""``make faults``: the exchange under load and a nemesis, for as long as you like.

The seed decides which faults come when. What they hit also depends on the machine. The logs of all
processes and the history stay in ``.run/faults``.
"""

import asyncio
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from exchange.config import PROJECT
from tests.faults.history import HistoryFile
from tests.faults.nemesis import Nemesis
from tests.faults.report import document, report, show
from tests.faults.run import Options, run
from tests.faults.schedule import KINDS

DIRECTORY = PROJECT / ".run" / "faults"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults go on.")] = 2.0,
    seed: Annotated[int | None, typer.Option(help="Which faults, when.")] = None,
    faults: Annotated[str, typer.Option(help="Only these, joined by commas.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the report for a script.")] = False,
) -> None:
    """Do faults to the whole exchange under load, and check every invariant."""
    kinds = _kinds(faults)
    options = Options(minutes, random.randrange(10_000) if seed is None else seed, kinds)
    console = Console(stderr=json)
    console.print(f"seed {options.seed}: make faults MINUTES={minutes:g} SEED={options.seed}")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    with _progress(console) as progress:
        evidence = asyncio.run(run(options, DIRECTORY, _shower(progress, options)))
    made = report(evidence, seed=options.seed, minutes=minutes)
    text = msgspec.json.format(msgspec.json.encode(document(made)), indent=2).decode()
    (DIRECTORY / "report.json").write_text(text + "\n")
    show(made, console)
    if json:
        sys.stdout.write(text + "\n")
    console.print(f"{_short(DIRECTORY)}: report.json, history.jsonl, logs")
    sys.exit(1 if made.failures else 0)


def _kinds(named: str) -> tuple[str, ...]:
    kinds = tuple(name.strip() for name in named.split(",") if name.strip()) or KINDS
    unknown = set(kinds).difference(KINDS)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(KINDS)}")
    return kinds


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _shower(progress: Progress, options: Options) -> "Shower":
    return Shower(progress, sum(_faults_of(options)))


def _faults_of(options: Options) -> list[int]:
    return [
        sum(map(len, burst.lanes.values())) + burst.kill_everything for burst in options.bursts()
    ]


class Shower:
    """Keeps a line of progress: faults done of those planned, and how the load goes."""

    def __init__(self, progress: Progress, planned: int) -> None:
        self._progress = progress
        self._planned = planned
        self._task = progress.add_task("Starting Kafka, PostgreSQL and Valkey", total=planned)
        self._began_s = time.monotonic()

    def __call__(self, nemesis: Nemesis, history: HistoryFile) -> None:
        done = nemesis.done.total()
        line = f"{done}/{self._planned} faults  {history.resolved:,} commands resolved"
        self._progress.update(self._task, completed=done, description=line)


def _short(path: Path) -> Path:
    return path.relative_to(PROJECT)


if __name__ == "__main__":
    app()
