"""What a publisher does with a topic as it finds it."""

import asyncio
import logging
import random
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

import asyncpg
import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.config import Settings
from exchange.log.documents.schemas import schemas
from exchange.log.reader import read_chain
from exchange.ports import EMPTY_CHAIN
from exchange.stack.services.kafka import admin_client
from exchange.tools.operators.republish import republish
from projections.publisher import publisher as module
from projections.publisher.published import read_publications
from projections.publisher.publisher import Publisher
from projections.publisher.records import Ends, Written
from projections.publisher.standing import CannotPublish, check_standing
from tests.conftest import Services
from tests.contracts.conftest import recreate_topic
from tests.projections.logs import LogWriter, registrations
from tests.projections.publisher.topics import (
    TIMEOUT_S,
    assert_topic_is_the_log,
    document_of,
    text_of,
    until_published,
)

pytestmark = pytest.mark.anyio

COMMANDS: Final = 60
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
VALIDATORS: Final = {name: Draft202012Validator(one) for name, one in schemas().items()}

Publishing = Callable[..., AbstractAsyncContextManager[None]]


@pytest.fixture
def topic() -> str:
    return f"events.{uuid.uuid4().hex}"


@pytest.fixture
def publishing(
    engine: AsyncEngine, services: Services, topic: str, monkeypatch: pytest.MonkeyPatch
) -> Publishing:
    """Return a context in which a publisher runs, and soon looks again at what it refused."""
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.1)

    @asynccontextmanager
    async def run(shards: int = 2) -> AsyncIterator[None]:
        publisher = Publisher(engine, services.kafka_bootstrap_servers, topic, shards)
        task = asyncio.create_task(publisher.run())
        try:
            yield
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended

    return run


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.05)


