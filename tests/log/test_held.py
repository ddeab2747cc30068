"""A transaction that stays open keeps every former version of the head, and nothing passes them.

What a statement passes is told by the pages that it looks at; its time would be the machine's. Each
page of the table has some forty versions, so 4,000 moves leave a hundred pages.
"""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from exchange.domain.values import Shard
from exchange.log.reader import READ_HEADS, READ_READABLE, read_heads
from exchange.log.writing.appending import APPEND_BATCH
from exchange.log.writing.writer import READ_POSITION, WRITER_SETTINGS, PostgresEventStore

pytestmark = pytest.mark.anyio

MOVES = 4_000
PAGES_MAX = 40  # plans read the catalogue; an append reads the indexes of three tables
DIGEST = bytes(32)

MOVE_QUICKLY = f"""
do $$
declare
    place tid;
begin
    select ctid into strict place from head where shard = 0;
    for number in 1..{MOVES} loop
        update head set next_offset = next_offset + 1 where ctid = place returning ctid into place;
        commit;
    end loop;
end
$$
"""


async def pages_read(connection: asyncpg.Connection, statement: str, *arguments: object) -> int:
    """Return how many pages a statement looks at as it runs."""
    told = await connection.fetchval(
        f"explain (analyze, buffers, format json) {statement}", *arguments
    )
    plan = json.loads(told)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.fixture
async def log_url(database_url: str) -> str:
    """A log of two shards."""
    for shard in range(2):
        async with PostgresEventStore(database_url, Shard(shard)) as store:
            await store.take_over("topic")
    return database_url


@pytest.fixture
async def reader(log_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session whose plans were made while the table of heads was small."""
    connection = await asyncpg.connect(log_url)
    for _ in range(10):
        await read_heads(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def writer(log_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session like a writer's, with a transaction open through many moves of the head."""
    holder = await asyncpg.connect(log_url)
    await holder.execute("begin isolation level repeatable read")
    await holder.execute("select from head")
    connection = await asyncpg.connect(log_url, server_settings=WRITER_SETTINGS)
    await connection.execute(MOVE_QUICKLY)
    yield connection
    await connection.close()
    await holder.close()


async def test_an_append_passes_no_former_version_of_the_head(writer: asyncpg.Connection) -> None:
    pages = await pages_read(
        writer, APPEND_BATCH, 0, 1, 0, MOVES, 0, MOVES + 1, DIGEST, DIGEST,
        *([] for _ in range(7)), b"", None, None, None,
    )  # fmt: skip

    assert pages <= PAGES_MAX
    assert await writer.fetchval("select next_offset from head where shard = 0") == MOVES + 1


@pytest.mark.parametrize("look_up", [READ_HEADS, READ_READABLE])
async def test_a_look_up_passes_no_former_version_of_the_head(
    reader: asyncpg.Connection, writer: asyncpg.Connection, look_up: str
) -> None:
    await writer.fetchval(READ_POSITION, 0)  # plans of a session are made anew

    assert await pages_read(reader, look_up) <= PAGES_MAX
    assert await pages_read(writer, READ_POSITION, 0) <= PAGES_MAX


async def test_the_newest_version_of_each_head_is_found(
    reader: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    rows = [tuple(row) for row in await reader.fetch("select shard, next_offset from heads()")]

    assert rows == [(1, 0), (0, MOVES)]
    assert [tuple(row) for row in await writer.fetch("select * from heads()")] == [
        tuple(row) for row in await reader.fetch("select * from head order by shard desc")
    ]


async def test_a_shard_gets_no_second_head(writer: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.UniqueViolationError, match="shard 0 has a head"):
        await writer.execute(
            """insert into head (shard, epoch, position, topic_id, next_offset, chain, state_digest)
            values (0, 0, 0, 'topic', 0, $1, $1)""",
            DIGEST,
        )

    assert await writer.fetchval("select count(*) from head") == 2
