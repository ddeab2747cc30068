"""The topic of commands on a real broker, and a broker that is killed."""

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from exchange.stack.host.errors import StackError
from exchange.stack.services.kafka import TOPIC_CONFIG, admin_client, ensure_topic
from tests.conftest import Services, free_ports

pytestmark = pytest.mark.anyio

REQUEST_S = 30.0


def partitions_of(services: Services, topic: str) -> int:
    admin = admin_client(services.kafka_bootstrap_servers)
    return len(admin.list_topics(timeout=REQUEST_S).topics[topic].partitions)


async def test_the_topic_never_expires_compacts_or_restamps_commands(
    services: Services, make_topic: Callable[..., str]
) -> None:
    resource = ConfigResource(ResourceType.TOPIC, make_topic())

    admin = admin_client(services.kafka_bootstrap_servers)
    config = admin.describe_configs([resource])[resource].result(REQUEST_S)

    assert {name: config[name].value for name in TOPIC_CONFIG} == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
    }


async def test_no_partition_may_be_left_without_a_matcher(
    services: Services, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(3)

    with pytest.raises(StackError, match=r"has 3 partitions, so SHARDS=2 .*: set SHARDS=3, or"):
        await ensure_topic(services.kafka_bootstrap_servers, topic, 2)
    await ensure_topic(services.kafka_bootstrap_servers, topic, 3)
    assert partitions_of(services, topic) == 3


async def test_a_topic_that_could_lose_commands_is_refused(services: Services) -> None:
    topic = f"test.{uuid.uuid4().hex}"
    config = {**TOPIC_CONFIG, "retention.ms": "604800000"}
    admin = admin_client(services.kafka_bootstrap_servers)
    admin.create_topics([NewTopic(topic, num_partitions=1, config=config)])[topic].result(REQUEST_S)

    with pytest.raises(StackError, match=rf"{topic} could lose commands: set retention.ms=-1 on"):
        await ensure_topic(services.kafka_bootstrap_servers, topic, 1)


async def test_a_kafka_that_is_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.stack.services.kafka.REQUEST_TIMEOUT_S", 0.2)

    with pytest.raises(StackError, match="Check KAFKA_BOOTSTRAP_SERVERS and that Kafka runs"):
        await ensure_topic(f"127.0.0.1:{free_ports(1)[0]}", "topic", 1)
