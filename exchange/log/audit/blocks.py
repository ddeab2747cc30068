"""The roots of whole blocks of a shard's tree, kept in a table so that one event is proved at once.

The builder follows the log and adds them (``keep_blocks``). A root is a function of the events
alone, and a row is never changed: whoever is killed, or works beside another, leaves each block
once. Emptying the table loses nothing, since it is made again from the log.
"""

from collections.abc import Callable, Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.log.audit.tree import BLOCK_EVENTS, leaf_hash, root_over
from exchange.log.chain import event_text
from exchange.log.reader import read_every_event

STEP_BLOCKS: Final = 8  # 2,048 events: bounds the memory of one read; larger ones are no faster
COMPARE_BLOCKS: Final = 1_000  # bounds what a walk holds of them
ROOT_BYTES: Final = 32

READ_UNKEPT = f"""
select shard, kept, position / {BLOCK_EVENTS} as whole
from heads() as head
cross join lateral (
    select coalesce(max(block) + 1, 0) as kept from tree_blocks where shard = head.shard
) as blocks
where position / {BLOCK_EVENTS} > kept
order by shard
"""

ADD_BLOCKS = """
insert into tree_blocks (shard, block, root)
select $1, block, root from unnest($2::bigint[], $3::bytea[]) as new (block, root)
on conflict do nothing
"""

# As one value: as rows they would take longer to read than all else of a proof.
READ_ROOTS = """
select count(*) as blocks, coalesce(max(block) + 1, 0) as up_to,
    coalesce(string_agg(root, ''::bytea order by block), ''::bytea) as roots
from tree_blocks
where shard = $1 and block < $2
"""

COUNT_KEPT = "select coalesce(max(block) + 1, 0) from tree_blocks where shard = $1"

READ_BLOCKS = """
select block, root from tree_blocks where shard = $1 and block >= $2 and block < $3
"""

# In one statement: a builder may add blocks of events that a matcher appends meanwhile.
READ_BEYOND = f"""
select min(block) from tree_blocks join heads() as head using (shard)
where shard = $1 and block >= head.position / {BLOCK_EVENTS}
"""


class WrongBlocks(Exception):
    """The table has other roots than the events give, or lacks some in between."""


class Unkept(Struct, frozen=True):
    """A shard of which ``kept`` blocks are in the table, and ``whole`` ones in the log."""

    shard: int
    kept: int
    whole: int


async def read_unkept(connection: asyncpg.Connection) -> list[Unkept]:
    """Return the shards that have blocks to add."""
    return [Unkept(*row) for row in await connection.fetch(READ_UNKEPT)]


async def keep_blocks(connection: asyncpg.Connection, unkept: Unkept) -> None:
    """Add the next blocks of a shard, at most ``STEP_BLOCKS``.

    Raises:
        LogCorrupt: An event is missing.
    """
    end = min(unkept.whole, unkept.kept + STEP_BLOCKS)
    roots = await hash_blocks(connection, unkept.shard, unkept.kept, end)
    await connection.execute(ADD_BLOCKS, unkept.shard, range(unkept.kept, end), roots)


async def read_leaves(
    connection: asyncpg.Connection, shard: int, *, after: int, up_to: int
) -> list[bytes]:
    """Return the hashes of events as leaves.

    Raises:
        LogCorrupt: An event is missing.
    """
    events = await read_every_event(connection, shard, after=after, up_to=up_to)
    return [leaf_hash(event_text(event)) for event in events]


async def hash_blocks(
    connection: asyncpg.Connection, shard: int, begin: int, end: int
) -> list[bytes]:
    """Return the roots of blocks from ``begin`` on, without ``end``, from their events.

    Raises:
        LogCorrupt: An event is missing.
    """
    after, up_to = begin * BLOCK_EVENTS, end * BLOCK_EVENTS
    leaves = await read_leaves(connection, shard, after=after, up_to=up_to)
    return [root_over(leaves[at : at + BLOCK_EVENTS]) for at in range(0, len(leaves), BLOCK_EVENTS)]


async def read_roots(
    connection: asyncpg.Connection,
    shard: int,
    blocks: int,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[bytes]:
    """Return the roots of the first blocks; those that are not kept yet, from their events.

    Raises:
        LogCorrupt: An event is missing.
        WrongBlocks: The table lacks a block before another one.
    """
    found = await connection.fetchrow(READ_ROOTS, shard, blocks)
    if found["blocks"] != found["up_to"]:
        raise WrongBlocks(f"of the first {found['up_to']} blocks some are not there")
    roots = [
        found["roots"][at : at + ROOT_BYTES] for at in range(0, len(found["roots"]), ROOT_BYTES)
    ]
    while len(roots) < blocks:
        end = min(blocks, len(roots) + STEP_BLOCKS)
        roots += await hash_blocks(connection, shard, len(roots), end)
        on_progress(len(roots) * BLOCK_EVENTS, blocks * BLOCK_EVENTS)
    return roots


class BlocksCheck:
    """Goes along with a walk from the first event, and compares the blocks that are kept."""

    def __init__(self, connection: asyncpg.Connection, shard: int) -> None:
        self.problem: str | None = None  # the first one
        self._connection = connection
        self._shard = shard
        self._compared = 0
        self._roots: list[bytes] = []  # of the next blocks
        self._kept: int | None = None  # so many were there as the walk began

    async def add(self, roots: Sequence[bytes]) -> None:
        """Take the roots of the next blocks."""
        if self._kept is None:
            self._kept = await self._connection.fetchval(COUNT_KEPT, self._shard)
        self._roots += roots
        if len(self._roots) >= COMPARE_BLOCKS:
            await self._compare()

    async def finish(self) -> None:
        """Compare the rest, and look for blocks of events that the log does not have."""
        await self._compare()
        beyond = await self._connection.fetchval(READ_BEYOND, self._shard)
        if beyond is not None:
            self._note(beyond, "the log does not have all of them")

    async def _compare(self) -> None:
        begin, roots = self._compared, self._roots
        self._compared, self._roots = begin + len(roots), []
        rows = await self._connection.fetch(READ_BLOCKS, self._shard, begin, self._compared)
        kept = dict(rows)
        for block, root in enumerate(roots, begin):
            if kept.get(block, root) != root:
                self._note(block, f"their root is {root.hex()}")
            elif block not in kept and block < (self._kept or 0):
                self._note(block, "it is missing")

    def _note(self, block: int, why: str) -> None:
        first, last = block * BLOCK_EVENTS + 1, (block + 1) * BLOCK_EVENTS
        self.problem = self.problem or (
            f"the block of the tree that is kept of the events {first} to {last} is wrong: {why};"
            " the events are as recorded: delete the shard's rows of tree_blocks, and the builder"
            " makes them again"
        )
