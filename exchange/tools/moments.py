"""What a person names as a moment: a time, or a position of each shard; and which positions it is.

A time is each shard's last event at or before it. A shard passes a time with the first event after
it: before that, one of this time may still be appended, so the answer could change.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import typer

from exchange.log.documents.text import timestamp
from exchange.log.moments import position_at
from exchange.log.reader import read_heads
from exchange.tools.terminal import PLACE, ToolError, checked_place, place_of

EPOCH: Final = datetime.fromtimestamp(0, UTC)


def time_ms_of(text: str, option: str) -> int:
    """Return the milliseconds since the epoch of a time in ISO 8601, in UTC unless it says more."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text} is no ISO 8601 time: {error}") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(milliseconds=1)


async def positions_at(connection: asyncpg.Connection, moment: str, option: str) -> dict[int, int]:
    """Return the position of each shard at a moment; without one, those of the heads.

    Raises:
        ToolError: A shard has not passed the time, or a position is not there.
    """
    if not moment or PLACE.fullmatch(moment.partition(",")[0]):
        return await positions_of(connection, moment)
    time_ms = time_ms_of(moment, option)
    positions = {}
    for shard, head in sorted((await read_heads(connection)).items()):
        positions[shard] = await position_at(connection, shard, time_ms, head)
        if positions[shard] == head > 0:
            raise ToolError(
                f"Shard {shard} has not passed {timestamp(time_ms)}: its last event, {head},"
                " is not after it, so another one may come. Name positions, or an earlier time."
            )
    return positions


async def positions_of(connection: asyncpg.Connection, places: str) -> dict[int, int]:
    """Return the position of each shard that ``SHARD:POSITION,…`` names, and the other heads.

    Raises:
        ToolError: A shard or a position is not there.
    """
    positions = await read_heads(connection)
    for text in filter(None, places.split(",")):
        shard, position = place_of(text)
        checked_place(positions, shard, position)
        positions[shard] = position
    return dict(sorted(positions.items()))
