"""States of folds, kept at fixed positions: a fold up to a moment begins at the newest before it.

A state is a shortcut, never the truth: deleting all of them loses nothing. One is used only by the
definition that made it, and only if the log's hash chain at its position is the one that it was
made with. So the states of another log, or of an older definition, are passed over.
"""

import zlib
from collections.abc import Callable
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange.log.reader import read_chain
from projections.folding import Fold

# Reading and folding so many takes a third of a second; all states of 10 M events are 50 a model.
STATE_EVENTS: Final = 200_000
COMPRESSION: Final = 1  # a higher level takes longer than writing does

READ_NEWEST = """
select position, chain, state from fold_states
where projection = $1 and fingerprint = $2 and shard = $3 and position <= $4
order by position desc
limit 1
"""

READ_NEWEST_POSITION = """
select max(position) from fold_states where projection = $1 and fingerprint = $2 and shard = $3
"""

# One that is there may be damaged, or another log's. One that was folded before a skip was made,
# and is ready after it, is not kept (see ``lifecycle.skips``).
INSERT_STATE = """
insert into fold_states (projection, fingerprint, shard, position, chain, state)
select $1, $2, $3, $4, $5, $6
where $7 = (select count(*) from skips where projection = $1 and fingerprint = $2 and shard = $3)
on conflict (projection, fingerprint, shard, position) do update set
    chain = excluded.chain, state = excluded.state, made_at = excluded.made_at
"""


class Folded(Struct, frozen=True):
    """A definition that is folded: its fingerprint, and what makes and loads its fold."""

    projection: str
    fingerprint: str
    make: Callable[[], Fold]
    load: Callable[[bytes], Fold]


async def newest_state(
    connection: asyncpg.Connection, folded: Folded, shard: int, up_to: int
) -> tuple[Fold, int]:
    """Return a fold that is begun as late as a state allows, and the position that it is at."""
    key = (folded.projection, folded.fingerprint, shard)
    while row := await connection.fetchrow(READ_NEWEST, *key, up_to):
        if row["chain"] == await read_chain(connection, shard, row["position"]):
            try:
                return folded.load(zlib.decompress(row["state"])), row["position"]
            except (zlib.error, msgspec.MsgspecError):
                pass  # it is damaged; the next time that the fold comes by it is made again
        up_to = row["position"] - 1
    return folded.make(), 0


async def newest_position(connection: asyncpg.Connection, folded: Folded, shard: int) -> int:
    """Return where the newest state of a fold is, 0 if there is none."""
    key = (folded.projection, folded.fingerprint, shard)
    position: int = await connection.fetchval(READ_NEWEST_POSITION, *key) or 0
    return position


async def keep_state(
    connection: asyncpg.Connection,
    folded: Folded,
    shard: int,
    position: int,
    fold: Fold,
    *,
    skips: int = 0,
) -> None:
    """Keep the state of a fold that is at a position, unless its shard has other than ``skips``."""
    chain = await read_chain(connection, shard, position)
    state = zlib.compress(fold.dump(), COMPRESSION)
    key = (folded.projection, folded.fingerprint, shard)
    await connection.execute(INSERT_STATE, *key, position, chain, state, skips)
