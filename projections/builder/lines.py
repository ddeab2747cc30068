"""What a builder says of a generation, kept with its build, so that whoever looks can read it.

The log of the process says the same. A line that is said again and again is kept once.
"""

from typing import Final

import asyncpg

LINES_MAX: Final = 40  # a build has ten; the rest is for one that waits or is stopped all day
TEXT_CHARACTERS_MAX: Final = 500

NOTE: Final = f"""
update builds set lines = (lines || (
    to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z "') || $3::text
))[greatest(1, cardinality(lines) + 2 - {LINES_MAX}):]
where projection = $1 and generation = $2
and substr(coalesce(lines[cardinality(lines)], ''), length('2026-01-31T12:00:00Z ') + 1) <> $3
"""

READ_LINES: Final = "select projection, generation, lines from builds order by 1, 2"


async def note(connection: asyncpg.Connection, projection: str, generation: int, text: str) -> None:
    """Keep what there is to say of a build; nothing if it has not begun."""
    await connection.execute(NOTE, projection, generation, text[:TEXT_CHARACTERS_MAX])


async def read_lines(connection: asyncpg.Connection) -> dict[str, list[str]]:
    """Return what was said of each generation, by names such as ``book 3``, oldest first."""
    return {
        f"{row['projection']} {row['generation']}": row["lines"]
        for row in await connection.fetch(READ_LINES)
        if row["lines"]
    }
