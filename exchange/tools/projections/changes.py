"""Changes of one state of a generation, as operators order them."""

import json
from collections.abc import Awaitable, Callable
from typing import Final

import typer
from msgspec import Struct, to_builtins

from exchange.tools.projections.stores import Stores, answered, checked, operator
from exchange.tools.terminal import ToolError
from projections.lifecycle import changes, switching
from projections.lifecycle.changes import By, Life, begin_rebuild
from projections.lifecycle.generations import CATCHING_UP, Generation, generations_of
from projections.lifecycle.skips import skip_event
from projections.stores.fingerprints import is_made_by

# What readers have of a live generation that is not kept up.
AS_OF_NOW: Final = "Queries read it as of now."
TOO_OLD: Final = "When it is 3 s old, queries of it are answered 503."
FROM_THE_LOG: Final = "The stream reads the log instead."
STANDS: Final = {"book": TOO_OLD, "ticker": TOO_OLD, "feed": FROM_THE_LOG}

# It may stop at the same event again, or at the next one.
HOW_IT_GOES: Final = "To see how far it comes: make status"


class Changed(Struct, frozen=True):
    """What was changed: in which model, which generations, and in words.

    ``then`` is what to type next on a command line.
    """

    projection: str
    generations: list[int]
    message: str
    then: str = ""


Change = Callable[[Stores, By], Awaitable[Changed]]
"""Makes a change and returns what to say of it."""


def make(change: Change, reason: str, *, as_json: bool) -> None:
    """Make a change and say so."""
    told = answered(lambda stores: change(stores, operator(reason)))
    words = f"{told.message} {told.then}".rstrip()
    typer.echo(json.dumps(to_builtins(told)) if as_json else words)


def rebuild(projection: str, expect_live: int | None, *, stay: bool) -> Change:
    """Return the begin of a rebuild, which the builder takes up; nobody waits for its end."""

    async def change(stores: Stores, by: By) -> Changed:
        fingerprint = stores.definitions.of_projection(checked(projection))[0].fingerprint
        number = await begin_rebuild(
            stores.connection,
            projection,
            fingerprint,
            by,
            goes_live=not stay,
            expect_live=expect_live,
        )
        told = f"Generation {number} of {projection} is being built."
        return Changed(projection, [number], told, HOW_IT_GOES)

    return change


def switch(
    projection: str, generation: int | None, expect_live: int | None, *, unverified: bool
) -> Change:
    """Return the switch to a generation, by default to the one that is built and waits."""

    async def change(stores: Stores, by: By) -> Changed:
        life = await _life(stores, projection)
        waiting = [g.generation for g in life.generations if g.state == CATCHING_UP and not g.live]
        number = generation or next(iter(waiting), None)
        if number is None:
            raise ToolError(
                f"Refused: no generation of {projection} is built and waits."
                f" To build one: make rebuild PROJECTION={projection}"
            )
        await switching.switch(
            stores.connection,
            stores.definitions.of_projection(projection),
            projection,
            number,
            by,
            expect_live=expect_live,
            unverified=unverified,
        )
        told, then = f"Generation {number} of {projection} is live.", ""
        if (await _life(stores, projection)).kept is not None:
            then = f"To go back: make rollback PROJECTION={projection} EXPECT_LIVE={number}"
        return Changed(projection, [number], told, then)

    return change


def rollback(projection: str, expect_live: int | None) -> Change:
    """Return the switch back to the former generation, for who says which one is live.

    Typed twice it goes forward again: so without, it only tells what it would do.
    """

    async def change(stores: Stores, by: By) -> Changed:
        life = await _life(stores, projection)
        if expect_live is None and life.live is not None and life.kept is not None:
            raise ToolError(
                f"Refused, nothing was changed: {projection} has generation {life.live.generation}"
                f" live, and {life.kept.generation} would be. {_if_meant('rollback', life.live)}"
            )
        number = await switching.rollback(
            stores.connection,
            stores.definitions.of_projection(projection),
            projection,
            by,
            expect_live=expect_live,
        )
        return Changed(
            projection,
            [number],
            f"Generation {number} of {projection} is live again, instead of {expect_live}.",
            f"To go forward again: make rollback PROJECTION={projection} EXPECT_LIVE={number}",
        )

    return change


