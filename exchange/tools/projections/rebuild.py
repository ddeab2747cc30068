"""``exchange rebuild``: makes generations beside the live ones, and shows how far they are.

A rebuild is a row in the database, which the builder takes up. So this command asks for all that it
is to make, and then only watches: Ctrl-C ends the watching, and running it again shows the same
rebuilds.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg
import typer
from msgspec import Struct, structs, to_builtins
from rich.console import Console

from exchange.config import Settings
from exchange.log.reader import read_heads
from exchange.tools.projections.overview import BuildProgress, read_progress, read_size
from exchange.tools.projections.stores import Stores, answered, checked, operator, refusal
from exchange.tools.telling import Display, Far
from exchange.tools.terminal import ToolError, counted, sized
from projections.builder.estimate import STEPS, events_read, first_pace, read_pace
from projections.builder.steps import FALLING_BEHIND, READING, VERIFYING
from projections.lifecycle.changes import (
    By,
    Life,
    Refused,
    begin_rebuild,
    described_as_under_way,
    replaceable,
)
from projections.lifecycle.generations import (
    BUILDING,
    CATCHING_UP,
    FAILED,
    KEPT,
    PAUSED,
    Generation,
    generations_of,
)
from projections.stores.failures import is_store_failure

COUNTED: Final = {READING, VERIFYING, CATCHING_UP, FALLING_BEHIND}  # steps that go event by event
LOOK_S: Final = 1.0
UNTAKEN_S: Final = 10.0  # a builder looks four times a second
AWAY_S_MAX: Final = 120.0  # a PostgreSQL that was killed is back by then, unless it is never

READ_BUILDER_WORKS: Final = """
select exists (
    select from builds where told_at > clock_timestamp() - make_interval(secs => $1)
)
"""


class Outcome(Struct, frozen=True):
    """How a rebuild ended; it ``succeeded`` if it is live, or waits for a switch as was wanted."""

    projection: str
    generation: int
    succeeded: bool
    message: str


class Cost(Struct, frozen=True):
    """What reading the log for a model costs, ``measured`` at its last build or elsewhere.

    ``disk_bytes`` is what the store takes more; ``retires`` is the kept generation that goes.
    """

    projection: str
    events: int
    seconds: float
    measured: bool
    disk_bytes: int | None = None
    retires: int | None = None

    @property
    def message(self) -> str:
        """The cost in words."""
        how = "as the last time" if self.measured else "as measured on another machine"
        events = f"{self.projection}: {counted(self.events, 'event')} to read"
        parts = [events, f"about {self.seconds:,.0f} s ({how})"]
        if self.disk_bytes is not None:
            parts.append(f"{sized(self.disk_bytes)} more")
        told = ", ".join(parts) + "."
        if self.retires is None:
            return told
        return f"{told}\n  Generation {self.retires}, which is kept, is retired now."


class TotalCost(Struct, frozen=True):
    """What rebuilds of several models cost together; the builder takes one by one."""

    rebuilds: int
    events: int
    seconds: float
    disk_bytes: int

    @property
    def message(self) -> str:
        """The cost in words."""
        return (
            f"{self.rebuilds} rebuilds: {counted(self.events, 'event')} to read, about"
            f" {self.seconds:,.0f} s, {sized(self.disk_bytes)} more while the former ones are kept."
        )


@dataclass(slots=True)
class Rebuild:
    """A rebuild that is watched: since when, and when the database last told of it."""

    projection: str
    generation: int
    begun_s: float
    seen_s: float
    is_silence_told: bool = False


def rebuild_each(
    names: Sequence[str], expect_live: int | None, reason: str, *, stay: bool, as_json: bool
) -> None:
    """Ask for rebuilds of read models, and watch them; exit 1 unless all of them succeed."""
    wanted = [checked(name) for name in names]
    watch, keep_hours = Watch(as_json=as_json), Settings.load().keep_former_hours
    rebuilds = Rebuilds(expect_live, operator(reason), watch, stay=stay, keep_hours=keep_hours)
    try:
        all_succeeded = answered(lambda stores: rebuilds.run(stores, wanted))
    except KeyboardInterrupt:
        told = rebuilds.told_left() or "Stopped: make status shows what was begun."
        raise ToolError(told) from None
    except ToolError as error:
        raise ToolError(f"{error} {rebuilds.told_left()}".strip()) from error
    if not all_succeeded:
        raise typer.Exit(1)


class Rebuilds:
    """Rebuilds that are asked for together, and watched one after the other."""

    def __init__(
        self, expect_live: int | None, by: By, watch: "Watch", *, stay: bool, keep_hours: int
    ) -> None:
        self._expect_live = expect_live
        self._by = by
        self._watch = watch
        self._stay = stay
        self._under_way: list[Rebuild] = []
        self._keep_hours = keep_hours
        self._away_told_s = 0.0

    async def run(self, stores: Stores, names: Sequence[str]) -> bool:
        """Begin all, then watch each until it has ended; tell whether all of them succeeded."""
        if len(names) > 1:
            total = await total_cost(stores, names)
            self._watch.tell(total.message, total=to_builtins(total))
        outcomes: list[Outcome] = []
        for name in sorted(names):  # as the builder takes them
            await self._begin(stores, name)
        while self._under_way:
            outcomes.append(await self._followed(stores, self._under_way[0]))
            del self._under_way[0]
            self._watch.tell(outcomes[-1].message, **told_fields(outcomes[-1]))
        succeeded = sum(one.succeeded for one in outcomes)
        if len(names) > 1:
            told = f"{succeeded} of {len(names)} are live."
            self._watch.tell(told, live=succeeded, wanted=len(names))
        return succeeded == len(names)

    def told_left(self) -> str:
        """Return what to say of the rebuilds that this command does not watch any more."""
        names = ", ".join(one.projection for one in self._under_way)
        if not names:
            return ""
        return f"The rebuild of {names} goes on without you: see make status."

    async def _begin(self, stores: Stores, name: str) -> None:
        """Ask for a rebuild, unless one is under way; say so if it is refused."""
        try:
            number = await self._begun(stores, name)
        except Refused as refused:
            typer.echo(refusal(refused), err=True)
            return
        now_s = time.monotonic()
        self._under_way.append(Rebuild(name, number, now_s, now_s))

    async def _begun(self, stores: Stores, name: str) -> int:
        """Return the generation that is being made, now or already."""
        life = Life(name, await generations_of(stores.connection, name))
        under_way = life.unfinished
        if life.live is not None and under_way is not None and under_way.state != FAILED:
            self._watch.tell(described_as_under_way(under_way))
            return under_way.generation
        replaceable(life, self._expect_live)  # what is refused costs nothing
        expected = await cost(stores, name)
        self._watch.tell(expected.message, cost=to_builtins(expected))
        fingerprint = stores.definitions.of_projection(name)[0].fingerprint
        return await begin_rebuild(
            stores.connection,
            name,
            fingerprint,
            self._by,
            goes_live=not self._stay,
            expect_live=self._expect_live,
        )

    async def _followed(self, stores: Stores, one: Rebuild) -> Outcome:
        """Show a rebuild until it has ended, over an outage of PostgreSQL too."""
        one.seen_s = time.monotonic()
        with self._watch:
            while True:
                try:
                    return await self._ended(stores, one)
                except Exception as error:
                    is_away = isinstance(error, ToolError) or is_store_failure(error)
                    if not is_away or time.monotonic() - one.seen_s > AWAY_S_MAX:
                        raise
                self._tell_away(one)
                await asyncio.sleep(LOOK_S)

    async def _ended(self, stores: Stores, one: Rebuild) -> Outcome:
        """Show a rebuild until it has ended, as long as a connection lasts."""
        connection = await stores.another()
        try:
            while True:
                outcome = await self._looked(connection, one)
                if outcome is not None:
                    return outcome
                await asyncio.sleep(LOOK_S)
        finally:
            connection.terminate()

    async def _looked(self, connection: asyncpg.Connection, one: Rebuild) -> Outcome | None:
        """Show how far a rebuild is; return how it ended, None while it has not."""
        life = Life(one.projection, await generations_of(connection, one.projection))
        generation = life.get(one.generation)
        progress = await read_progress(connection, one.projection, one.generation)
        one.seen_s = time.monotonic()
        outcome = outcome_of(
            generation,
            progress,
            _age_s(generation),
            stay=self._stay,
            keep_hours=self._keep_hours,
        )
        if outcome is None:
            await self._tell_builder(connection, one, generation, progress)
            self._watch.show(generation, progress)
        return outcome

    async def _tell_builder(
        self,
        connection: asyncpg.Connection,
        one: Rebuild,
        generation: Generation,
        progress: BuildProgress | None,
    ) -> None:
        """Say once that no builder is at work on this or anything else, and that one is again."""
        silent_s = one.seen_s - one.begun_s if progress is None else progress.silent_s
        if silent_s <= UNTAKEN_S:
            if one.is_silence_told:
                one.is_silence_told = False
                self._watch.tell(f"{one.projection}: a builder is at work on it again.")
            return
        if one.is_silence_told or await connection.fetchval(READ_BUILDER_WORKS, UNTAKEN_S):
            return
        one.is_silence_told = True
        self._watch.tell(told_silence(generation, progress))

    def _tell_away(self, one: Rebuild) -> None:
        """Say once in an outage that there is one."""
        if self._away_told_s < one.seen_s:
            self._watch.tell("PostgreSQL is away; the rebuild goes on when it is back.")
        self._away_told_s = time.monotonic()


def told_fields(outcome: Outcome) -> dict[str, object]:
    """Return how a rebuild ended for a script, without the sentence."""
    fields: dict[str, object] = to_builtins(outcome)
    del fields["message"]
    return fields


async def cost(stores: Stores, name: str) -> Cost:
    """Return what a rebuild costs: events, time and space."""
    life = Life(name, await generations_of(stores.connection, name))
    expected = await cost_of_steps(stores, name)
    size = None if life.live is None else await read_size(stores, name, life.live.generation)
    retired = None if life.kept is None else life.kept.generation
    return structs.replace(expected, disk_bytes=size, retires=retired)


async def total_cost(stores: Stores, names: Sequence[str]) -> TotalCost:
    """Return what rebuilds of several models cost together."""
    costs = [await cost(stores, name) for name in names]
    return TotalCost(
        len(costs),
        sum(one.events for one in costs),
        sum(one.seconds for one in costs),
        sum(one.disk_bytes or 0 for one in costs),
    )


async def cost_of_steps(stores: Stores, name: str, steps: Sequence[str] = STEPS) -> Cost:
    """Return how many events are read, and how long the steps take at the last rate."""
    definition = stores.definitions.of_projection(name)[0]
    events = events_read(definition, await read_heads(stores.connection))
    # A model that hands on events takes as long whatever the log has, so that is no rate.
    is_folded = definition.fold is not None
    pace = await read_pace(stores.connection, name) if is_folded else first_pace(name)
    return Cost(name, events, pace.seconds_for(events, steps), pace.measured)


def outcome_of(
    generation: Generation,
    progress: BuildProgress | None,
    passed_s: float,
    *,
    stay: bool,
    keep_hours: int,
) -> Outcome | None:
    """Return how a rebuild ended, None while it has not."""
    name, number = generation.projection, generation.generation
    if generation.live:
        seconds = 0.0 if progress is None else sum(progress.seconds.values())
        message = (
            f"{name}: generation {number} is live ({seconds:.1f} s of work, {passed_s:.1f} s in"
            f" all).\n  Verified at {generation.verified}, digest {generation.digest}."
            f"\n  {_told_former(name, number, keep_hours)}"
        )
        return Outcome(name, number, succeeded=True, message=message)
    told = _told_end(generation, stay=stay)
    if told is None:
        return None
    waits = generation.state == CATCHING_UP
    message = f"{name}: generation {number} {told}"
    return Outcome(name, number, succeeded=stay and waits, message=message)


def _told_switch(generation: Generation) -> str:
    """Return what comes before the command that switches to a generation that waits."""
    if generation.is_verified:
        return "To let queries read it: "
    verify = f"exchange verify-projection {_named(generation)}"
    return f"To let queries read it, compare it first: {verify}\n  Then: "


def _named(generation: Generation) -> str:
    return f"{generation.projection} --generation {generation.generation}"


def _told_former(name: str, live: int, keep_hours: int) -> str:
    """Return what becomes of the generation that was live before."""
    if not keep_hours:
        return "The former one is not kept (KEEP_FORMER_HOURS is 0): there is no way back."
    how = f"make rollback PROJECTION={name} EXPECT_LIVE={live}"
    return f"The former one is kept for {keep_hours:,} h. To go back: {how}"


def _told_end(generation: Generation, *, stay: bool) -> str | None:
    """Return what became of a generation that is not live, None while it is being made."""
    state, which = generation.state, f"PROJECTION={generation.projection}"
    if state == BUILDING or (state == CATCHING_UP and generation.replaces is not None):
        return None
    if state == CATCHING_UP:
        told = f"is built, and kept up.\n  {_told_switch(generation)}make switch {which}"
        if stay:
            return told
        return (
            f"{told}\n  It was not asked to switch, or gave up: make operations {which}"
            f"\n  To give it up: exchange retire {_named(generation)}"
        )
    if state == FAILED:
        return (
            f"failed: {generation.failure}."
            "\n  The live one serves on. Once the cause is mended: exchange retry"
            f" {_named(generation)}"
        )
    if state == KEPT:
        return f"was live, and is kept. To see who switched again: make operations {which}"
    if state == PAUSED:
        return f"is paused. To go on: make resume {which}"
    return f"is {state}. To see why: make operations {which}"


def told_silence(generation: Generation, progress: BuildProgress | None) -> str:
    """Return what to say of a rebuild that no builder works on."""
    if progress is None:
        return (
            f"No builder of this definition ({generation.fingerprint}) has taken it up yet:"
            " is `exchange builder` of this version running?"
        )
    return (
        f"{generation.projection}: its builder is gone, nothing was heard of it for"
        f" {progress.silent_s:.0f} s. The next one goes on with it: is `exchange builder` running?"
    )


class Watch:
    """Shows a build: a line that is kept up to date on a terminal, else one each few seconds."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._display = Display(Console(highlight=False, quiet=True) if as_json else self._console)

    def __enter__(self) -> "Watch":
        self._display.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.__exit__()

    def tell(self, text: str, **fields: object) -> None:
        """Tell what happened; a script gets its fields beside the sentence."""
        if self._as_json:
            typer.echo(json.dumps({"message": text, **fields}))
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
        self._display.show(far_of(generation, progress))


def far_of(generation: Generation, progress: BuildProgress | None) -> Far:
    """Return how far a build is; where events are not what is counted, only the step."""
    start = f"{generation.projection} generation {generation.generation}"
    if progress is None:
        return Far(f"{start}: waits for a builder")
    what = f"{start}: {progress.doing}"
    if progress.is_comparing or progress.step not in COUNTED:
        return Far(what)
    return Far(what, progress.done, progress.wanted, progress.rate, progress.left_s)


def _age_s(generation: Generation) -> float:
    """Return how long ago a rebuild was asked for."""
    if generation.created_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - generation.created_at).total_seconds())
