"""Blocks of the tree are kept once each, whoever is killed, and a walk finds wrong ones."""

import asyncio
import random
import signal
import sys
from asyncio.subprocess import create_subprocess_exec
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from exchange.config import PROJECT
from exchange.domain.values import Shard
from exchange.log.audit.blocks import (
    STEP_BLOCKS,
    WrongBlocks,
    hash_blocks,
    keep_blocks,
    read_roots,
    read_unkept,
)
from exchange.log.audit.tree import BLOCK_EVENTS, Tree, leaf_hash, root_over
from exchange.log.audit.verify import verify
from exchange.log.chain import event_text
from exchange.log.reader import read_events
from tests.conftest import Services, drop_database, new_database
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

SHARD = Shard(0)
BLOCKS = 2 * STEP_BLOCKS + 1

# As the builder does, but that it kills itself in the statement that adds the blocks, or after it.
KILLED = """
import asyncio, asyncpg, os, signal, sys
from exchange.log.audit import blocks

async def main():
    connection = await asyncpg.connect(sys.argv[1])
    async with connection.transaction():
        (unkept,) = await blocks.read_unkept(connection)
        await blocks.keep_blocks(connection, unkept)
        if sys.argv[2] == "before the commit":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def make_log(database_url: str) -> int:
    chance = random.Random(9)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        while writer.position < BLOCKS * BLOCK_EVENTS:
            await writer.append_random(chance, 400)
        return writer.position


@pytest.fixture(scope="module")
def log_url(services: Services, template_database: str) -> Iterator[str]:
    database_url = new_database(services, template_database)
    services.portal.call(make_log, database_url)
    yield database_url
    drop_database(services, database_url)


@pytest.fixture
async def connection(log_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(log_url)
    yield connection
    await connection.execute("delete from tree_blocks")
    await connection.close()


async def keep_all(connection: asyncpg.Connection) -> None:
    while unkept := await read_unkept(connection):
        await keep_blocks(connection, unkept[0])


async def kept(connection: asyncpg.Connection) -> list[bytes]:
    rows = await connection.fetch("select block, root from tree_blocks order by block")
    assert [row["block"] for row in rows] == list(range(len(rows)))
    return [row["root"] for row in rows]


async def test_each_block_is_kept_once_though_its_keeper_is_killed_and_has_a_second_beside_it(
    log_url: str, connection: asyncpg.Connection
) -> None:
    begun = [("before the commit", 0), ("after the commit", STEP_BLOCKS)]
    for when, expected in begun:
        command = [sys.executable, "-c", KILLED, log_url, when]
        process = await create_subprocess_exec(*command, cwd=PROJECT)
        assert await process.wait() == -signal.SIGKILL
        assert len(await kept(connection)) == expected
    second = await asyncpg.connect(log_url)
    await asyncio.gather(keep_all(connection), keep_all(second))
    await second.close()

    head = await connection.fetchval("select position from head")
    events = await read_events(connection, SHARD, after=0, up_to=head, limit=head)
    tree = Tree()
    tree.extend([leaf_hash(event_text(event)) for event in events])
    whole = head // BLOCK_EVENTS
    assert whole >= BLOCKS
    assert await kept(connection) == tree.new_blocks
    assert len(tree.new_blocks) == whole
    assert await read_unkept(connection) == []
    assert await read_roots(connection, SHARD, whole) == tree.new_blocks
    await connection.execute("delete from tree_blocks where block >= 5")
    assert await read_roots(connection, SHARD, whole) == tree.new_blocks
    assert await read_roots(connection, SHARD, 3) == tree.new_blocks[:3]
    await connection.execute("delete from tree_blocks where block = 1")
    with pytest.raises(WrongBlocks, match="of the first 5 blocks some are not there"):
        await read_roots(connection, SHARD, whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "update tree_blocks set root = sha256(root) where block = 3",
            "769 to 1024 is wrong: their",
        ),
        ("delete from tree_blocks where block = 0", "1 to 256 is wrong: it is missing"),
        (
            "insert into tree_blocks select 0, max(block) + 1, '' from tree_blocks",
            "is wrong: the log does not have all of them",
        ),
    ],
)
async def test_a_walk_finds_a_block_that_is_not_that_of_the_events(
    connection: asyncpg.Connection, change: str, told: str
) -> None:
    assert (await verify(connection, SHARD)).problem is None
    await keep_all(connection)
    assert (await verify(connection, SHARD)).problem is None
    await connection.execute(change)

    found = await verify(connection, SHARD)

    assert told in (found.problem or "")
    assert found.problem_position is None


async def test_a_block_is_hashed_from_its_events(connection: asyncpg.Connection) -> None:
    events = await read_events(
        connection, SHARD, after=BLOCK_EVENTS, up_to=2 * BLOCK_EVENTS, limit=BLOCK_EVENTS
    )

    (root,) = await hash_blocks(connection, SHARD, 1, 2)

    assert root == root_over([leaf_hash(event_text(event)) for event in events])
