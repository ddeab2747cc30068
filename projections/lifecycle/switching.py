"""The switch: queries read another generation from then on, and no older answer than before.

Read ``switch``. The old generation is held at its position until the new one has reached it, which
takes milliseconds; it is read all the time.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

import asyncpg

from exchange.log.reader import read_heads
from projections.lifecycle.changes import (
    By,
    Life,
    Refused,
    changing,
    is_state,
    note_operation,
)
from projections.lifecycle.definitions import Definition, fits, is_of
from projections.lifecycle.generations import CATCHING_UP, KEPT, Generation, generations_of
from projections.lifecycle.operations import DIFFERS
from projections.stores.failures import is_store_failure

logger = logging.getLogger(__name__)

HOLD_S: Final = 0.5  # followers are 100 ms apart; readers find the live one as late at most
HOLD_POLL_S: Final = 0.002

KEEP_LIVE = """
update generations set
    state = case when state in ('failed', 'paused') then state else 'kept' end, kept_at = now()
where projection = $1 and generation <> $2
    and generation = (select generation from live where projection = $1)
"""

# A failed generation may be read as far as it came, but stays marked as failed.
MARK_LIVE = """
update generations set
    state = case when state = 'failed' then state else 'live' end, kept_at = null, replaces = null
where projection = $1 and generation = $2
"""

POINT_LIVE = """
insert into live (projection, generation) values ($1, $2)
on conflict (projection) do update set generation = excluded.generation
"""

# A clean comparison since then has set ``verified``.
IS_DIFFERENT = """
select exists(
    select from operations where projection = $1 and to_generation = $2 and action = $3
)
"""

GIVE_UP_SWITCH = """
update generations set replaces = null where projection = $1 and generation = $2
"""


class Behind(Refused):
    """The generation has not seen what readers of the live one have seen; it may, soon."""


async def switch(
    connection: asyncpg.Connection,
    definitions: Sequence[Definition],
    projection: str,
    to: int,
    by: By,
    *,
    expect_live: int | None = None,
    unverified: bool = False,
    action: str = "switch",
) -> None:
    """Let queries read generation ``to`` from now on, and keep the one that they read before.

    Args:
        connection: A connection of its own.
        definitions: The definitions of the projection that this build has.
        projection: The projection.
        to: The generation: one that catches up, or the former one.
        by: Who wants it, and why.
        expect_live: The generation that the operator believes to be live.
        unverified: Whether its rows need not have been compared with the log.
        action: What ``operations`` calls it.

    Raises:
        Refused: It is not fit to be read, is behind, or ``expect_live`` is not live.
    """
    begun_s = time.monotonic()
    holds: list[tuple[Definition, int, list[int]]] = []
    try:
        async with changing(connection, projection) as life:
            life.expect(expect_live)
            target, live = life.get(to), life.live
            if not unverified:
                await _check_same(connection, target)
            _check_fit(target, definitions, unverified=unverified)
            held: dict[int, int] = {}
            if live is not None:
                old, shards = _definition(definitions, live), sorted(await read_heads(connection))
                holds.append((old, live.generation, shards))
                held = await old.hold(connection, live.generation, shards)
            await _until_at(_definition(definitions, target), target, held)
            if time.monotonic() - begun_s > HOLD_S:
                raise Behind(f"{projection} could not be held for long enough: try again.")
            for statement in (KEEP_LIVE, MARK_LIVE, POINT_LIVE):
                await connection.execute(statement, projection, to)
            before = None if live is None else live.generation
            await note_operation(connection, by, action, projection, before, to, target.digest)
    finally:
        # After the commit: until then readers of the old one must see nothing newer than it has.
        for old, generation, shards in holds:
            await _release(old, generation, shards)


async def rollback(
    connection: asyncpg.Connection,
    definitions: Sequence[Definition],
    projection: str,
    by: By,
    *,
    expect_live: int | None = None,
) -> int:
    """Switch back to the generation that was live before, and return its number.

    Raises:
        Refused: None is kept, or as ``switch``.
    """
    life = Life(projection, await generations_of(connection, projection))
    if life.kept is None:
        raise Refused(f"No former generation of {projection} is kept: there is no way back.")
    live = None if life.live is None else life.live.generation
    to = life.kept.generation
    await switch(
        connection,
        definitions,
        projection,
        to,
        by,
        expect_live=live if expect_live is None else expect_live,
        unverified=True,  # the way back stays open, with whatever was wrong in it
        action="rollback",
    )
    return to


async def give_up_switch(
    connection: asyncpg.Connection, projection: str, generation: int, why: str
) -> None:
    """Leave a built generation to the operator, who has to switch it by a command."""
    async with changing(connection, projection):
        await connection.execute(GIVE_UP_SWITCH, projection, generation)
        by = By("builder", why)
        await note_operation(connection, by, "not switched", projection, None, generation)


def _definition(definitions: Sequence[Definition], generation: Generation) -> Definition:
    """Return the definition of a generation; if none fits the present one, which has its store."""
    mine = [d for d in definitions if d.name == generation.projection]
    return next((d for d in mine if is_of(generation, d)), mine[0])


def _check_fit(target: Generation, definitions: Sequence[Definition], *, unverified: bool) -> None:
    if target.live:
        raise Refused(f"Generation {target.generation} of {target.projection} is live already.")
    if target.state not in (CATCHING_UP, KEPT):
        raise Refused(is_state(target))
    if not fits(target, definitions):
        raise Refused(
            f"Generation {target.generation} of {target.projection} was built by a definition that"
            f" this build does not have ({target.fingerprint})."
        )
    if target.state == CATCHING_UP and not (target.is_verified or unverified):
        which = f"{target.projection} --generation {target.generation}"
        raise Refused(
            f"Generation {target.generation} of {target.projection} was not compared with the log:"
            f" exchange verify-projection {which} does it. To switch all the same:"
            f" exchange switch {which} --unverified"
        )


async def _check_same(connection: asyncpg.Connection, target: Generation) -> None:
    """Refuse a generation of which a comparison found that it differs from the log."""
    if target.is_verified or target.state not in (CATCHING_UP, KEPT):
        return
    place = (target.projection, target.generation)
    if await connection.fetchval(IS_DIFFERENT, *place, DIFFERS):
        which = f"{target.projection} --generation {target.generation}"
        raise Refused(
            f"Generation {target.generation} of {target.projection} differs from the log: exchange"
            f" verify-projection {which} shows where. To switch all the same: exchange switch"
            f" {which} --unverified"
        )


async def _until_at(new: Definition, target: Generation, wanted: dict[int, int]) -> None:
    """Wait until a generation has reached the positions at which the live one is held."""
    end_s = time.monotonic() + HOLD_S / 2
    while True:
        reached = await new.reached(target.generation, list(wanted))
        behind = [shard for shard, at in wanted.items() if reached.get(shard, 0) < at]
        if not behind:
            return
        if time.monotonic() > end_s:
            raise Behind(
                f"Generation {target.generation} of {target.projection} is behind the live one on"
                f" shard {behind[0]}: at {reached.get(behind[0], 0)}, not yet at"
                f" {wanted[behind[0]]}."
            )
        await asyncio.sleep(HOLD_POLL_S)


async def _release(old: Definition, generation: int, shards: Sequence[int]) -> None:
    """Let a held generation go on; if its store is away, the hold ends by itself.

    The switch is made by then, or has failed with an error of its own: this one says neither.
    """
    try:
        await old.release(generation, shards)
    except Exception as error:
        if not is_store_failure(error):
            raise
        fields = {"projection": old.name, "generation": generation, "error": repr(error)}
        logger.warning("A held generation goes on only when its hold ends", extra=fields)
