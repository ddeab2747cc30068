"""Each port twice: the fake of ``tests/fakes.py`` and the real adapter.

A ``…World`` is what outlives one adapter: a topic, a database, a channel. The tests
open adapters on it as processes would.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import asyncpg
import pytest
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient
from redis.asyncio import Redis

from exchange.domain.engine import State
from exchange.domain.values import Offset, Shard
from exchange.log import snapshot_store
from exchange.log.identity import keyed_command_id
from exchange.log.snapshots import FORMAT_VERSION, encode
from exchange.log.writing.writer import PostgresEventStore
from exchange.ports import CommandLog, EventStore, OutcomeChannel, StoredSnapshot
from exchange.stack.services.kafka import admin_client, ensure_topic
from exchange.transport.commands import CommandProducer, Delivery, KafkaCommandLog
from exchange.transport.messages import OutcomeMessage, decode_outcomes
from exchange.transport.outcomes import OutcomeSubscriber, RedisOutcomes
from tests.conftest import Services, new_topic
from tests.fakes import (
    MemoryCommandLog,
    MemoryDatabase,
    MemoryEventStore,
    MemoryOutcomes,
    MemoryTopic,
)

COMMAND_ID = keyed_command_id("client", "key")
ADMIN_S = 10.0
ADMIN_POLL_S = 0.05


class CommandWorld(Protocol):
    """A topic of one partition."""

    async def produce(self, value: bytes) -> Offset: ...

    async def recreate(self) -> None: ...

    async def open(self) -> CommandLog: ...


class StoreWorld(Protocol):
    """A database; ``open`` gives a writer of shard 0 that has not taken over yet."""

    async def open(self, shard: int = 0) -> EventStore: ...

    async def keep_snapshot(self, state: State) -> None:
        """Do what a snapshotter of shard 0 does."""
        ...

    async def lose_event(self, position: int) -> None:
        """Take an event out of shard 0's log, as nobody may."""
        ...


class OutcomeWorld(Protocol):
    """A channel and its listeners."""

    channel: OutcomeChannel

    async def listen(self, gateway: str) -> "asyncio.Queue[OutcomeMessage]": ...


class MemoryCommands:
    def __init__(self) -> None:
        self._topic = MemoryTopic()

    async def produce(self, value: bytes) -> Offset:
        return self._topic.produce(value, command_id=COMMAND_ID.bytes, reply_to=b"gateway:7")

    async def recreate(self) -> None:
        self._topic = MemoryTopic("another")

    async def open(self) -> CommandLog:
        return MemoryCommandLog(self._topic)


async def recreate_topic(servers: str, topic: str, partitions: int = 1) -> None:
    """Delete a topic and make it again, when every part of the broker knows each."""
    admin = admin_client(servers)
    await asyncio.to_thread(admin.delete_topics([topic])[topic].result)
    await asyncio.to_thread(_await, admin, topic, there=False)
    await ensure_topic(servers, topic, partitions)
    await asyncio.to_thread(_await, admin, topic, there=True)


def _await(admin: AdminClient, topic: str, *, there: bool) -> None:
    topics = TopicCollection([topic])
    while (topic in admin.list_topics(timeout=ADMIN_S).topics) != there or (
        there and admin.describe_topics(topics)[topic].exception() is not None
    ):
        time.sleep(ADMIN_POLL_S)


class KafkaCommands:
    def __init__(
        self, servers: str, topic: str, producer: CommandProducer, opened: AsyncExitStack
    ) -> None:
        self._servers = servers
        self._topic = topic
        self._producer = producer
        self._opened = opened

    async def produce(self, value: bytes) -> Offset:
        delivered: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._producer.produce(
            0,
            key="BTC-USD",
            value=value,
            command_id=COMMAND_ID,
            reply_to=b"gateway:7",
            version=1,
            on_delivery=delivered.set_result,
        )
        delivery = await delivered
        assert delivery.error is None
        assert delivery.shard == 0
        return Offset(delivery.offset)

    async def recreate(self) -> None:
        await recreate_topic(self._servers, self._topic)

    async def open(self) -> CommandLog:
        log = KafkaCommandLog(self._servers, self._topic, Shard(0))
        return await self._opened.enter_async_context(log)


