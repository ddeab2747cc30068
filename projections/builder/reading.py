"""The log as folds take it, and which event is to blame if one cannot go on."""

from collections.abc import AsyncIterable, AsyncIterator, Set

import asyncpg

from exchange.log.replay import replay_parts
from projections.folding import UUID_BYTES, Fold, LogPart
from projections.registry import Projection


class CannotFold(Exception):
    """An event that the definition cannot apply; it is at ``position`` of ``shard``."""

    def __init__(self, shard: int, position: int, error: str) -> None:
        super().__init__(f"position {position} of shard {shard}: {error}")
        self.shard, self.position = shard, position


async def read_parts(
    connection: asyncpg.Connection,
    projection: Projection,
    skips: Set[tuple[int, int]],
    shard: int,
    after: int,
    up_to: int,
) -> AsyncIterator[LogPart]:
    """Yield a shard's events without those that are passed over.

    Raises:
        LogCorrupt: An event between the two is missing.
        Undecodable: One was written by another version of the software.
    """
    async for part in replay_parts(
        connection,
        shard,
        after=after,
        up_to=up_to,
        with_ids=projection.needs_command_ids,
        skips={position for one, position in skips if one == shard},
    ):
        yield LogPart(shard, part.first, part.events, part.command_ids)


async def blamed(
    fold: Fold, before: AsyncIterable[LogPart], part: LogPart, error: Exception
) -> CannotFold:
    """Find the event of a part that cannot be applied.

    Args:
        fold: One that has not seen the part: what failed may have applied half of it.
        before: The shard's events that it lacks before the part.
        part: The part.
        error: What applying it as a whole raised.
    """
    async for earlier in before:
        fold.add(earlier)
    for index, event in enumerate(part.events):
        ids = part.command_ids[index * UUID_BYTES : (index + 1) * UUID_BYTES]
        try:
            fold.add(LogPart(part.shard, part.first + index, [event], ids))
        except Exception as cause:
            told = f"{type(event).__name__}: {cause!r}"
            return CannotFold(part.shard, part.first + index, told)
    return CannotFold(part.shard, part.first, repr(error))
