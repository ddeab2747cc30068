"""The changes that were made, as ``changes`` notes them in ``operations``: to be read at any time.

It needs nothing of the definitions, so that looking is quick.
"""

import asyncpg
from msgspec import Struct

READ_OPERATIONS = """
select id, at, operator, action, projection, from_generation, to_generation, digest, reason
from operations
where $1::text is null or projection = $1
order by id desc
limit $2
"""


class OperationRow(Struct, frozen=True):
    """A change that was made: who, when, what, from which generation to which."""

    id: int
    at: object
    operator: str
    action: str
    projection: str
    from_generation: int | None
    to_generation: int | None
    digest: str | None
    reason: str | None


async def read_operations(
    connection: asyncpg.Connection, projection: str | None, limit: int
) -> list[OperationRow]:
    """Return the newest changes, newest first."""
    return [
        OperationRow(*row) for row in await connection.fetch(READ_OPERATIONS, projection, limit)
    ]
