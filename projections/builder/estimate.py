"""How long a build takes: told before it begins, and while it runs.

A build reads the log, indexes its rows and compares them with the log. How long each step takes
beside the reading is taken from the projection's last build, or from what was measured of it once.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from projections.builder.steps import DONE, INDEXING, READING, SWITCHING, VERIFYING
from projections.registry import Projection
from projections.stores.redis import RedisProjection

STEPS: Final = (READING, INDEXING, VERIFYING)

# Events a second, and the other steps as parts of the reading, on two cores that do other work too.
FIRST_RATE: Final = 100_000
FIRST_PARTS: Final = {"orders": (0.6, 1.2), "trades": (0.5, 1.0)}
OTHER_PARTS: Final = (0.02, 1.0)

# A shorter build took as long as it takes to make tables and to wait, whatever it read.
TELLING_S_MIN: Final = 2.0

# What comes first in a step (connections, a first part) tells little of the rest of it.
TELLING_SHARE_MIN: Final = 0.1

# A build that ended in the middle of a step has done less than its seconds say.
READ_LAST: Final = f"""
select done, seconds from builds
where projection = $1 and generation <> $2 and done > 0 and seconds::jsonb ? '{VERIFYING}'
    and step in ('{SWITCHING}', '{DONE}')
    and $3 <= (select sum(taken.value::float) from jsonb_each_text(seconds::jsonb) as taken)
order by generation desc limit 1
"""


def events_read(definition: Projection, heads: Mapping[int, int]) -> int:
    """Return how many events a build reads: all, or the newest if the model keeps only those."""
    kept = definition.events_max if isinstance(definition, RedisProjection) else None
    return sum(head if kept is None else min(head, kept) for head in heads.values())


class Pace(Struct, frozen=True):
    """Seconds for a million events, by step; ``measured`` says whether a build has shown them."""

    seconds: dict[str, float]
    measured: bool

    def seconds_for(self, events: int, steps: Sequence[str]) -> float:
        """Return how long these steps of a build of so many events take."""
        return sum(self.seconds[step] for step in steps) * events / 1e6


async def read_pace(
    connection: asyncpg.Connection, projection: str, *, besides: int | None = None
) -> Pace:
    """Return the pace of a projection's last build, or what such a build takes at first.

    A build that was too short to show a pace does not count, nor does that of ``besides``.
    """
    row = await connection.fetchrow(READ_LAST, projection, besides or 0, TELLING_S_MIN)
    if row is None:
        return first_pace(projection)
    millions = row["done"] / 1e6
    seconds: Mapping[str, float] = json.loads(row["seconds"])
    return Pace({step: seconds.get(step, 0.0) / millions for step in STEPS}, measured=True)


def first_pace(projection: str) -> Pace:
    """Return the pace that was measured once, elsewhere."""
    reading = 1e6 / FIRST_RATE
    parts = FIRST_PARTS.get(projection, OTHER_PARTS)
    others = {step: reading * part for step, part in zip(STEPS[1:], parts, strict=True)}
    return Pace({READING: reading, **others}, measured=False)


def seconds_left(
    pace: Pace, step: str, done: int, wanted: int, seconds: Mapping[str, float]
) -> float | None:
    """Return how long a build still takes; None if that cannot be told yet.

    Args:
        pace: Of the projection's last build; what this one shows so far counts more.
        step: What the build does now.
        done: The events that are read, or compared.
        wanted: How many there are.
        seconds: How long each step took, or takes so far.
    """
    if step not in STEPS or not wanted:
        return None
    share = min(1.0, done / wanted)
    if step == READING:
        if not share:
            return None
        reading = seconds.get(READING, 0.0) / share
        scale = reading / pace.seconds[READING] if pace.seconds[READING] else 0.0
        left = reading * (1 - share)
    else:
        reading = seconds.get(READING, 0.0)
        scale = reading / pace.seconds[READING] if pace.seconds[READING] else 0.0
        left = max(0.0, pace.seconds[step] * scale - seconds.get(step, 0.0))
        if step == VERIFYING and share >= TELLING_SHARE_MIN:
            # Folding takes at least this much; comparing the rows comes after it.
            left = max(left, seconds.get(VERIFYING, 0.0) / share * (1 - share))
    later = STEPS[STEPS.index(step) + 1 :]
    return left + sum(pace.seconds[one] * scale for one in later)
