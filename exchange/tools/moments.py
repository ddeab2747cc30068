"""What a person names as a moment: a time, a position of each shard, or now; and which it is.

``exchange.log.moments`` says what a time means.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import typer

from exchange.log.moments import Moment, NotReached, moment_at, moment_at_time
from exchange.tools.terminal import PLACE, ToolError, place_of

CLOCK: Final = re.compile(r"[0-2]\d:[0-5]\d")  # which is also how a shard's position is written
NOW: Final = "now"  # where the log ends
FORMS: Final = f"nor SHARD:POSITION such as 0:1234, nor {NOW}"
EPOCH: Final = datetime.fromtimestamp(0, UTC)


def time_ms_of(text: str, option: str, forms: str = "") -> int:
    """Return the milliseconds since the epoch of a time in ISO 8601, in UTC unless it says more.

    ``forms`` says what would do too, to who wrote none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        told = f", {forms}" if forms else ""
        named = f"{option} {text}".strip()
        asked = f"{named} is no ISO 8601 time with a date, such as 2026-11-27T02:11Z{told}."
        raise typer.BadParameter(asked) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(milliseconds=1)


async def positions_at(connection: asyncpg.Connection, moment: str, option: str) -> dict[int, int]:
    """Return the position of each shard at a moment; without one, those of the heads.

    Raises:
        ToolError: A shard has not passed the time, or a position is not there.
    """
    if not moment or _has_places(moment):
        return await positions_of(connection, moment)
    return (await moment_of(connection, moment, option)).positions


async def positions_of(connection: asyncpg.Connection, places: str) -> dict[int, int]:
    """Return the position of each shard that ``SHARD:POSITION,…`` names, and the other heads.

    All are heads if it is ``now``.

    Raises:
        ToolError: A shard or a position is not there.
    """
    with reached(places):
        return (await moment_at(connection, places_of(places))).positions


def places_of(text: str) -> dict[int, int]:
    """Return the position of each shard that ``SHARD:POSITION,…`` names; ``now`` names none."""
    return {} if text == NOW else dict(place_of(one) for one in filter(None, text.split(",")))


async def moment_of(connection: asyncpg.Connection, text: str, option: str) -> Moment:
    """Return the moment that a time, ``SHARD:POSITION,…`` or ``now`` names.

    Raises:
        ToolError: A shard has not passed the time, or a position is not there.
    """
    with reached(text):
        if not _has_places(text):
            return await moment_at_time(connection, time_ms_of(text, option, FORMS))
        return await moment_at(connection, places_of(text))


@contextmanager
def reached(text: str = "") -> Iterator[None]:
    """Tell a person of a moment, which they wrote as ``text``, that the log has not reached.

    Raises:
        ToolError: The log has not.
    """
    try:
        yield
    except NotReached as error:
        meant = " A time needs its date: 2026-11-27T02:11Z." if CLOCK.fullmatch(text) else ""
        raise ToolError(f"{error}{meant}") from error


def _has_places(text: str) -> bool:
    """Tell whether a text names positions, if only those of now."""
    return text == NOW or PLACE.fullmatch(text.partition(",")[0]) is not None
