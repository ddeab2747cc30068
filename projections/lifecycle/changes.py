"""Every change of a generation's life, as one durable transaction and a row in ``operations``.

Each change holds the projection's advisory lock, so that two operators, or two projectors that
start at once, cannot both change it. A change names the live generation that its operator saw
(``expect_live``); if another is live by then, it is refused.

What queries read is changed in ``switching``.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from msgspec import Struct

from projections.lifecycle.definitions import Definition, fits
from projections.lifecycle.generations import (
    BUILDING,
    CATCHING_UP,
    FAILED,
    KEPT,
    LIVE,
    PAUSED,
    RETIRED,
    Generation,
    generations_of,
)
from projections.lifecycle.operations import DIFFERS, PAUSE
from projections.stores.partitions import create_partitions

LOCK_CLASS: Final = 0x50524F4A  # "PROJ"; keeps these advisory locks apart from others
LOCK_PROJECTION = "select pg_advisory_xact_lock($1, hashtext($2))"

# Projectors do not wait for the disk otherwise. Another change takes a second at most.
BE_DURABLE = "set local synchronous_commit = on; set local lock_timeout = '10s'"

CREATE_GENERATION = """
insert into generations (projection, generation, state, fingerprint, begun_by, replaces, built_at)
values ($1, $2, $3, $4, $5, $6, case when $3 = 'building' then null else now() end)
"""

SET_STATE = """
update generations set state = $3, failure = null, failed_shard = null, failed_position = null
where projection = $1 and generation = $2
"""

MARK_RETIRED = """
update generations set state = 'retired', retired_at = now()
where projection = $1 and generation = $2
"""

MARK_FAILED = """
update generations set state = 'failed', failure = $3, failed_shard = $4, failed_position = $5
where projection = $1 and generation = $2 and state in ('building', 'catching-up', 'live', 'kept')
"""

# A generation that is older than fingerprints is of the first version.
IS_SKIPPED = """
select exists(
    select from skips
    join generations using (projection)
    where projection = $1 and generation = $2 and shard = $3 and position = $4 and (
        skips.fingerprint = generations.fingerprint
        or generations.fingerprint is null and starts_with(skips.fingerprint, '1-')
    )
)
"""

MARK_VERIFIED = """
update generations set verified = $3, digest = $4
where projection = $1 and generation = $2 and built_at is not null and state <> 'retired'
"""

MARK_DIFFERENT = """
update generations set verified = null, digest = null where projection = $1 and generation = $2
"""

MARK_BUILT = """
update generations set state = 'catching-up', built_at = now(), verified = null, digest = null
where projection = $1 and generation = $2 and state = 'building'
"""

NOTE_OPERATION = """
insert into operations
    (operator, action, projection, from_generation, to_generation, digest, reason)
