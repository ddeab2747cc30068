"""The bound on open orders goes through Kafka to every shard, and the log tells of it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import pytest

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.log.command_form import commands_version
from exchange.log.reader import FoundOutcome, read_readable
from exchange.log.writing.writer import PostgresEventStore
from exchange.processes.matcher import run_matcher
from exchange.tools.operators import commands
from exchange.tools.operators.open_orders import open_orders_max
from exchange.tools.terminal import ToolError

pytestmark = pytest.mark.anyio

SHARDS = 2
READ = "select shard, type, data->>'open_orders_max' as number from events order by shard"


@pytest.fixture
def two_shards(
    settings: Settings, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    chosen = replace(settings, shards=SHARDS, kafka_topic=make_topic(SHARDS))
    monkeypatch.setattr(Settings, "load", lambda: chosen)
    return chosen


async def test_every_shard_has_the_bound_in_its_log(
    two_shards: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    matching = asyncio.create_task(run_matcher(two_shards, range(SHARDS), standby=False))
    connection = await asyncpg.connect(two_shards.database_url)
    async with asyncio.timeout(30):
        wanted = dict.fromkeys(range(SHARDS), commands_version())
        while await read_readable(connection) != wanted:  # a shard has a head before it tells
            await asyncio.sleep(0.05)
    await asyncio.to_thread(open_orders_max, 7)
    matching.cancel()
    await asyncio.wait({matching})

    rows = [tuple(row) for row in await connection.fetch(READ)]
    await connection.close()
    assert rows == [(shard, "OpenOrdersLimited", "7") for shard in range(SHARDS)]
    line = "at most 7 open orders of each client, from position 1 on."
    assert capsys.readouterr().out == f"Shard 0: {line}\nShard 1: {line}\n"


async def test_a_shard_that_nobody_decides_for_is_named(
    two_shards: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "DECIDED_WAIT_S", 0)
    for shard in range(SHARDS):
        async with PostgresEventStore(two_shards.database_url, Shard(shard)) as store:
            await store.take_over("topic")

    with pytest.raises(ToolError, match="by shard 0, where the command is in Kafka"):
        await asyncio.to_thread(open_orders_max, 7)


async def test_an_older_matcher_is_sent_nothing(two_shards: Settings) -> None:
    for shard in range(SHARDS):
        async with PostgresEventStore(two_shards.database_url, Shard(shard)) as store:
            await store.take_over("topic")
    connection = await asyncpg.connect(two_shards.database_url)
    # As builds do that know nothing of it.
    await connection.execute("update head set epoch = epoch + 1 where shard = 1")
    await connection.close()

    with pytest.raises(ToolError, match="Nothing was sent: the matcher of shard 1 "):
        await asyncio.to_thread(open_orders_max, 7)


async def test_an_outcome_without_events_is_no_success(
    two_shards: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def displaced(*_: object, **__: object) -> dict[tuple[int, int], FoundOutcome]:
        return {}

    monkeypatch.setattr(commands, "find_outcomes", displaced)
    matching = asyncio.create_task(run_matcher(two_shards, range(SHARDS), standby=False))
    connection = await asyncpg.connect(two_shards.database_url)
    async with asyncio.timeout(30):
        while len(await read_readable(connection)) < SHARDS:
            await asyncio.sleep(0.05)
    await connection.close()

    with pytest.raises(ToolError, match=r"What shard 0 did cannot be told\. Give the command ag"):
        await asyncio.to_thread(open_orders_max, 7)
    matching.cancel()
    await asyncio.wait({matching})
