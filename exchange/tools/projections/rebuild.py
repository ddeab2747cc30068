"""``exchange rebuild``: makes a generation beside the live one, and shows how far it is.

A rebuild is a row in the database, which the builder takes up. So this command only asks for it and
watches: Ctrl-C ends the watching, and running it again shows the same rebuild.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Final

import typer
from msgspec import Struct, to_builtins
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from exchange.log.reader import read_heads
from exchange.tools.projections.overview import (
    BuildProgress,
    read_progress,
    read_size,
    sized,
)
from exchange.tools.projections.stores import Stores, answered, checked, operator
from exchange.tools.terminal import ToolError
from projections.builder.estimate import STEPS, read_pace
from projections.lifecycle.changes import Life, begin_rebuild, described_as_under_way
from projections.lifecycle.generations import FAILED, Generation, generations_of

LOOK_S: Final = 1.0
UNTAKEN_S: Final = 10.0  # the builder looks twice a second


class Outcome(Struct, frozen=True):
    """How a rebuild ended."""

    projection: str
    generation: int
    went_live: bool
    message: str


def rebuild_each(
    names: Sequence[str], expect_live: int | None, *, stay: bool, as_json: bool
) -> None:
    """Rebuild read models one after the other; exit 1 if one did not go live, unless it stays."""
    outcomes = _rebuilt([checked(name) for name in names], expect_live, stay=stay, as_json=as_json)
    if not (stay or all(outcome.went_live for outcome in outcomes)):
        raise typer.Exit(1)


def _rebuilt(
    names: list[str], expect_live: int | None, *, stay: bool, as_json: bool
) -> list[Outcome]:
    watch = Watch(as_json=as_json)
    outcomes = []
    for name in names:

        async def work(stores: Stores, name: str = name) -> Outcome:
            generation = await _begun(stores, name, expect_live, watch, stay=stay)
            return await _followed(stores, name, generation, watch, stay=stay)

        try:
            outcomes.append(answered(work))
        except KeyboardInterrupt:
            raise ToolError(
                f"The rebuild of {name} goes on without you: see make status."
            ) from None
        watch.tell(outcomes[-1].message)
    return outcomes


async def _begun(
    stores: Stores, name: str, expect_live: int | None, watch: "Watch", *, stay: bool
) -> int:
    """Ask for a rebuild, unless one is under way; return its generation."""
    life = Life(name, await generations_of(stores.connection, name))
    under_way = life.unfinished
    if life.live is not None and under_way is not None and under_way.state != FAILED:
        watch.tell(described_as_under_way(under_way))
        return under_way.generation
    watch.tell(await cost(stores, name))
    fingerprint = stores.definitions.of_projection(name)[0].fingerprint
    return await begin_rebuild(
        stores.connection,
        name,
        fingerprint,
        operator(),
        goes_live=not stay,
        expect_live=expect_live,
    )


async def cost(stores: Stores, name: str) -> str:
    """Return what a rebuild costs: events, time and space."""
    life = Life(name, await generations_of(stores.connection, name))
    parts = [await told_time(stores, name)]
    if life.live is not None:
        size = await read_size(stores, name, life.live.generation)
        if size is not None:
            parts.append(f"{sized(size)} more while generation {life.live.generation} is kept")
    if life.kept is not None:
        parts.append(f"generation {life.kept.generation}, which is kept, is retired now")
    return "; ".join(parts) + "."


async def told_time(stores: Stores, name: str, steps: Sequence[str] = STEPS) -> str:
    """Return how many events are read, and how long the steps take at the last rate."""
    events = sum((await read_heads(stores.connection)).values())
    pace = await read_pace(stores.connection, name)
    how = "as long as the last time" if pace.measured else "by what was measured elsewhere"
    seconds = pace.seconds_for(events, steps)
    return f"{name}: {events:,} events to read, about {seconds:.0f} s ({how})"


async def _followed(
    stores: Stores, name: str, number: int, watch: "Watch", *, stay: bool
) -> Outcome:
    """Show a rebuild until it has ended."""
    begun_s = time.monotonic()
    told_untaken = False
    with watch:
        while True:
            found = await generations_of(stores.connection, name)
            generation = next(g for g in found if g.generation == number)
            progress = await read_progress(stores.connection, name, number)
            outcome = _outcome(generation, progress, time.monotonic() - begun_s, stay=stay)
            if outcome is not None:
                return outcome
            if progress is None and time.monotonic() - begun_s > UNTAKEN_S and not told_untaken:
                told_untaken = True
                watch.tell(
                    f"No builder of this definition ({generation.fingerprint}) has taken it up yet:"
                    " is `exchange builder` of this version running?"
                )
            watch.show(generation, progress)
            await asyncio.sleep(LOOK_S)


def _outcome(
    generation: Generation, progress: BuildProgress | None, passed_s: float, *, stay: bool
) -> Outcome | None:
    """Return how a rebuild ended, None while it has not."""
    name, number = generation.projection, generation.generation
    seconds = 0.0 if progress is None else sum(progress.seconds.values())
    took = f"{max(seconds, 0.0):.1f} s of work, {passed_s:.1f} s in all"
    if generation.live:
        message = (
            f"{name}: generation {number} is live ({took}); verified at {generation.verified},"
            f" digest {generation.digest}. The former one is kept: make rollback PROJECTION={name}"
            " goes back to it."
        )
        return Outcome(name, number, went_live=True, message=message)
    told: str | None = None
    if generation.state == "failed":
        told = f"failed: {generation.failure}. The live one serves on; make retry tries it again"
    elif generation.state in ("paused", "retired"):
        told = f"is {generation.state}"
    elif generation.state == "catching-up" and generation.replaces is None:
        told = (
            "is built, and kept up; make switch lets queries read it"
            if stay
            else "is built, and was not switched: see make operations"
        )
    if told is None:
        return None
    return Outcome(name, number, went_live=False, message=f"{name}: generation {number} {told}.")


class Watch:
    """Shows a build: a bar on a terminal, else a line a second, or JSON a line."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._bar: Progress | None = None
        self._last = ""

    def __enter__(self) -> "Watch":
        if self._console.is_terminal and not self._as_json:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24))
            self._bar = Progress(
                *columns, TaskProgressColumn(), console=self._console, transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task("waiting for the builder", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def tell(self, text: str) -> None:
        """Tell what happened."""
        if self._as_json:
            typer.echo(json.dumps({"message": text}))
        else:
            self._console.print(text, soft_wrap=True, markup=False)

    def show(self, generation: Generation, progress: BuildProgress | None) -> None:
        """Show how far a build is."""
        if self._as_json:
            view = {
                "projection": generation.projection,
                "generation": generation.generation,
                "state": generation.state,
                "build": to_builtins(progress),
            }
            typer.echo(json.dumps(view))
            return
        line = described(generation, progress)
        if self._bar is not None:
            total = None if progress is None else progress.wanted
            done = 0 if progress is None else progress.done
            self._bar.update(self._task, description=line, total=total, completed=done)
        elif line != self._last:
            self._last = line
            self._console.print(line, soft_wrap=True, markup=False)


def described(generation: Generation, progress: BuildProgress | None) -> str:
    """Return a line on how far a build is."""
    start = f"{generation.projection} generation {generation.generation}"
    if progress is None:
        return f"{start}: waits for a builder"
    share = progress.done / progress.wanted if progress.wanted else 1.0
    parts = [f"{start}: {progress.step}", f"{progress.done:,} of {progress.wanted:,} events"]
    parts.append(f"{min(1.0, share):.0%}")
    if progress.rate is not None:
        parts.append(f"{progress.rate:,.0f}/s")
    if progress.left_s is not None:
        parts.append(f"{progress.left_s:.0f} s left")
    return "  ".join(parts)
