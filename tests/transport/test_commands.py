"""Transactions of an outside producer do not disturb the commands."""

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from exchange.domain.values import Offset, Shard
from exchange.ports import CommandLogLost, CommandRecord
from exchange.transport import commands
from exchange.transport.commands import CommandProducer, EndsUnknown, KafkaCommandLog
from tests.conftest import Services
from tests.contracts.conftest import recreate_topic

pytestmark = pytest.mark.anyio

TIMEOUT_S = 30.0


class Outsider:
    """A producer that writes in transactions, as a mirror of another cluster does."""

    def __init__(self, servers: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": servers, "transactional.id": uuid4().hex, "linger.ms": 0}
        )
        self._producer.init_transactions(TIMEOUT_S)

    def send(self, value: bytes) -> None:
        self._producer.begin_transaction()
        self._producer.produce(self._topic, value, partition=0)
        self._producer.flush(TIMEOUT_S)

    def end(self, *, commit: bool) -> None:
        if commit:
            self._producer.commit_transaction(TIMEOUT_S)
        else:
            self._producer.abort_transaction(TIMEOUT_S)


async def read_past(log: KafkaCommandLog, offset: int) -> list[CommandRecord]:
    """Read until the log is at ``offset``, whatever holds it."""
    records: list[CommandRecord] = []
    async with asyncio.timeout(TIMEOUT_S):
        while log.next_offset < offset:
            records += await log.read(limit=10)
    return records


async def test_a_reader_of_a_topic_that_is_recreated_ends(
    services: Services, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "TOPIC_CHECK_S", 0.2)
    servers, topic = services.kafka_bootstrap_servers, make_topic()
    async with KafkaCommandLog(servers, topic, Shard(0)) as log:
        first_id = await log.topic_id()
        await log.seek(Offset(0))
        reading = asyncio.create_task(log.read(limit=10))
        await recreate_topic(servers, topic)

        with pytest.raises(CommandLogLost, match=f"had the id {first_id} and is"):
            await asyncio.wait_for(reading, TIMEOUT_S)


async def test_the_ends_of_the_partitions_that_there_are_are_known(
    services: Services, make_topic: Callable[..., str]
) -> None:
    servers, topic = services.kafka_bootstrap_servers, make_topic()
    producer = CommandProducer(servers, topic, loop=asyncio.get_running_loop())

    known: dict[int, int] = {}
    async with asyncio.timeout(TIMEOUT_S):
        while not known:  # a busy broker may not answer within the second that it has
            with pytest.raises(EndsUnknown) as raised:
                await producer.end_offsets([0, 7])
            known = dict(raised.value.known)

    assert known == {0: 0}


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "aborted"])
async def test_a_record_of_a_transaction_is_a_command_and_its_marker_is_passed_by(
    services: Services, make_topic: Callable[..., str], commit: bool
) -> None:
    servers, topic = services.kafka_bootstrap_servers, make_topic()
    outsider = await asyncio.to_thread(Outsider, servers, topic)
    await asyncio.to_thread(outsider.send, b"first")
    async with KafkaCommandLog(servers, topic, Shard(0)) as log:
        await log.seek(Offset(0))
        open_yet = await read_past(log, 1)
        await asyncio.to_thread(outsider.end, commit=commit)
        marker = await read_past(log, 2)
        end = await log.end()

        async with KafkaCommandLog(servers, topic, Shard(0)) as restarted:
            await restarted.seek(Offset(2), last=open_yet[-1].last)
            await asyncio.to_thread(outsider.send, b"second")
            later = await read_past(restarted, 3)
            await asyncio.to_thread(outsider.end, commit=True)

    assert [record.value for record in open_yet] == [b"first"]
    assert (marker, end) == ([], 2)
    assert [(record.offset, record.value) for record in later] == [(2, b"second")]
