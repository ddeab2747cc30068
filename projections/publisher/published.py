"""What the log says of the topic: how far it was published, and why a shard stands still.

It is kept after each transaction, so it may be behind the topic. Publishing never goes on from it.
"""

from typing import Final

import asyncpg
from msgspec import Struct

READ: Final = "select position from publications where topic = $1 and shard = $2"
READ_ANY: Final = "select exists (select from publications where topic = $1 and position > 0)"

BEGIN: Final = """
insert into publications (topic, shard, position) values ($1, $2, $3)
on conflict (topic, shard) do update
set position = excluded.position, failure = null, told_at = now()
"""

# A writer that was fenced may tell an older position late.
ADVANCE: Final = """
update publications set position = $3, told_at = now()
where topic = $1 and shard = $2 and position < $3
"""

FAIL: Final = """
insert into publications (topic, shard, position, failure) values ($1, $2, 0, $3)
on conflict (topic, shard) do update set failure = excluded.failure, told_at = now()
"""

FORGET: Final = "delete from publications where topic = $1 returning shard, position"

# Of several topics the one that was written last.
READ_LATEST: Final = """
select distinct on (shard) shard, topic, position, failure
from publications
order by shard, told_at desc
"""


class Publication(Struct, frozen=True):
    """How far a shard's events are published; ``failure`` says why no more are."""

    shard: int
    topic: str
    position: int
    failure: str | None


async def read_publications(connection: asyncpg.Connection) -> dict[int, Publication]:
    """Return how far each shard is published, of those that ever were."""
    rows = await connection.fetch(READ_LATEST)
    return {row["shard"]: Publication(**row) for row in rows}


async def forget_published(connection: asyncpg.Connection, topic: str) -> dict[int, int]:
    """Forget that events were published to a topic; return up to where, by shard."""
    rows = await connection.fetch(FORGET, topic)
    return {row["shard"]: row["position"] for row in rows}