class MemoryStores:
    def __init__(self) -> None:
        self._database = MemoryDatabase()

    async def open(self, shard: int = 0) -> EventStore:
        return MemoryEventStore(self._database, Shard(shard))

    async def keep_snapshot(self, state: State) -> None:
        of_itself = (state.digest, state.time_ms)
        snapshot = StoredSnapshot(state.position, FORMAT_VERSION, encode(state), *of_itself)
        self._database.snapshots.setdefault(0, []).append(snapshot)

    async def lose_event(self, position: int) -> None:
        events = self._database.events[0]
        events[:] = [e for e in events if e.position != position]


class PostgresStores:
    """Opens writers on one database; a shard's next one waits until the last is closed."""

    def __init__(self, database_url: str, opened: AsyncExitStack) -> None:
        self._database_url = database_url
        self._opened = opened

    async def open(self, shard: int = 0) -> EventStore:
        store = PostgresEventStore(self._database_url, Shard(shard))
        return await self._opened.enter_async_context(store)

    async def keep_snapshot(self, state: State) -> None:
        connection = await asyncpg.connect(self._database_url)
        await snapshot_store.store(connection, 0, state, encode(state))
        await connection.close()

    async def lose_event(self, position: int) -> None:
        connection = await asyncpg.connect(self._database_url)
        await connection.execute("alter table events disable trigger refuse_changes")
        await connection.execute("delete from events where shard = 0 and position = $1", position)
        await connection.close()


class MemoryChannel:
    def __init__(self) -> None:
        self._outcomes = MemoryOutcomes()
        self.channel: OutcomeChannel = self._outcomes

    async def listen(self, gateway: str) -> "asyncio.Queue[OutcomeMessage]":
        messages: asyncio.Queue[OutcomeMessage] = asyncio.Queue()
        self._outcomes.listen(gateway, lambda data: messages.put_nowait(decode_outcomes(data)))
        return messages


class RedisChannel:
    def __init__(self, redis: "Redis", listeners: asyncio.TaskGroup) -> None:
        self._redis = redis
        self._listeners = listeners
        self.tasks: list[asyncio.Task[None]] = []
        self.channel: OutcomeChannel = RedisOutcomes(redis)

    async def listen(self, gateway: str) -> "asyncio.Queue[OutcomeMessage]":
        messages: asyncio.Queue[OutcomeMessage] = asyncio.Queue()
        subscriber = OutcomeSubscriber(self._redis, gateway, messages.put_nowait)
        self.tasks.append(self._listeners.create_task(subscriber.run()))
        await subscriber.subscribed.wait()
        return messages


@pytest.fixture(params=["memory", "kafka"])
async def commands(request: pytest.FixtureRequest) -> AsyncIterator[CommandWorld]:
    if request.param == "memory":
        yield MemoryCommands()
        return
    services: Services = request.getfixturevalue("services")
    topic = new_topic(services)
    servers = services.kafka_bootstrap_servers
    producer = CommandProducer(servers, topic, loop=asyncio.get_running_loop())
    await producer.start()
    async with AsyncExitStack() as opened:
        yield KafkaCommands(servers, topic, producer, opened)
    await producer.stop()


@pytest.fixture(params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[StoreWorld]:
    if request.param == "memory":
        yield MemoryStores()
        return
    async with AsyncExitStack() as opened:
        yield PostgresStores(request.getfixturevalue("database_url"), opened)


@pytest.fixture(params=["memory", "redis"])
async def outcomes(request: pytest.FixtureRequest) -> AsyncIterator[OutcomeWorld]:
    if request.param == "memory":
        yield MemoryChannel()
        return
    redis_url = request.getfixturevalue("redis_url")
    async with Redis.from_url(redis_url) as redis, asyncio.TaskGroup() as listeners:
        world = RedisChannel(redis, listeners)
        yield world
        for task in world.tasks:
            task.cancel()
