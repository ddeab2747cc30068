"""Where a moment is in the log: a position of each shard.

Read ``moment_at_time``: a time means each shard's last event at or before it. The engine's time
never runs backwards within a shard, so the position is found by bisection over the primary key,
without an index of times. A shard passes a time with the first event after it: before that, one of
this time may still be appended, so the answer could change, and is refused.
"""

from collections.abc import Mapping
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.log.documents.text import timestamp
from exchange.log.reader import read_heads

READ_TIME: Final = """
select (data->>'time_ms')::bigint from events where shard = $1 and position = $2
"""


class Place(Struct, frozen=True):
    """A position of a shard, and the time of the event there; both are 0 before the first."""

    shard: int
    position: int
    time_ms: int


class Moment(Struct, frozen=True):
    """A place on each shard; ``now_ms`` is what counts as the present time.

    That is the time that was asked for, else that of the newest event.
    """

    places: dict[int, Place]
    now_ms: int

    @property
    def positions(self) -> dict[int, int]:
        return {shard: place.position for shard, place in self.places.items()}

    def at(self, shard: int) -> Place:
        """Return the place on a shard; one that the log does not know has no event."""
        return self.places.get(shard, Place(shard, 0, 0))


class NotReached(Exception):
    """A shard has not passed the time, or does not have the position."""


async def moment_at_time(connection: asyncpg.Connection, time_ms: int) -> Moment:
    """Return where each shard was at a time.

    Raises:
        NotReached: A shard has not passed it.
    """
    positions = {}
    for shard, head in sorted((await read_heads(connection)).items()):
        positions[shard] = await position_at(connection, shard, time_ms, head)
        await check_passed(connection, shard, time_ms, positions[shard], head)
    return Moment(await _places(connection, positions), time_ms)


async def check_passed(
    connection: asyncpg.Connection, shard: int, time_ms: int, position: int, head: int
) -> None:
    """Check that a shard, whose last event at or before a time is at ``position``, has a later one.

    Raises:
        NotReached: It has none.
    """
    if position == head > 0:
        last_ms = await connection.fetchval(READ_TIME, shard, head)
        raise NotReached(
            f"Shard {shard} has not passed {timestamp(time_ms)}: its last event, {head}, is of"
            f" {timestamp(last_ms)}, so another one may come. Name an earlier time, or"
            f" positions, such as {shard}:{head}."
        )


async def moment_at(connection: asyncpg.Connection, asked: Mapping[int, int]) -> Moment:
    """Return the moment at which shards were at positions; other shards are at their heads.

    Raises:
        NotReached: A shard or a position is not in the log.
    """
    positions = await read_heads(connection)
    for shard, position in asked.items():
        check_place(positions, shard, position)
        positions[shard] = position
    places = await _places(connection, positions)
    return Moment(places, max((place.time_ms for place in places.values()), default=0))


def check_place(heads: Mapping[int, int], shard: int, position: int = 0) -> None:
    """Check that a position is in the log, or is the one before its first event.

    Raises:
        NotReached: It is not.
    """
    if shard not in heads:
        known = ", ".join(map(str, sorted(heads))) or "none"
        raise NotReached(f"There is no shard {shard}; there are: {known}.")
    if position > heads[shard]:
        raise NotReached(f"Shard {shard} ends at {heads[shard]}: there is no event {position} yet.")


async def _places(connection: asyncpg.Connection, positions: Mapping[int, int]) -> dict[int, Place]:
    return {
        shard: Place(shard, position, await connection.fetchval(READ_TIME, shard, position) or 0)
        for shard, position in sorted(positions.items())
    }


async def position_at(connection: asyncpg.Connection, shard: int, time_ms: int, head: int) -> int:
    """Return the position of a shard's last event at or before a time; 0 before the first.

    ``head`` is the last position that is looked at.
    """
    before, after = 0, head + 1  # the first is at or before the time, the second is not
    while after - before > 1:
        middle = (before + after) // 2
        if await connection.fetchval(READ_TIME, shard, middle) <= time_ms:
            before = middle
        else:
            after = middle
    return before
