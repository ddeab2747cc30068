"""Reading the topic of events as any consumer does, and holding it against the log."""

import asyncio
import json
import time
from typing import Any, Final

import asyncpg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from exchange.log.chain import chain_links
from exchange.log.reader import read_every_event, read_heads
from exchange.ports import EMPTY_CHAIN

TIMEOUT_S: Final = 40.0  # a healthy publisher takes a second


async def until_published(
    connection: asyncpg.Connection, topic: str, timeout_s: float = TIMEOUT_S
) -> None:
    """Wait until the log says that all of it is published."""
    async with asyncio.timeout(timeout_s):
        while True:
            rows = await connection.fetch(
                "select shard, position from publications where topic = $1", topic
            )
            if {row["shard"]: row["position"] for row in rows} == await read_heads(connection):
                return
            await asyncio.sleep(0.05)


def read_partition(servers: str, topic: str, partition: int) -> list[Message]:
    """Return all committed records of a partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "test",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    found: list[Message] = []
    deadline_s = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline_s:
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
        raise AssertionError(f"partition {partition} of {topic} cannot be read to its end")
    finally:
        consumer.close()


def text_of(value: bytes | str | None) -> str:
    assert isinstance(value, bytes)
    return value.decode()


def document_of(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(message.value() or b"")
    return document


async def assert_topic_is_the_log(
    connection: asyncpg.Connection, servers: str, topic: str
) -> dict[int, list[Message]]:
    """Check that the topic has each event of the log once and in order; return its records."""
    found: dict[int, list[Message]] = {}
    for shard, head in (await read_heads(connection)).items():
        messages = await asyncio.to_thread(read_partition, servers, topic, shard)
        stored = await read_every_event(connection, shard, after=0, up_to=head)
        links = chain_links(EMPTY_CHAIN, stored)
        documents = [document_of(message) for message in messages]
        told = [(d["shard"], d["position"], d["command_id"], d["chain"]) for d in documents]
        assert told == [
            (one.shard, one.position, str(one.command_id), link.hex())
            for one, link in zip(stored, links, strict=True)
        ]
        found[shard] = messages
    return found
