"""Where a moment is in the log: the last event of each shard at or before a time.

The engine's time never runs backwards within a shard, so the position is found by bisection over
the primary key, without an index of times.
"""

from typing import Final

import asyncpg

READ_TIME: Final = """
select (data->>'time_ms')::bigint from events where shard = $1 and position = $2
"""


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
