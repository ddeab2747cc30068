"""One Apache Kafka broker on the loopback address, and the topic of commands.

The broker is its own controller (KRaft). It answers before its disk has synced: what it took
survives a killed broker, not a power cut. ``ensure_topic`` is for any Kafka: the commands are the
only copy of what clients asked until the matcher has read them, so the topic must never expire,
compact or restamp them.
"""

import asyncio
import logging
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from exchange.config import LOOPBACK
from exchange.durability import check_durable, unsafe_topic
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.errors import StackError
from exchange.stack.host.prerequisites import java

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 60.0  # three seconds when healthy; longer after a crash with much data
FORMAT_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 15.0
CLUSTER_ID: Final = "ZXhjaGFuZ2UtbG9jYWwtMQ"  # any 16 bytes in base64; fixed, as there is one

TOPIC_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}

PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller_port}
listeners=CLIENT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=CLIENT://{host}:{advertised_port},CONTROLLER://{host}:{controller_port}
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=1000
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
"""

# Small heaps on a shared machine: the plain collector and the quick compiler halve the processor
# time of a broker, and of the tool that formats its disk.
PLAIN_JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
JVM_OPTIONS: Final = (
    *PLAIN_JVM,
    "-Xms256m",
    "-Xmx512m",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dlog4j2.level=INFO",  # an unpacked Kafka logs with log4j2, not slf4j-simple
)


@dataclass(frozen=True, slots=True)
class Kafka:
    """A broker with its data in ``directory``."""

    directory: Path
    jars: Path
    port: int
    controller_port: int
    advertised_port: int
    process: ManagedProcess

    @classmethod
    def at(
        cls,
        directory: Path,
        *,
        jars: Path,
        port: int,
        controller_port: int,
        log_path: Path,
        pid_path: Path,
        advertised_port: int | None = None,
    ) -> "Kafka":
        """Describe the broker; clients are told to come to ``advertised_port`` if it is given."""
        argv = (java(), *JVM_OPTIONS, "-cp", f"{jars}/*", "kafka.Kafka", "server.properties")
        process = ManagedProcess("Kafka", argv, log_path=log_path, pid_path=pid_path, cwd=directory)
        return cls(directory, jars, port, controller_port, advertised_port or port, process)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        await asyncio.to_thread(self._prepare)
        await self.process.start()
        await self.process.until_ready(_until_answering(self.address), READY_TIMEOUT_S)

    async def stop(self) -> None:
        await self.process.stop()

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        properties = PROPERTIES.format(
            host=LOOPBACK,
            port=self.port,
            advertised_port=self.advertised_port,
            controller_port=self.controller_port,
        )
        (self.directory / "server.properties").write_text(properties)
        if not (self.directory / "data" / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        tool = ("kafka.tools.StorageTool", "format", "--standalone", "--ignore-formatted")
        command = ("-cp", f"{self.jars}/*", *tool, "-t", CLUSTER_ID, "-c", "server.properties")
        argv = [java(), *PLAIN_JVM, *command]
        done = subprocess.run(
            argv,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"Kafka cannot use {self.directory}: {done.stderr.strip()[-300:]}")


def admin_client(bootstrap_servers: str) -> AdminClient:
    """Return an administration client that reconnects fast and leaves logging to us."""
    return AdminClient(
        {
            "bootstrap.servers": bootstrap_servers,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,  # a broker that is still starting refuses connections
        }
    )


async def _until_answering(address: str) -> None:
    """Return when the broker at ``address`` answers requests."""
    admin = admin_client(address)
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not await asyncio.to_thread(_answers, admin, 1.0):
        if time.monotonic() > deadline_s:
            return  # the caller's own time is up too, and it says so


def _answers(admin: AdminClient, timeout_s: float) -> bool:
    try:
        return bool(admin.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


async def ensure_topic(
    bootstrap_servers: str, topic: str, partitions: int, *, allow_unsafe: Collection[str] = ()
) -> None:
    """Create ``topic``, or check the existing one; ``growing`` adds partitions that it lacks.

    Raises:
        StackError: Kafka does not answer, the topic could lose commands, or it has more than
            ``partitions``, and commands on the others would not be decided.
        UnsafeSettings: The topic could lose acknowledged commands, and nobody allowed it.
    """
    await asyncio.to_thread(_ensure_topic, bootstrap_servers, topic, partitions, allow_unsafe)


def _ensure_topic(
    bootstrap_servers: str, topic: str, partitions: int, allow_unsafe: Collection[str]
) -> None:
    admin = admin_client(bootstrap_servers)
    try:
        known = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics
        if topic not in known:
            _create(admin, topic, partitions)
            logger.info("Created the topic", extra={"topic": topic, "partitions": partitions})
            return
        partitions_found = known[topic].partitions.values()
        replicas = max(len(partition.replicas) for partition in partitions_found)
        _check_config(admin, topic, replicas, allow_unsafe)
        found = len(known[topic].partitions)
        if found > partitions:
            raise StackError(
                f"Kafka topic {topic} has {found} partitions, so SHARDS={partitions} would leave"
                f" instruments without a matcher: set SHARDS={found}, or name another topic in"
                " KAFKA_TOPIC for an empty database."
            )
    except KafkaException as error:
        raise _failed(bootstrap_servers, error) from error


def count_partitions(bootstrap_servers: str, topic: str) -> int:
    """Return how many partitions a topic that exists has.

    Raises:
        StackError: Kafka does not answer.
    """
    try:
        known = admin_client(bootstrap_servers).list_topics(topic, timeout=REQUEST_TIMEOUT_S)
        return len(known.topics[topic].partitions)
    except KafkaException as error:
        raise _failed(bootstrap_servers, error) from error


def add_partitions(bootstrap_servers: str, topic: str, partitions: int) -> None:
    """Raise the number of a topic's partitions to ``partitions``.

    Raises:
        StackError: Kafka does not answer, or refuses.
    """
    try:
        admin = admin_client(bootstrap_servers)  # kept until the answer comes
        grown = admin.create_partitions([NewPartitions(topic, partitions)])
        grown[topic].result(REQUEST_TIMEOUT_S)
    except KafkaException as error:
        raise _failed(bootstrap_servers, error) from error


def _failed(bootstrap_servers: str, error: KafkaException) -> StackError:
    return StackError(
        f"Kafka at {bootstrap_servers} failed: {error.args[0].str()}."
        " Check KAFKA_BOOTSTRAP_SERVERS and that Kafka runs."
    )


def _create(admin: AdminClient, topic: str, partitions: int) -> None:
    new = NewTopic(topic, num_partitions=partitions, config=dict(TOPIC_CONFIG))
    admin.create_topics([new])[topic].result(REQUEST_TIMEOUT_S)


def _check_config(
    admin: AdminClient, topic: str, replicas: int, allow_unsafe: Collection[str]
) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    described: dict[str, ConfigEntry] = admin.describe_configs([resource])[resource].result(
        REQUEST_TIMEOUT_S
    )
    found = {name: entry.value for name, entry in described.items()}
    check_durable(unsafe_topic(topic, found, replicas=replicas), allow_unsafe)
    wrong = _differences(found)
    if wrong:
        raise StackError(
            f"Kafka topic {topic} could lose commands: set {', '.join(wrong)} on it,"
            " or name another topic in KAFKA_TOPIC."
        )


def _differences(found: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in TOPIC_CONFIG.items() if found.get(name) != value]
