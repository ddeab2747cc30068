"""A transaction that stays open keeps every former version of a checkpoint; nothing passes them.

What a statement passes is told by the pages that it looks at; its time would be the machine's. Each
page of the table has some ninety versions, so 8,000 moves leave ninety pages.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.processes.projector import PROJECTOR_SETTINGS
from projections.builder.rows import PUT_CHECKPOINT
from projections.stores.checkpoints import READ_LIVE, READ_LIVE_CHECKPOINTS, read_live_checkpoints
from projections.stores.postgres import (
    CREATE_CHECKPOINT,
    MOVE_CHECKPOINT,
    READ_CHECKPOINT,
    READ_CHECKPOINTS,
)

pytestmark = pytest.mark.anyio

MOVES = 8_000
PAGES_MAX = 40  # three shards are read, each by a look into index and table; plans read catalogues
PART = ("trades", 1)

BEGIN = """
insert into generations (projection, generation, state) values ('trades', 1, 'live');
insert into live (projection, generation) values ('trades', 1);
insert into checkpoints (projection, generation, shard, position, time_ms)
select 'trades', 1, shard, 0, 0 from generate_series(0, 2) as shard
"""

MOVE_QUICKLY = f"""
do $$
declare
    place tid;
begin
    select ctid into strict place from checkpoints where shard = 1;
    for number in 1..{MOVES} loop
        update checkpoints set position = position + 1 where ctid = place
        returning ctid into place;
        commit;
    end loop;
end
$$
"""


@pytest.fixture
async def begun(connection: asyncpg.Connection, engine: AsyncEngine) -> AsyncEngine:
    """Checkpoints of a live generation, read by sessions while the table is small."""
    await connection.execute(BEGIN)
    async with engine.connect() as one:
        for _ in range(10):
            await one.execute(READ_LIVE, {"projection": "trades"})
            await read_live_checkpoints(one)
    return engine


@pytest.fixture
async def projector(begun: AsyncEngine, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A projector's session, with a transaction open through many moves of a checkpoint."""
    assert begun
    connection = await asyncpg.connect(database_url, server_settings=PROJECTOR_SETTINGS)
    await connection.fetch(READ_CHECKPOINTS, *PART)
    holder = await asyncpg.connect(database_url)
    await holder.execute("begin isolation level repeatable read")
    await holder.execute("select from checkpoints")
    await connection.execute(MOVE_QUICKLY)
    yield connection
    await connection.close()
    await holder.close()


def pages_of(told: str | list[dict[str, dict[str, int]]]) -> int:
    """Return how many pages a statement looked at as it ran."""
    plan = (json.loads(told) if isinstance(told, str) else told)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_batch_passes_no_former_version_of_its_checkpoint(
    projector: asyncpg.Connection,
) -> None:
    moved = await projector.fetchval(
        f"explain (analyze, buffers, format json) {MOVE_CHECKPOINT}",
        *(*PART, 1, MOVES, MOVES + 1, 7),
    )

    assert pages_of(moved) <= PAGES_MAX
    assert await projector.fetchval(READ_CHECKPOINT, *PART, 1) == MOVES + 1


@pytest.mark.parametrize(
    ("look_up", "asked"),
    [
        (READ_LIVE, {"projection": "trades"}),
        (READ_LIVE_CHECKPOINTS, {"projections": ["trades"]}),
        (READ_LIVE_CHECKPOINTS, {"projections": None}),
    ],
)
async def test_a_reader_passes_no_former_version_of_a_checkpoint(
    begun: AsyncEngine, projector: asyncpg.Connection, look_up: TextClause, asked: dict[str, object]
) -> None:
    assert projector
    explained = text(f"explain (analyze, buffers, format json) {look_up.text}")
    async with begun.connect() as connection:
        told = await connection.scalar(explained, asked)

    assert pages_of(told) <= PAGES_MAX


async def test_the_newest_version_of_each_checkpoint_is_found(
    begun: AsyncEngine, projector: asyncpg.Connection
) -> None:
    rows = [tuple(row) for row in await projector.fetch(READ_CHECKPOINTS, *PART)]
    async with begun.connect() as connection:
        live = await read_live_checkpoints(connection)
        others = await read_live_checkpoints(connection, ["orders"])

    assert sorted(rows) == [(0, 0), (1, MOVES), (2, 0)]
    assert (live, others) == ({"trades": dict(rows)}, {})


async def test_a_part_gets_no_second_checkpoint(
    projector: asyncpg.Connection, database_url: str
) -> None:
    await projector.execute(CREATE_CHECKPOINT, *PART, 1)  # at 0, where none is any more

    assert await projector.fetchval("select count(*) from checkpoints") == 3
    await projector.execute(PUT_CHECKPOINT, *PART, 1, 9, 9)
    assert await projector.fetchval(READ_CHECKPOINT, *PART, 1) == 9

    other = await asyncpg.connect(database_url)
    await other.execute("begin")
    await other.execute(CREATE_CHECKPOINT, *PART, 3)
    await other.execute("update checkpoints set position = 1 where shard = 3")
    creating = asyncio.create_task(projector.execute(CREATE_CHECKPOINT, *PART, 3))
    await asyncio.sleep(0.2)
    assert not creating.done()
    await other.execute("commit")
    await creating
    assert await projector.fetchval(READ_CHECKPOINT, *PART, 3) == 1
    assert await projector.fetchval("select count(*) from checkpoints") == 4
    await other.close()