values ($1, $2, $3, $4, $5, $6, $7)
"""


class Refused(Exception):
    """The change does not fit what is there; nothing changed. The message says what is there."""


class By(Struct, frozen=True):
    """Who wants a change, and why."""

    operator: str
    reason: str | None = None


class Life(Struct, frozen=True):
    """The generations of a projection while its lock is held."""

    projection: str
    generations: list[Generation]

    @property
    def live(self) -> Generation | None:
        return next((g for g in self.generations if g.live), None)

    @property
    def kept(self) -> Generation | None:
        """The former generation, to which one can switch back."""
        former = [g for g in self.generations if g.kept_at and not g.live and g.state != RETIRED]
        return former[-1] if former else None

    @property
    def unfinished(self) -> Generation | None:
        """The generation that is being made."""
        return next((g for g in reversed(self.generations) if g.is_unfinished), None)

    def get(self, number: int) -> Generation:
        """Return a generation by its number.

        Raises:
            Refused: There is none.
        """
        for generation in self.generations:
            if generation.generation == number:
                return generation
        numbers = ", ".join(str(g.generation) for g in self.generations) or "none"
        raise Refused(f"{self.projection} has no generation {number}; it has: {numbers}.")

    @property
    def next_number(self) -> int:
        """The number of the generation that is made next."""
        return 1 + max((g.generation for g in self.generations), default=0)

    def expect(self, number: int | None) -> None:
        """Refuse to go on unless the operator saw which generation is live now.

        Raises:
            Refused: Another one is live.
        """
        now = None if self.live is None else self.live.generation
        if number is not None and number != now:
            raise Refused(
                f"Generation {now} of {self.projection} is live, not {number} as was expected:"
                " look at the status again."
            )


@asynccontextmanager
async def changing(connection: asyncpg.Connection, projection: str) -> AsyncIterator[Life]:
    """Begin a durable transaction that alone may change the generations of a projection."""
    async with connection.transaction():
        await connection.execute(BE_DURABLE)
        await connection.execute(LOCK_PROJECTION, LOCK_CLASS, projection)
        yield Life(projection, await generations_of(connection, projection))


async def ensure_generation(
    connection: asyncpg.Connection, projection: str, fingerprint: str, tables: Sequence[str]
) -> None:
    """Make the first generation of a projection, unless it has one; followers fill it.

    One that was retired before it was live is followed by another.
    """
    async with changing(connection, projection) as life:
        if all(generation.state == RETIRED for generation in life.generations):
            number = life.next_number
            await create_partitions(connection, tables, number)
            row = (projection, number, CATCHING_UP, fingerprint, "projector", None)
            await connection.execute(CREATE_GENERATION, *row)
            by = By("projector", "there was none")
            await note_operation(connection, by, "begin", projection, None, number)


async def begin_rebuild(
    connection: asyncpg.Connection,
    projection: str,
    fingerprint: str,
    by: By,
    *,
    goes_live: bool = True,
    expect_live: int | None = None,
) -> int:
    """Make a new generation for the builder to take up, and return its number.

    The former generation is retired, so that there are never more than two with rows. A generation
    that failed before it was live is retired too.

    Raises:
        Refused: Another one is being made, nothing is live yet, or ``expect_live`` is not live.
    """
    async with changing(connection, projection) as life:
        live = replaceable(life, expect_live)
        under_way = life.unfinished
        if under_way is not None and under_way.state != FAILED:
            raise Refused(described_as_under_way(under_way))
        for former in (under_way, life.kept):
            if former is not None:
                because = by.reason or "a rebuild began"
                await _retire(connection, former, By(by.operator, because))
        number = life.next_number
        replaces = live.generation if goes_live else None
        row = (projection, number, BUILDING, fingerprint, by.operator, replaces)
        await connection.execute(CREATE_GENERATION, *row)
        await note_operation(connection, by, "rebuild", projection, live.generation, number)
        return number


def replaceable(life: Life, expect_live: int | None) -> Generation:
    """Return the live generation, beside which another one may be built.

    Raises:
        Refused: Nothing is live yet, or ``expect_live`` is not live.
    """
    life.expect(expect_live)
    if life.live is None:
        raise Refused(_is_first(life))
    return life.live


async def mark_built(connection: asyncpg.Connection, projection: str, generation: int) -> bool:
    """Hand a generation over to the followers, in the transaction that attached its rows.

    Returns:
        Whether it was still to be built.
    """
    if await connection.execute(MARK_BUILT, projection, generation) != "UPDATE 1":
        return False
    await note_operation(connection, By("builder"), "built", projection, generation, generation)
    return True


async def mark_verified(
    connection: asyncpg.Connection, projection: str, generation: int, verified: str, digest: str
) -> None:
    """Note up to where a generation's rows equal the fold of the log, and their digest."""
    await connection.execute(MARK_VERIFIED, projection, generation, verified, digest)


async def mark_different(
    connection: asyncpg.Connection, projection: str, generation: int, by: By
) -> None:
    """Note that a generation has rows that the log does not give: no earlier comparison counts.

    ``by`` is who compared it, and the reason is what was found, which a rebuild takes away.
    """
    async with changing(connection, projection):
        await connection.execute(MARK_DIFFERENT, projection, generation)
        await note_operation(connection, by, DIFFERS, projection, generation, generation)


async def mark_failed(
    connection: asyncpg.Connection,
    projection: str,
    generation: int,
    failure: str,
    at: tuple[int, int] | None = None,
    *,
    found_by: str,
) -> bool:
    """Record why a generation stopped, and at which event (``at``: its shard and position).

    ``found_by`` is the process that could not go on. If the generation is live, queries still read
    what it has.

    Returns:
        Whether it has to stop. It has not if its definition passes over the event by now: whoever
        reads the skips again can go on.
    """
    async with changing(connection, projection):
        if at is not None and await connection.fetchval(IS_SKIPPED, projection, generation, *at):
            return False
        shard, position = at or (None, None)
        row = (projection, generation, failure, shard, position)
        if await connection.execute(MARK_FAILED, *row) == "UPDATE 1":
            by = By(found_by, failure)
            await note_operation(connection, by, "failed", projection, generation, generation)
        return True


async def pause(
    connection: asyncpg.Connection,
    projection: str,
    generation: int | None,
    by: By,
    *,
    expect_live: int | None = None,
) -> int:
    """Stop keeping up a generation, by default the live one; return its number.

    Raises:
        Refused: It cannot be paused as it is, or ``expect_live`` is not live.
    """
    async with changing(connection, projection) as life:
        life.expect(expect_live)
        target = _chosen(life, generation)
        if target.state not in (BUILDING, CATCHING_UP, KEPT, LIVE):
            raise Refused(is_state(target))
        await connection.execute(SET_STATE, projection, target.generation, PAUSED)
        number = target.generation
        await note_operation(connection, by, PAUSE, projection, number, number)
        return number


async def resume(
    connection: asyncpg.Connection,
    projection: str,
    generation: int | None,
    by: By,
    *,
    expect_live: int | None = None,
) -> int:
    """Go on with a paused generation, by default the live one if it is; return its number.

    Raises:
        Refused: It is not paused, or ``expect_live`` is not live.
    """
    async with changing(connection, projection) as life:
        life.expect(expect_live)
        return await _go_on(connection, life, generation, by, PAUSED, "resume")


