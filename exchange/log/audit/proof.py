"""A compact proof that one event is in the log, to be checked against a published root.

It has the event as it is hashed, and the hashes that lead from it to the root of the tree over the
first ``size`` events of its shard: some 24 for ten million. ``docs/check_proof.py`` checks it with
nothing but Python, as JSON or packed.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange.log.audit.blocks import WrongBlocks, read_leaves, read_roots
from exchange.log.audit.tree import BLOCK_EVENTS, path, root_of, root_over
from exchange.log.reader import read_every_event

COMPRESSION: Final = 9  # the smallest; an event is short


class Proof(Struct, frozen=True):
    """The columns that are hashed, in their order, and the way to the root.

    ``command_id`` and ``root`` are in hex. ``path`` is the hashes, the lowest first, in base64,
    which takes a third less than hex.
    """

    shard: int
    position: int
    instrument: str
    type: str
    version: int
    command_id: str
    kafka_offset: int
    data: str
    size: int
    root: str
    path: str


def pack(proof: Proof) -> bytes:
    """Return a proof in as few bytes as it takes: below 2,000 for the longest event of 10 million.

    Hashes cannot be compressed: they stand as they are behind the other fields, which can. The root
    is left out, since who checks has it.
    """
    fields = msgspec.structs.asdict(proof)
    hashes = b64decode(fields.pop("path"))
    del fields["root"]
    return zlib.compress(msgspec.json.encode(fields), COMPRESSION) + hashes


async def prove_event(
    connection: asyncpg.Connection,
    shard: int,
    position: int,
    size: int,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Proof:
    """Prove that an event is among the first ``size`` ones of its shard, which the log must have.

    Args:
        connection: To the log, which is only read.
        shard: The event's shard.
        position: The event's position, at most ``size``.
        size: How many events the tree has: the position of which the root was published.
        on_progress: Is told how many events are hashed of which no block is kept yet.

    Raises:
        LogCorrupt: An event is missing.
        WrongBlocks: The blocks that are kept are not those of the events.
    """
    block, index = divmod(position - 1, BLOCK_EVENTS)
    whole = size // BLOCK_EVENTS
    roots = await read_roots(connection, shard, whole, on_progress)
    last = await read_leaves(connection, shard, after=whole * BLOCK_EVENTS, up_to=size)
    above = [*roots, root_over(last)] if last else roots
    within = last
    if block < whole:
        begin = block * BLOCK_EVENTS
        within = await read_leaves(connection, shard, after=begin, up_to=begin + BLOCK_EVENTS)
    if root_over(within) != above[block]:
        raise WrongBlocks(f"the block of event {position} is not that of its events")
    (event,) = await read_every_event(connection, shard, after=position - 1, up_to=position)
    hashes = path(index, within) + path(block, above)
    root = root_of(within[index], position - 1, size, hashes)  # half of what all blocks would cost
    assert root is not None, "the path is of this event and size"
    return Proof(
        shard,
        position,
        event.instrument or "",
        event.type,
        event.version,
        event.command_id.hex,
        event.kafka_offset,
        event.data,
        size,
        root.hex(),
        b64encode(b"".join(hashes)).decode(),
    )
