"""The topic of events: made once, with a partition for each shard, and kept for ever.

Read ``prepare_topic``. A topic that forgets events is refused, unless ``ALLOW_UNSAFE`` names the
setting. One that is gone though events were published is not made again: that would begin silently
anew.
"""

import logging
from collections.abc import Collection
from concurrent.futures import Future
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
    TopicDescription,
)

from exchange.durability import UnsafeSettings, check_durable, unsafe_history
from exchange.transport.commands import client_logger, unsafe_settings
from projections.publisher.standing import CannotPublish, topic_is_gone

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 10.0  # a broker answers in milliseconds; a new leader takes seconds
CONFIG: Final = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}


def admin_of(bootstrap_servers: str) -> AdminClient:
    """Return a client that asks about the topic."""
    return AdminClient({"bootstrap.servers": bootstrap_servers}, logger=client_logger)


def prepare_topic(
    admin: AdminClient,
    topic: str,
    partitions: int,
    *,
    was_published: bool,
    allow_unsafe: Collection[str],
) -> str:
    """Make the topic, or check it and give it the partitions that it lacks; return its id.

    Args:
        admin: Asks Kafka, and blocks meanwhile.
        topic: Its name.
        partitions: How many it must have at least: one for each shard.
        was_published: Whether the log says that the topic has events.
        allow_unsafe: The settings that may be unsafe.

    Raises:
        CannotPublish: It is gone, or may lose events.
        KafkaException: Kafka does not answer, or refuses.
    """
    described = describe(admin, topic)
    if described is None:
        if was_published:
            raise topic_is_gone(topic)
        _wait(admin.create_topics([NewTopic(topic, partitions, config=dict(CONFIG))])[topic])
        logger.info("Created the topic", extra={"topic": topic, "partitions": partitions})
        described = describe(admin, topic)
        if described is None:  # the broker that was asked has not heard of it yet
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    _check_settings(admin, described, allow_unsafe)
    if len(described.partitions) < partitions:
        _wait(admin.create_partitions([NewPartitions(topic, partitions)])[topic])
        logger.info("Added partitions", extra={"topic": topic, "partitions": partitions})
    return str(described.topic_id)


def describe(admin: AdminClient, topic: str) -> TopicDescription | None:
    """Return what Kafka says of a topic; None if there is none.

    Raises:
        KafkaException: Kafka does not answer, or refuses.
    """
    asked = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
    try:
        found: TopicDescription = asked[topic].result(REQUEST_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    return found


def _check_settings(
    admin: AdminClient, described: TopicDescription, allow_unsafe: Collection[str]
) -> None:
    resource = ConfigResource(ResourceType.TOPIC, described.name)
    config: Future[dict[str, ConfigEntry]] = admin.describe_configs(
        [resource], request_timeout=REQUEST_TIMEOUT_S
    )[resource]
    unsafe = unsafe_settings(described, config)
    if config.exception() is None:  # otherwise we may not ask, and that is logged
        found = {name: entry.value for name, entry in config.result().items()}
        unsafe += unsafe_history(described.name, found)
    try:
        check_durable(unsafe, allow_unsafe)
    except UnsafeSettings as error:
        raise CannotPublish(str(error)) from error


def _wait(answer: "Future[None]") -> None:
    try:
        answer.result(REQUEST_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