async def retry(
    connection: asyncpg.Connection,
    projection: str,
    generation: int | None,
    by: By,
    *,
    expect_live: int | None = None,
) -> int:
    """Try a failed generation again from where it stopped; return its number.

    By default it is the live one, if that has failed.

    Raises:
        Refused: It has not failed, or ``expect_live`` is not live.
    """
    async with changing(connection, projection) as life:
        life.expect(expect_live)
        return await _go_on(connection, life, generation, by, FAILED, "retry")


async def retry_all(connection: asyncpg.Connection, definitions: Sequence[Definition]) -> None:
    """Try the failed generations of these definitions again: this build may be able to go on."""
    by = By("projector", "it has started")
    for projection in sorted({definition.name for definition in definitions}):
        async with changing(connection, projection) as life:
            for one in life.generations:
                if one.state == FAILED and one.failed_position and fits(one, definitions):
                    await restore(connection, one, by, "retry")


async def clear_failure(connection: asyncpg.Connection, generation: Generation) -> None:
    """Take a failure back: another projector has passed the event."""
    async with changing(connection, generation.projection) as life:
        stopped = life.get(generation.generation)
        if stopped.state == FAILED:
            by = By("projector", "another one has passed the event")
            await restore(connection, stopped, by, "retry")


async def retire(
    connection: asyncpg.Connection,
    projection: str,
    generation: int | None,
    by: By,
    *,
    expect_live: int | None = None,
) -> int:
    """Give up a generation, by default the former one; its rows are deleted soon after.

    Raises:
        Refused: It is live, or there is none, or ``expect_live`` is not live.
    """
    async with changing(connection, projection) as life:
        life.expect(expect_live)
        target = life.kept if generation is None else life.get(generation)
        if target is None:
            raise Refused(f"No former generation of {projection} is kept.")
        if target.live:
            raise Refused(
                f"Generation {target.generation} of {projection} is live, so it cannot be retired:"
                " switch to another one first."
            )
        if target.state == RETIRED:
            raise Refused(is_state(target))
        await _retire(connection, target, by)
        return target.generation


async def note_operation(
    connection: asyncpg.Connection,
    by: By,
    action: str,
    projection: str,
    before: int | None,
    after: int | None,
    digest: str | None = None,
) -> None:
    """Add a change from one generation to another to ``operations``, in the open transaction."""
    row = (by.operator, action, projection, before, after, digest, by.reason)
    await connection.execute(NOTE_OPERATION, *row)


def described_as_under_way(generation: Generation) -> str:
    """Return a sentence on who makes a generation, since when."""
    since = f"{generation.created_at:%Y-%m-%d %H:%M:%S}Z"
    return (
        f"Generation {generation.generation} of {generation.projection} is {generation.state}:"
        f" {generation.begun_by} began it at {since}."
    )


async def _go_on(
    connection: asyncpg.Connection,
    life: Life,
    generation: int | None,
    by: By,
    state: str,
    action: str,
) -> int:
    stopped = [g for g in life.generations if g.state == state]
    if generation is not None:
        target = life.get(generation)
    elif stopped:
        # Readers have the live one, so it comes first.
        target = next((g for g in stopped if g.live), stopped[-1])
    else:
        raise Refused(f"No generation of {life.projection} is {state}.")
    if target.state != state:
        raise Refused(is_state(target))
    await restore(connection, target, by, action)
    return target.generation


async def restore(connection: asyncpg.Connection, stopped: Generation, by: By, action: str) -> None:
    """Give a paused or failed generation its state of before, in the open transaction."""
    if stopped.live:
        state = LIVE
    elif stopped.kept_at is not None:
        state = KEPT
    else:
        state = BUILDING if stopped.built_at is None else CATCHING_UP
    place = (stopped.projection, stopped.generation)
    await connection.execute(SET_STATE, *place, state)
    await note_operation(connection, by, action, *place, stopped.generation)


async def _retire(connection: asyncpg.Connection, former: Generation, by: By) -> None:
    await connection.execute(MARK_RETIRED, former.projection, former.generation)
    number = former.generation
    await note_operation(connection, by, "retire", former.projection, number, number)


def _chosen(life: Life, generation: int | None) -> Generation:
    if generation is not None:
        return life.get(generation)
    if life.live is None:
        raise Refused(f"{life.projection} has no live generation yet.")
    return life.live


def _is_first(life: Life) -> str:
    """Return why nothing can be rebuilt before a generation is live, and what helps."""
    told = f"{life.projection} has no live generation yet: the projector makes the first."
    first = life.unfinished
    if first is None:
        return told
    return (
        f"{told} {is_state(first)} If it cannot go on, exchange retire {life.projection}"
        f" --generation {first.generation} gives it up, and a projector makes another."
    )


def is_state(generation: Generation) -> str:
    """Return a sentence on the state of a generation."""
    return f"Generation {generation.generation} of {generation.projection} is {generation.state}."
