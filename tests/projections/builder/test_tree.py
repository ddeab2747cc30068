"""The builder keeps the tree over the log beside all else, up to where the log is damaged."""

import asyncio
import logging
import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.audit.tree import BLOCK_EVENTS
from projections.builder.giving_way import GivingWay
from projections.builder.tree import TreeKeeper
from projections.builder.working import Connect
from projections.lifecycle.definitions import Definitions
from tests.projections.builder.test_builder import END_S, building_in
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

COUNT = "select shard, count(*) from tree_blocks group by shard order by shard"


async def test_a_builder_keeps_the_tree_of_each_shard_up_to_where_its_log_is_damaged(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken: set[str] = set()
    whole: dict[int, int] = {}
    for shard in (0, 1):
        async with LogWriter.open(database_url, shard, taken=taken) as writer:
            await writer.append(registrations(shard))
            while writer.position < 3 * BLOCK_EVENTS:
                await writer.append_random(random.Random(5), 300)
        whole[shard] = writer.position // BLOCK_EVENTS

    async def kept() -> dict[int, int]:
        return dict(await connection.fetch(COUNT))

    async with building_in(connect, engine, redis):
        async with asyncio.timeout(END_S):
            while await kept() != whole:
                await asyncio.sleep(0.05)
    await connection.execute("delete from tree_blocks")
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute("delete from events where shard = 0 and position = 300")
    keeper = TreeKeeper(connect, GivingWay(Definitions([])))
    with caplog.at_level(logging.CRITICAL):
        # In a task of its own: the loop heeds whatever cancelled the task that tests share.
        assert await asyncio.create_task(keeper.grow(connection))
        assert not await asyncio.create_task(keeper.grow(connection))

    assert await kept() == {1: whole[1]}
    (told,) = caplog.records
    assert (told.message, told.__dict__["shard"]) == (
        "The tree over a shard ends where its log is damaged",
        0,
    )
