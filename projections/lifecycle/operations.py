"""The changes that were made, as ``changes`` notes them in ``operations``: to be read at any time.

It needs nothing of the definitions, so that looking is quick.
"""

from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct

PAUSE: Final = "pause"
DIFFERS: Final = "differs"  # a comparison found rows that the log does not give

READ_OPERATIONS = """
select id, at, operator, action, projection, from_generation, to_generation, digest, reason
from operations
where $1::text is null or projection = $1
order by id desc
limit $2
"""


READ_HOLDING = """
select distinct on (o.projection, o.to_generation, o.action)
    o.id, o.at, o.operator, o.action, o.projection, o.from_generation, o.to_generation, o.digest,
    o.reason
from operations o
join generations g on g.projection = o.projection and g.generation = o.to_generation
where g.state = 'paused' and o.action = $1
    or g.state <> 'retired' and g.verified is null and o.action = $2
order by o.projection, o.to_generation, o.action, o.id desc
"""


class OperationRow(Struct, frozen=True):
    """A change that was made: who, when, what, from which generation to which."""

    id: int
    at: datetime
    operator: str
    action: str
    projection: str
    from_generation: int | None
    to_generation: int | None
    digest: str | None
    reason: str | None


async def read_holding(connection: asyncpg.Connection) -> list[OperationRow]:
    """Return what holds generations now: who paused them, and who found that they differ."""
    return [OperationRow(*row) for row in await connection.fetch(READ_HOLDING, PAUSE, DIFFERS)]


async def read_operations(
    connection: asyncpg.Connection, projection: str | None, limit: int
) -> list[OperationRow]:
    """Return the newest changes, newest first."""
    return [
        OperationRow(*row) for row in await connection.fetch(READ_OPERATIONS, projection, limit)
    ]
