import random

import asyncpg
import pytest

from exchange.log.moments import position_at
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio


async def test_a_time_is_found_between_and_beyond_all_events(database_url: str) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(1), 60)
        head = writer.position
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "select position, (data->>'time_ms')::bigint as time_ms from events order by position"
        )
        times = [row["time_ms"] for row in rows]
        asked = {moment for time_ms in times for moment in (time_ms - 1, time_ms, time_ms + 1)}
        for moment in sorted(asked):
            wanted = sum(time_ms <= moment for time_ms in times)
            assert await position_at(connection, 0, moment, head) == wanted
        assert await position_at(connection, 0, times[-1], 10) == 10
        assert await position_at(connection, 7, times[-1], 0) == 0
    finally:
        await connection.close()