async def until_refused(connection: asyncpg.Connection, shard: int, why: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            one = (await read_publications(connection)).get(shard)
            if one is not None and one.failure is not None and why in one.failure:
                return
            await asyncio.sleep(0.05)


def set_on_topic(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(TIMEOUT_S)


def leave_a_transaction_open(servers: str, topic: str) -> Producer:
    """Begin what a publisher of partition 0 begins, and end as if it was killed then."""
    killed = Producer(
        {"bootstrap.servers": servers, "transactional.id": f"exchange-publisher.{topic}.0"}
    )
    killed.init_transactions(TIMEOUT_S)
    killed.begin_transaction()
    for _ in range(200):  # more than is looked at first from the end
        killed.produce(topic, b"half", partition=0)
    assert killed.flush(TIMEOUT_S) == 0
    return killed


async def test_every_event_is_published_once_and_goes_on_behind_what_was_aborted(
    publishing: Publishing,
    services: Services,
    database_url: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers, chance = services.kafka_bootstrap_servers, random.Random(1)
    connection = await asyncpg.connect(database_url)
    async with (
        LogWriter.open(database_url, 0) as first,
        LogWriter.open(database_url, 1) as second,
    ):
        for writer in (first, second):
            await writer.append(registrations(writer.shard))
            await writer.append_random(chance, COMMANDS)
        await connection.execute("insert into traces values (1, 3, $1)", TRACEPARENT)
        async with publishing():
            await until_published(connection, topic)
            await first.append_random(chance, COMMANDS)
            await until_published(connection, topic)
        monkeypatch.setattr(module, "LOOK_AGAIN_S", 2 * TIMEOUT_S)  # who was fenced stays away
        caplog.set_level(logging.INFO, module.__name__)
        async with publishing(), publishing():
            await until(lambda: caplog.text.count("Publishing goes on") >= 4)
            for _ in range(3):
                await first.append_random(chance, COMMANDS)
            await until_published(connection, topic)
            await until(lambda: "Another publisher took over" in caplog.text)
        killed = leave_a_transaction_open(servers, topic)
        await first.append_random(chance, COMMANDS)
        async with publishing():
            await until_published(connection, topic)

    records = await assert_topic_is_the_log(connection, servers, topic)
    log_id = await connection.fetchval("select id from log")
    assert set(records) == {0, 1}
    for message in records[0] + records[1]:
        is_sampled = message is records[1][2]
        assert_is_cloud_event(
            message, log_id, {"ce_traceparent": TRACEPARENT} if is_sampled else {}
        )
    del killed
    await connection.close()


def assert_is_cloud_event(message: Message, log_id: str, more: dict[str, str]) -> None:
    told = document_of(message)
    VALIDATORS[told["type"]].validate(told)
    headers = {name: text_of(value) for name, value in dict(message.headers() or ()).items()}
    key = message.key()
    assert (key and text_of(key)) == headers.pop("ce_subject", None)
    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": f"{told['shard']}-{told['position']}",
        "ce_source": f"/exchange/{log_id}/{told['shard']}",
        "ce_type": f"exchange.{told['type']}.v1",
        "ce_time": told["time"],
        "ce_sequence": f"{told['position']:020}",
        "ce_dataschema": f"urn:exchange:event:{told['type']}:v1",
        "ce_chain": told["chain"],
        "content-type": "application/json",
        **more,
    }
    assert message.partition() == told["shard"]


async def delete_everything(admin: AdminClient, topic: str) -> None:
    """Delete the records of partition 0, once the broker goes by the policy that was set last."""
    everything = TopicPartition(topic, 0, -1)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                admin.delete_records([everything])[everything].result(TIMEOUT_S)
                return
            except KafkaException as error:
                if error.args[0].code() != KafkaError.POLICY_VIOLATION:
                    raise
            await asyncio.sleep(0.1)


async def test_a_topic_that_does_not_go_with_the_log_is_left_alone_until_somebody_decides(
    publishing: Publishing,
    services: Services,
    database_url: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers, chance = services.kafka_bootstrap_servers, random.Random(2)
    settings = replace(
        Settings.load({}, dotenv=None), database_url=database_url, kafka_events_topic=topic
    )
    monkeypatch.setattr(Settings, "load", lambda: settings)
    admin, connection = admin_client(servers), await asyncpg.connect(database_url)
    opened = AsyncExitStack()
    writer = await opened.enter_async_context(LogWriter.open(database_url))
    await writer.append(registrations(0))
    await writer.append_random(chance, COMMANDS)
    async with publishing(1):
        await until_published(connection, topic)

    for name, unsafe, safe in (
        ("retention.ms", "86400000", "-1"),
        ("retention.bytes", "1000000", "-1"),
        ("cleanup.policy", "compact", "delete"),
    ):
        await asyncio.to_thread(set_on_topic, admin, topic, name, unsafe)
        async with publishing(1):
            await until_refused(connection, 0, f"{name} is {unsafe}")
        await asyncio.to_thread(set_on_topic, admin, topic, name, safe)

    await delete_everything(admin, topic)
    async with publishing(1):
        await until_refused(connection, 0, "partition 0 of")
        await asyncio.to_thread(republish, yes=True)
        await until_published(connection, topic)
        await assert_topic_is_the_log(connection, servers, topic)
        await recreate_topic(servers, topic)
        await writer.append_random(chance, COMMANDS)
        await until_refused(connection, 0, "is empty, and the log says")

    await opened.aclose()
    await asyncio.to_thread(admin.delete_topics([topic])[topic].result, TIMEOUT_S)
    async with publishing(1):
        await until_refused(connection, 0, "does not exist, and the log says")
    await connection.close()


async def test_what_is_in_a_partition_is_held_against_the_log(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    async with LogWriter.open(database_url) as writer:
        first = await writer.append(registrations(0))
        await writer.append_random(random.Random(3), COMMANDS)
    chain = await read_chain(connection, 0, len(first) + 5)  # within a batch
    at, head = len(first) + 5, writer.position

    async def standing(ends: Ends | None, published: int = 0) -> tuple[int, bytes]:
        return await check_standing(
            connection, "events", 0, ends, log_id="mine", published=published
        )

    def ends(last: Written, first: int = 1, *, was_cut: bool = False) -> Ends:
        return Ends(Written("mine", 0, first, EMPTY_CHAIN), last, was_cut)

    whole = Written("mine", 0, at, chain)
    assert await standing(None) == (0, EMPTY_CHAIN)
    assert await standing(ends(whole), published=head) == (at, chain)
    assert await standing(ends(whole, 3, was_cut=True)) == (at, chain)
    for found, why in (
        (ends(whole, 3), "begins with position 3: the events before it are missing"),
        (
            ends(structs.replace(whole, chain=EMPTY_CHAIN)),
            f"at position {at} or before: the hash chains",
        ),
        (
            ends(structs.replace(whole, position=head + 1)),
            f"and the log ends at {head}. If the log was",
        ),
        (ends(structs.replace(whole, log_id="other")), f"position {at} of shard 0 of log other"),
        (ends(structs.replace(whole, shard=1)), f"position {at} of shard 1 of log mine"),
    ):
        with pytest.raises(CannotPublish, match=re.escape(why)):
            await standing(found)
    with pytest.raises(CannotPublish, match="empty, and the log says that events up to position 7"):
        await standing(None, published=7)
    await connection.close()
