"""A command that has no company is sent at once; a burst goes together, and in order."""

import asyncio
import time
from collections.abc import Callable, Iterable
from uuid import uuid4

import pytest
from confluent_kafka import KafkaException

from exchange.domain.values import Offset, Shard
from exchange.transport import commands
from exchange.transport.commands import CommandProducer, Delivery, KafkaCommandLog, NotProduced
from tests.conftest import Services

pytestmark = pytest.mark.anyio

TIMEOUT_S = 30.0
BURST = 200


def produce(producer: CommandProducer, value: bytes, reports: list[Delivery]) -> None:
    producer.produce(
        0,
        key="BTC-USD",
        value=value,
        command_id=uuid4(),
        reply_to=b"",
        version=1,
        on_delivery=reports.append,
    )


async def test_a_burst_is_in_kafka_in_its_order(
    services: Services, make_topic: Callable[..., str]
) -> None:
    servers, topic = services.kafka_bootstrap_servers, make_topic()
    producer = CommandProducer(servers, topic, loop=asyncio.get_running_loop())
    await producer.start()
    reports: list[Delivery] = []
    sent = [b"%d" % number for number in range(BURST)]
    for value in sent:
        produce(producer, value, reports)
        if len(value) == 1:
            await asyncio.sleep(0.003)  # some alone, most in one go

    async with asyncio.timeout(TIMEOUT_S):
        await producer.confirmed()
        async with KafkaCommandLog(servers, topic, Shard(0)) as log:
            await log.seek(Offset(0))
            found: list[bytes] = []
            while len(found) < BURST:
                found += [record.value for record in await log.read(BURST)]
    await producer.stop()

    assert found == sent
    assert [report.offset for report in reports] == list(range(BURST))


def handed_over(producer: CommandProducer, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the values that Kafka's client has got, from now on."""
    values: list[bytes] = []
    hand_over = producer._hand_over

    def keep(one: commands._Gathered) -> None:
        values.append(one.value)
        hand_over(one)

    monkeypatch.setattr(producer, "_hand_over", keep)
    return values


async def test_a_lone_command_waits_for_no_company(
    services: Services, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = make_topic()
    loop = asyncio.get_running_loop()
    producer = CommandProducer(services.kafka_bootstrap_servers, topic, loop=loop)
    values = handed_over(producer, monkeypatch)
    company: Iterable[bytes] = [b"%d" % number for number in range(commands.GATHER_COMMANDS)]
    for value in company:
        produce(producer, value, [])
    alone = list(values)
    produce(producer, b"one too many", [])
    together = list(values)
    time.sleep(commands.GATHER_WITHIN_S)  # noqa: ASYNC251  no poll comes in between
    await producer.stop()
    produce(producer, b"later", [])

    assert alone == together == company
    assert values == [*company, b"one too many", b"later"]
    await producer.stop()


async def test_what_follows_a_command_that_is_refused_is_not_sent_either(
    services: Services, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    producer = CommandProducer(services.kafka_bootstrap_servers, make_topic(), loop=loop)
    monkeypatch.setattr(commands, "GATHER_WITHIN_S", 1_000.0)
    reports: list[list[Delivery]] = [[] for _ in range(commands.GATHER_COMMANDS + 4)]
    for number, report in enumerate(reports):
        produce(producer, b"%d" % number, report)
    hand_over = producer._hand_over

    def refuse(one: commands._Gathered) -> None:
        if one.value == b"%d" % (commands.GATHER_COMMANDS + 1):
            raise BufferError("planted")
        hand_over(one)

    monkeypatch.setattr(producer, "_hand_over", refuse)
    async with asyncio.timeout(TIMEOUT_S):
        await producer.confirmed()
    await producer.stop()

    refused = [report[0].never_sent for report in reports]
    assert refused == [False] * (commands.GATHER_COMMANDS + 1) + [True] * 3


async def test_no_more_wait_than_the_client_has_room_for(
    services: Services, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    producer = CommandProducer(services.kafka_bootstrap_servers, make_topic(), loop=loop)
    monkeypatch.setattr(commands, "PRODUCER_QUEUE_MESSAGES", 20)
    for number in range(20):
        produce(producer, b"%d" % number, [])

    with pytest.raises(NotProduced, match="too many"):
        produce(producer, b"20", [])

    assert producer.queued == 20
    await producer.stop()


async def test_a_client_that_fails_refuses_a_lone_command(
    services: Services, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    producer = CommandProducer(services.kafka_bootstrap_servers, make_topic(), loop=loop)

    def fail(one: commands._Gathered) -> None:  # noqa: ARG001
        raise KafkaException

    monkeypatch.setattr(producer, "_hand_over", fail)
    with pytest.raises(NotProduced):
        produce(producer, b"0", [])
    assert producer.queued == 0
    await producer.stop()
