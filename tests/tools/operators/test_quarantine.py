"""An operator has a quarantined command decided; any other location is refused."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

from exchange.config import Settings
from exchange.domain.values import Offset, Shard
from exchange.log.identity import keyed_command_id
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher import matcher as matcher_module
from exchange.processes.matcher import run_matcher
from exchange.tools.operators.quarantine import retry_quarantined
from exchange.tools.terminal import ToolError
from exchange.transport.commands import CommandProducer, KafkaCommandLog
from exchange.transport.messages import encode_command
from tests.contracts.conftest import recreate_topic
from tests.matcher.test_matcher import place

pytestmark = pytest.mark.anyio

READ_TYPES = "select type from events order by position"
READ_SIGNERS = "select data->>'signed_by' as signer from events order by position"
SIGNER = "ab" * 16


@pytest.fixture
def one_shard(
    settings: Settings, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    chosen = replace(settings, shards=1, kafka_topic=make_topic(1))
    monkeypatch.setattr(Settings, "load", lambda: chosen)
    return chosen


@asynccontextmanager
async def matching(settings: Settings) -> AsyncIterator[None]:
    running = asyncio.create_task(run_matcher(settings, range(1), standby=False))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def events(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url)
    rows = await connection.fetch(READ_TYPES)
    await connection.close()
    return [row["type"] for row in rows]


async def begin_life(settings: Settings, base: int) -> None:
    """Have the offsets of the log count from ``base``, as after the topic was adopted."""
    servers, topic = settings.kafka_bootstrap_servers, settings.kafka_topic
    async with (
        KafkaCommandLog(servers, topic, Shard(0)) as commands,
        PostgresEventStore(settings.database_url, Shard(0)) as store,
    ):
        await store.take_over(await commands.topic_id())
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update head set offset_base = $1, next_offset = $1", base)
    await connection.execute(
        "insert into topic_lives select shard, $1, topic_id, $1 from head", base
    )
    await connection.close()


async def quarantine(settings: Settings, monkeypatch: pytest.MonkeyPatch, base: int = 0) -> None:
    """Have the first record of the topic quarantined: an order."""
    servers, topic = settings.kafka_bootstrap_servers, settings.kafka_topic
    producer = CommandProducer(servers, topic, loop=asyncio.get_running_loop())
    producer.produce(
        0,
        key="BTC-USD",
        value=encode_command(place("o1")),
        version=1,
        command_id=keyed_command_id("a", "key"),
        reply_to=b"",
        on_delivery=lambda _delivery: None,
        key_id=SIGNER,
    )
    await producer.stop()
    async with PostgresEventStore(settings.database_url, Shard(0)) as store:
        await store.count_start(Offset(base))
    with monkeypatch.context() as patched:
        patched.setattr(matcher_module, "CRASHES_MAX", 0)
        async with matching(settings), asyncio.timeout(30):
            while await events(settings) != ["CommandQuarantined"]:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("base", [0, 1_000])
async def test_a_quarantined_command_is_shown_and_decided_once(
    one_shard: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    base: int,
) -> None:
    if base:
        await begin_life(one_shard, base)
    await quarantine(one_shard, monkeypatch, base)

    async with matching(one_shard):
        await asyncio.to_thread(retry_quarantined, f"0:{base}", yes=True)
        first = capsys.readouterr().out
        await asyncio.to_thread(retry_quarantined, f"0:{base}", yes=True)
        second = capsys.readouterr().out

    connection = await asyncpg.connect(one_shard.database_url)
    signers = [row["signer"] for row in await connection.fetch(READ_SIGNERS)]
    await connection.close()
    assert signers == [SIGNER, SIGNER, None], "the retry has the key of what it retries"
    outcome = ["OrderRejected", "CommandRetried"]  # nobody has registered the instrument
    assert await events(one_shard) == ["CommandQuarantined", *outcome]
    assert "PlaceOrder(order_id='o1'" in first
    assert all(kind in first and kind in second for kind in outcome)
    assert "nothing was sent" in second


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("0:1", "has no events of a command at offset 1"),
        ("7:0", "has no events of a command at offset 0"),
        ("first", "give SHARD:OFFSET"),
    ],
)
@pytest.mark.usefixtures("one_shard")
async def test_a_place_without_a_quarantine_is_refused(named: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        await asyncio.to_thread(retry_quarantined, named, yes=True)


async def test_a_record_of_an_earlier_topic_is_told(
    one_shard: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quarantine(one_shard, monkeypatch)
    servers, topic = one_shard.kafka_bootstrap_servers, one_shard.kafka_topic
    await recreate_topic(servers, topic)

    with pytest.raises(ToolError, match="offset 0 of shard 0 was one of an earlier topic"):
        await asyncio.to_thread(retry_quarantined, "0:0", yes=True)


async def test_a_record_that_kafka_has_lost_is_told(
    one_shard: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quarantine(one_shard, monkeypatch)
    connection = await asyncpg.connect(one_shard.database_url)
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute(
        "update events set data = replace(data::text, data->>'sha256', repeat('0', 64))::json"
    )
    await connection.close()

    with pytest.raises(ToolError, match=r"is not the [0-9]+ bytes that crashed the matcher"):
        await asyncio.to_thread(retry_quarantined, "0:0", yes=True)
