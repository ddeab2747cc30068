"""``exchange verify-projection`` and ``exchange dry-run``: a read model against the log."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import typer
from msgspec import to_builtins
from rich.console import Console
from rich.markup import escape

from exchange.tools.projections.overview import read_size
from exchange.tools.projections.rebuild import cost_of_steps
from exchange.tools.projections.stores import REASON_MAX, Stores, answered, checked, operator
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import ToolError, counted, printable, sized
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import Comparison, Difference
from projections.builder.comparing.shadow import Progress
from projections.builder.steps import VERIFYING
from projections.lifecycle.changes import Life, mark_different, mark_verified
from projections.lifecycle.generations import generations_of
from projections.lifecycle.skips import read_skipped
from projections.registry import Projection

SHOWN_MAX: Final = 5
WOULD_CHANGE: Final = "would change"
REPEAT_S: Final = 1.0  # a table may be compared for minutes


def verify(projection: str, generation: int | None, *, as_json: bool) -> None:
    """Compare a generation, by default the live one, with the log; exit 1 if a row differs."""

    async def work(stores: Stores) -> Comparison:
        found = await _compare(stores, projection, generation)
        place = (stores.connection, found.projection, found.generation)
        if found.different:
            await mark_different(*place, operator(evidence(found)))
        else:
            await mark_verified(*place, found.at, found.digest)
        return found

    found = answered(work)
    _tell(found, "differ from the log", as_json=as_json)
    if found.different:
        if not as_json:
            typer.echo(told_next(found))
        raise typer.Exit(1)


def evidence(found: Comparison) -> str:
    """Return what differs in a line that is kept for ever."""
    first = "".join(described(one) for one in found.examples[:1])
    told = f"{found.different:,} of {counted(found.rows, 'row')} at {found.at}; {first}"
    return printable(told)[:REASON_MAX]


def told_next(found: Comparison) -> str:
    """Return what to do about rows that differ."""
    return (
        "  Keep this and ask why before a rebuild takes the evidence away. Then:"
        f" make rebuild PROJECTION={found.projection}"
    )


def try_dry(projection: str, *, as_json: bool) -> None:
    """Compare the live generation with the fold of this build's present definition."""
    found = answered(lambda stores: _compare(stores, projection, None, with_present=True))
    _tell(found, WOULD_CHANGE, as_json=as_json)


def _tell(found: Comparison, differ: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(to_builtins(found, str_keys=True), default=str))
    else:
        show(Console(highlight=False), found, differ)


async def _compare(
    stores: Stores,
    projection: str,
    number: int | None,
    *,
    with_present: bool = False,
) -> Comparison:
    life = Life(checked(projection), await generations_of(stores.connection, projection))
    target = life.live if number is None else life.get(number)
    if target is None:
        raise ToolError(f"{projection} has no live generation yet.")
    if not target.is_built:
        raise ToolError(
            f"Generation {target.generation} of {projection} is {target.state}: it has no complete"
            " rows to compare."
        )
    made_by = stores.definitions.of(target)
    present = stores.definitions.of_projection(projection)[0]
    if made_by is None:
        raise ToolError(
            f"Generation {target.generation} of {projection} was built by a definition that this"
            f" build does not have ({target.fingerprint})."
        )
    definition = present if with_present else made_by
    console = Console(stderr=True, highlight=False)
    cost = await _cost(stores, target.generation, made_by)
    console.print(cost, markup=False, soft_wrap=True)
    skips = await read_skipped(stores.connection, projection, definition.fingerprint)
    session = await stores.another()
    try:
        async with _telling(console, projection) as tell:
            return await compare(
                stores.connection,
                session,
                stores.redis,
                definition,
                target.generation,
                made_by=made_by,
                skips=skips,
                on_progress=tell,
            )
    finally:
        session.terminate()


async def _cost(stores: Stores, generation: int, made_by: Projection) -> str:
    """Return what a comparison costs: events, time, and space for the shadow of the tables."""
    told = (await cost_of_steps(stores, made_by.name, [VERIFYING])).message
    if not made_by.tables:
        return f"{told}\n  It takes no disk."
    size = await read_size(stores, made_by.name, generation)
    return f"{told}\n  It takes up to {sized(size or 0)} of PostgreSQL's disk while it runs."


@asynccontextmanager
async def _telling(console: Console, projection: str) -> AsyncIterator[Progress]:
    """Lend a function that shows progress, which is shown again while nothing is heard of it."""
    last: list[tuple[str, int, int]] = []
    with telling(console, EVENTS) as tell:

        def note(what: str, done: int, of: int) -> None:
            last[:] = [(f"{projection}: {what}", done, of)]
            tell(*last[0])

        async def repeat() -> None:
            while True:
                await asyncio.sleep(REPEAT_S)
                if last:
                    tell(*last[0])

        repeating = asyncio.create_task(repeat())
        try:
            yield note
        finally:
            repeating.cancel()


def show(console: Console, found: Comparison, differ: str) -> None:
    """Print what a comparison found."""
    for shard, position in found.passed_over:
        console.print(f"Event {shard}:{position} is passed over.")
    if found.columns:
        console.print(f"Only one of the two has: {', '.join(found.columns)}.", soft_wrap=True)
    which = f"{found.projection} generation {found.generation}"
    start = f"{which} at {found.at}: {counted(found.rows, 'row')}"
    if not found.different:
        console.print(f"{start}, none {differ}.\n  Digest {found.digest}.", soft_wrap=True)
        return
    console.print(f"[red]{start}, {found.different:,} {differ}[/red]", soft_wrap=True)
    for one in found.examples[:SHOWN_MAX]:
        line = described(one, would_change=differ == WOULD_CHANGE)
        console.print(escape(line), soft_wrap=True)
    if found.different > SHOWN_MAX:
        console.print(f"... and {found.different - SHOWN_MAX:,} more")


def described(one: Difference, *, would_change: bool = False) -> str:
    """Tell a difference in a line: the row, what is stored, what the log gives, the last event."""
    key = ", ".join(f"{name} {value}" for name, value in one.key.items())
    start = f"{one.table}, {key}: "
    if one.stored is None:
        told = "would be added" if would_change else "the row is missing"
    elif one.folded is None:
        told = "would be deleted" if would_change else "no event makes this row"
    else:
        told = "; ".join(_changed(one.stored, one.folded))
    if one.last_event is not None:
        shard, position, kind = one.last_event
        told += f"; last event {shard}:{position} {kind}"
    return start + told


def _changed(stored: dict[str, object], folded: dict[str, object]) -> Sequence[str]:
    return [
        f"{name} is {stored[name]}, not {folded[name]}"
        for name in stored
        if stored[name] != folded[name]
    ]