def pause(projection: str, generation: int | None, expect_live: int | None) -> Change:
    """Return the pause of a generation, by default of the live one."""

    async def change(stores: Stores, by: By) -> Changed:
        place = (stores.connection, checked(projection), generation)
        number = await changes.pause(*place, by, expect_live=expect_live)
        told = f"Generation {number} of {projection} is paused."
        if (await _life(stores, projection)).get(number).live:
            told += f" {STANDS.get(projection, AS_OF_NOW)}"
        then = f"To go on: make resume PROJECTION={projection}"
        return Changed(projection, [number], told, then)

    return change


def resume(projection: str, generation: int | None, expect_live: int | None) -> Change:
    """Return the end of a pause."""

    async def change(stores: Stores, by: By) -> Changed:
        place = (stores.connection, checked(projection), generation)
        number = await changes.resume(*place, by, expect_live=expect_live)
        return Changed(projection, [number], f"Generation {number} of {projection} goes on.")

    return change


def retry(projection: str, generation: int | None, expect_live: int | None) -> Change:
    """Return another try of a failed generation."""

    async def change(stores: Stores, by: By) -> Changed:
        place = (stores.connection, checked(projection), generation)
        number = await changes.retry(*place, by, expect_live=expect_live)
        told = f"Generation {number} of {projection} is tried again."
        return Changed(projection, [number], told, HOW_IT_GOES)

    return change


def skip(projection: str, at: tuple[int, int], expect_live: int | None) -> Change:
    """Return the skip of the event at a shard and position, and another try without it."""

    async def change(stores: Stores, by: By) -> Changed:
        definitions = stores.definitions.of_projection(checked(projection))
        # What is older than fingerprints is of the first version, if this build has that.
        of_first = [one for one in definitions if is_made_by(None, one.fingerprint)]
        place = (projection, (of_first or definitions)[0].fingerprint)
        gone_on = await skip_event(stores.connection, *place, at, by, expect_live=expect_live)
        numbers = ", ".join(map(str, gone_on))
        told = f"generation {numbers} goes" if len(gone_on) == 1 else f"generations {numbers} go"
        message = f"{projection} passes over event {at[0]}:{at[1]}; {told} on."
        return Changed(projection, gone_on, message, HOW_IT_GOES)

    return change


def retire(projection: str, generation: int | None, expect_live: int | None) -> Change:
    """Return the end of a generation; without its number of the former one.

    Which one that is depends on which is live: who says neither is told what would be given up.
    """

    async def change(stores: Stores, by: By) -> Changed:
        life = await _life(stores, projection)
        if generation is None and expect_live is None and life.live and life.kept:
            raise ToolError(
                f"Refused, nothing was changed: generation {life.kept.generation} of {projection}"
                " would be retired, and there is no way back to it;"
                f" {life.live.generation} is live. {_if_meant('retire', life.live)}"
            )
        place = (stores.connection, projection, generation)
        number = await changes.retire(*place, by, expect_live=expect_live)
        return Changed(
            projection,
            [number],
            f"Generation {number} of {projection} is retired; its rows are deleted soon.",
        )

    return change


async def _life(stores: Stores, projection: str) -> Life:
    return Life(checked(projection), await generations_of(stores.connection, projection))


def _if_meant(target: str, live: Generation) -> str:
    """Return how to give a command that says which generation its operator saw live."""
    return (
        "If that is what you want:"
        f" make {target} PROJECTION={live.projection} EXPECT_LIVE={live.generation}"
    )
