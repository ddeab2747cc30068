"""Commands in Kafka: how gateways send them and how a matcher reads them.

One partition is one shard. The matcher's offset is in the head row, never in a
consumer group: ``KafkaCommandLog`` assigns its partition there, with the leader epoch of
the last decided record (KIP-320), and reads that record again: a partition that does not
have it any more was cut, however far it has grown since.

A record is a command as soon as it is in the topic, whatever becomes of its producer's transaction
(``read_uncommitted``): a gateway begins none, and a transaction that somebody leaves open must not
stop a shard. The markers that end transactions take offsets too, and are passed by.

A command is handed to Kafka's client at once while few come, and with its company otherwise.

``CommandProducer`` polls librdkafka for delivery reports from the event loop, every few
milliseconds while some are outstanding: one poll takes a burst of them, and no thread competes with
the loop for the interpreter.
"""

import asyncio
import itertools
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)
from msgspec import Struct

from exchange.domain.values import Offset, Shard
from exchange.durability import Unsafe, check_durable, unsafe_topic
from exchange.ports import CommandLogLost, CommandRecord, CommandsCut, LastRecord
from exchange.transport.messages import version_header

T = TypeVar("T")

logger = logging.getLogger(__name__)
client_logger = logging.getLogger("librdkafka")

POLL_S: Final = 0.5  # how long a stop may wait for the reading thread
TOPIC_CHECK_S: Final = 5.0  # longest that a matcher goes on with a topic that was recreated
TOPIC_CHECK_TIMEOUT_S: Final = 1.0  # no command is read meanwhile: one thread does both
REQUEST_TIMEOUT_S: Final = 10  # a broker answers in milliseconds; a new leader takes seconds
# Two coalesced requests may wait one after the other, so each may take less than half of the 2 s
# that a client waits.
END_TIMEOUT_S: Final = 0.8
CONSUMER_QUEUE_KIB: Final = 16 * 1024  # records read ahead of the matcher; Kafka keeps the rest
FETCH_AGAIN_MS: Final = 2  # a record is fetched at most this much after the broker has it
PRODUCER_QUEUE_MESSAGES: Final = 20_000  # ten seconds of 2,000 a second; then clients get 503
DELIVERY_TIMEOUT_MS: Final = 1_500  # leaves the gateway time to answer 503 within two seconds
POLL_BUSY_S: Final = 0.002  # a report is needed only when an outcome is late or not waited for
POLL_IDLE_S: Final = 0.1  # only the client's log messages can come
UNKNOWN_EPOCH: Final = -1  # the client's own word for it
# A request costs the same for one command as for many, so under load commands wait for company,
# until the next poll. A command that hardly has any is sent at once.
GATHER_COMMANDS: Final = 8
GATHER_WITHIN_S: Final = 0.02  # 400 a second: a request for each costs a twentieth of a core
LINGER_MS: Final = 0.1  # what is handed over in one go becomes one request

COMMAND_ID_HEADER: Final = "command-id"
REPLY_TO_HEADER: Final = "reply-to"
TRACE_HEADER: Final = "traceparent"  # of sampled commands only
KEY_ID_HEADER: Final = "key-id"  # of the key by which the command was signed
VERSION_HEADER: Final = "version"  # of the command's form, and the build that sent it

CLIENT_LINE_PARTS: Final = 3
SAID_AGAIN_S: Final = 5.0
SENTENCES_MAX: Final = 100  # that are remembered; there are few kinds

WAY_OUT: Final = (
    "Restore the topic, or go on with what it has by `exchange adopt-topic`; what was decided is"
    " whole."
)

# Errors that concern one connection and that the client mends by itself.
TRANSIENT: Final = frozenset(
    (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)
)

# At the consumer's offset the broker has nothing any more, or a record that a later leader wrote.
CUT: Final = frozenset(
    (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION)
)

# A restarted broker leads in a later epoch than the client knows.
OUTDATED: Final = frozenset(
    (
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    )
)


# Our user may not read a topic's settings.
FORBIDDEN: Final = frozenset(
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
)


class ClientLines(logging.Filter):
    """Makes fields of what the Kafka client puts before its sentences: kind, client and thread.

    A sentence that comes again within ``SAID_AGAIN_S``, numbers aside, is left out: the client
    reports a broker that is away 20 times a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == CLIENT_LINE_PARTS:
            kind, client, text = map(str, record.args)
            prefix, separator, sentence = text.partition("]: ")
            has_thread = bool(separator) and prefix.startswith("[thrd:")
            record.msg, record.args = (sentence if has_thread else text), None
            record.kind, record.client = kind, client
            if has_thread:
                record.client_thread = prefix.removeprefix("[thrd:")
            return self._is_news(f"{kind} {client} {sentence or text}")
        return True

    def _is_news(self, sentence: str) -> bool:
        known, now_s = re.sub(r"\d+", "", sentence), time.monotonic()
        if now_s - self._told_s.get(known, -SAID_AGAIN_S) < SAID_AGAIN_S:
            return False
        if len(self._told_s) >= SENTENCES_MAX:
            self._told_s.clear()
        self._told_s[known] = now_s
        return True


client_logger.addFilter(ClientLines())


def below_first(shard: int, offset: int, first: int) -> str:
    """Say that a log cannot go on, since Kafka no longer has what it would decide next."""
    return (
        f"the head of shard {shard} is at offset {offset}, below Kafka's first record {first}:"
        f" the commands from {offset} to {first - 1} were deleted, and this log has not decided"
        " them. If there is a newer backup of the log, restore that."
    )


class KafkaCommandLog:
    """The commands of one shard: a ``CommandLog``.

    ``topic_id`` refuses a topic whose settings could lose commands, unless ``allow_unsafe`` names
    them. With None, for those that only read, the settings are not checked.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        shard: Shard,
        *,
        allow_unsafe: Collection[str] | None = None,
    ) -> None:
        self._topic = topic
        self._allow_unsafe = allow_unsafe
        self._shard = shard
        self._bootstrap_servers = bootstrap_servers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"commands-{shard}")
        self._stopping = False
        self._base = 0
        self.next_offset = Offset(0)
        self._topic_id: str | None = None  # as ``topic_id`` last returned it
        self._check_at_s = 0.0
        self._is_missing = False  # the last check found no such topic
        self._admin: AdminClient | None = None  # asks whether the topic still has that id
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "unused",  # required by the client; no group is ever joined
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_uncommitted",
                "enable.partition.eof": True,  # tells where the partition ends, markers included
                "check.crcs": True,
                "queued.max.messages.kbytes": CONSUMER_QUEUE_KIB,
                # Fetch when the queue is empty, not all the time: one request for a batch, not one
                # for every few commands. Then look again soon (the default is a second).
                "queued.min.messages": 1,
                "fetch.queue.backoff.ms": FETCH_AGAIN_MS,
                "fetch.error.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1_000,
            },
            logger=client_logger,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        await asyncio.to_thread(self._close)

    async def topic_id(self) -> str:
        """Return the topic's id, by which ``read`` then knows a topic that was made anew.

        Raises:
            CommandLogLost: Kafka does not answer, or has no such topic.
            UnsafeSettings: A setting could lose commands, and ``allow_unsafe`` does not name it.
        """
        self._topic_id = str((await asyncio.to_thread(self._describe_topic)).topic_id)
        return self._topic_id

    async def partitions(self) -> int:
        """Return how many partitions the topic has."""
        return len((await asyncio.to_thread(self._describe_topic)).partitions)

    async def span(self) -> tuple[int, int]:
        """Return where the partition begins and ends, as Kafka counts its offsets."""
        return await self._in_thread(self._watermarks)

    async def seek(self, offset: Offset, *, base: int = 0, last: LastRecord | None = None) -> None:
        self._base = base
        await self._in_thread(self._seek, offset, last)
        self.next_offset = offset

    async def end(self) -> Offset:
        return Offset(self._base + (await self._in_thread(self._watermarks))[1])

    async def read(self, limit: int) -> list[CommandRecord]:
        return await self._in_thread(self._read, limit)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _watermarks(self) -> tuple[int, int]:
        partition = TopicPartition(self._topic, self._shard)
        found = self._consumer.get_watermark_offsets(partition, REQUEST_TIMEOUT_S)
        if found is None:
            raise CommandLogLost(f"Kafka does not tell where partition {self._shard} ends")
        return found

    def _seek(self, offset: Offset, last: LastRecord | None) -> None:
        begin, end = self._watermarks()
        if self._base + end < offset:
            raise self._cut(offset, f"the Kafka partition ends at {end}")
        if offset < self._base + begin:
            why = below_first(self._shard, offset, self._base + begin)
            raise CommandsCut(f"{why} {WAY_OUT}")
        # Nothing was decided yet, or the record was deleted after it was.
        if last is None or last.offset < self._base + begin:
            self._assign(offset)
            return
        self._assign(last.offset, last.leader_epoch)
        if self._first() != last:
            raise self._cut(offset, f"the Kafka partition has another record at {last.offset}")
        if offset != last.offset + 1:
            # A matcher of an earlier build moves the head without the last record. All records
            # between the two are decided.
            self._assign(offset)

    def _assign(self, offset: int, leader_epoch: int | None = None) -> None:
        partition = TopicPartition(
            self._topic,
            self._shard,
            offset - self._base,
            leader_epoch=UNKNOWN_EPOCH if leader_epoch is None else leader_epoch,
        )
        self._consumer.assign([partition])

    def _first(self) -> LastRecord | None:
        """Return what identifies the next record; None at the end of the partition."""
        deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
        while time.monotonic() < deadline_s and not self._stopping:
            message = self._consumer.poll(POLL_S)
            if message is None:
                continue
            record = self._record(message)
            if record is not None:
                return record.last
            if _is_end(message):
                return None
        raise CommandLogLost(f"Kafka does not hand over partition {self._shard} in time")

    def _cut(self, offset: Offset, found: str) -> CommandsCut:
        return CommandsCut(
            f"shard {self._shard}: the log has decided the commands up to offset {offset - 1}, but"
            f" {found}: it was cut. {WAY_OUT}"
        )

    def _read(self, limit: int) -> list[CommandRecord]:
        # ``consume(n, timeout)`` would wait the whole time unless n arrive: take the first one
        # as soon as it comes, then whatever is there already.
        while not self._stopping:
            self._check_topic()
            first = self._consumer.poll(POLL_S)
            if first is None:
                continue
            before = self.next_offset
            messages = [first, *self._consumer.consume(limit - 1, 0)]
            records = [record for m in messages if (record := self._record(m)) is not None]
            if records or self.next_offset > before:
                return records
        raise CommandLogLost("the command log is closed")

    def _check_topic(self) -> None:
        """Check now and then that the topic still has the id that ``topic_id`` returned.

        The client goes on with a topic that was deleted and made again. It waits for ever for
        offsets that the new topic does not have, or reads other records at these offsets.

        Raises:
            CommandLogLost: The topic has another id, or is gone.
        """
        now_s = time.monotonic()
        if self._topic_id is None or now_s < self._check_at_s:
            return
        self._check_at_s = now_s + TOPIC_CHECK_S
        if self._admin is None:
            self._admin = AdminClient(
                {"bootstrap.servers": self._bootstrap_servers}, logger=client_logger
            )
        topics = TopicCollection([self._topic])
        asked = self._admin.describe_topics(topics, request_timeout=TOPIC_CHECK_TIMEOUT_S)
        try:
            topic_id = str(asked[self._topic].result().topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                return  # the broker is away: the consumer waits for it too
            if not self._is_missing:  # a broker that begins may not know its topics for a moment
                self._is_missing = True
                return
            topic_id = "gone"
        self._is_missing = False
        if topic_id != self._topic_id:
            raise CommandLogLost(
                f"topic {self._topic} had the id {self._topic_id} and is {topic_id} now: it was"
                f" deleted or recreated. {WAY_OUT}"
            )

    def _record(self, message: Message) -> CommandRecord | None:
        offset = Offset(self._base + (message.offset() or 0))
        error = message.error()
        if error is not None:
            if _is_end(message):
                self.next_offset = max(self.next_offset, offset)
                return None
            if error.code() in TRANSIENT:
                return None
            kind = CommandsCut if error.code() in CUT else CommandLogLost
            raise kind(
                f"partition {self._shard} of {self._topic} cannot be read: {error.str()}. If it"
                f" lost commands: {WAY_OUT}"
            )
        self.next_offset = max(self.next_offset, Offset(offset + 1))
        headers: dict[str, Any] = dict(message.headers() or ())
        return CommandRecord(
            offset=offset,
            time_ms=message.timestamp()[1],
            value=message.value() or b"",
            command_id=headers.get(COMMAND_ID_HEADER),
            reply_to=headers.get(REPLY_TO_HEADER),
            traceparent=headers.get(TRACE_HEADER),
            version=headers.get(VERSION_HEADER),
            leader_epoch=message.leader_epoch(),
            key_id=headers.get(KEY_ID_HEADER),
        )

    def _describe_topic(self) -> TopicDescription:
        admin = AdminClient({"bootstrap.servers": self._bootstrap_servers}, logger=client_logger)
        topics = TopicCollection([self._topic])
        try:
            described = admin.describe_topics(topics, request_timeout=REQUEST_TIMEOUT_S)
            found: TopicDescription = described[self._topic].result()
            if self._allow_unsafe is not None:
                self._check_durable(admin, described[self._topic], self._allow_unsafe)
        except KafkaException as error:
            raise CommandLogLost(
                f"topic {self._topic} cannot be described: {error.args[0].str()}. If it was"
                f" deleted: `exchange prepare` makes an empty one. {WAY_OUT}"
            ) from error
        return found

    def _check_durable(
        self, admin: AdminClient, described: "Future[TopicDescription]", allowed: Collection[str]
    ) -> None:
        resource = ConfigResource(ResourceType.TOPIC, self._topic)
        config = admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource]
        check_durable(unsafe_settings(described.result(), config), allowed)

    def _close(self) -> None:
        self._thread.shutdown()
        self._consumer.close()


def unsafe_settings(
    topic: TopicDescription, config: "Future[dict[str, ConfigEntry]]"
) -> list[Unsafe]:
    """Return the unsafe settings of a topic; warn if the broker does not let us read them.

    A matcher without that right may have run for years: stopping it would be worse than not
    knowing.

    Raises:
        KafkaException: The broker does not answer.
    """
    try:
        found = {name: entry.value for name, entry in config.result().items()}
    except KafkaException as error:
        if error.args[0].code() not in FORBIDDEN:
            raise
        logger.warning(
            "Kafka does not tell whether the topic's settings are safe: grant DescribeConfigs",
            extra={"topic": topic.name, "error": error.args[0].str()},
        )
        return []
    replicas = max((len(partition.replicas) for partition in topic.partitions), default=0)
    return unsafe_topic(topic.name, found, replicas=replicas)


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


class EndsUnknown(ConnectionError):
    """Kafka does not tell where each partition ends; ``known`` has the ends that it does tell."""

    def __init__(self, why: str, known: Mapping[int, int]) -> None:
        super().__init__(f"Kafka does not tell how far it is: {why}")
        self.known = known


class NotProduced(Exception):
    """The command was not sent and will not be: the queue is full, or the client failed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where Kafka stored a command. With ``error`` it is unknown whether Kafka did.

    ``never_sent`` says that the command is certainly not in Kafka.
    """

    shard: int
    offset: int
    error: str | None = None
    never_sent: bool = False


class _Gathered(Struct, frozen=True, gc=False):
    """A command on its way to Kafka's client."""

    number: int
    shard: int
    key: str
    value: bytes
    headers: list[tuple[str, bytes]]
    on_delivery: Callable[[Delivery], None]


class CommandProducer:
    """Sends commands to Kafka and reports each delivery on the event loop."""

    def __init__(
        self, bootstrap_servers: str, topic: str, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._topic = topic
        self._loop = loop
        self.failed = asyncio.Event()  # for good: only a new process can send again
        self._timer: asyncio.TimerHandle | None = None
        self._idle = True
        self._numbers = itertools.count()
        self._unconfirmed: set[int] = set()  # as many as the queue takes
        self._news = asyncio.Event()
        self._gathered: list[_Gathered] = []  # in order, for less than ``POLL_BUSY_S``
        self._lately_s = deque((-math.inf,) * GATHER_COMMANDS, GATHER_COMMANDS)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": LINGER_MS,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "request.timeout.ms": DELIVERY_TIMEOUT_MS - 500,
                "queue.buffering.max.messages": PRODUCER_QUEUE_MESSAGES,
                "reconnect.backoff.max.ms": 1_000,
                "error_cb": self._on_error,
            },
            logger=client_logger,
        )
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=client_logger)

    @property
    def queued(self) -> int:
        """How many commands wait to be sent or to be confirmed."""
        return len(self._producer) + len(self._gathered)

    async def start(self) -> None:
        """Connect, so that the first command does not pay for it; Kafka may be away."""
        self._poll()
        if not await self.reachable(REQUEST_TIMEOUT_S):
            logger.warning("Kafka does not answer; commands are refused until it does")

    async def stop(self) -> None:
        """Send what is queued and report it, bounded by the delivery timeout."""
        if self._timer is not None:
            self._timer.cancel()
        self._send_gathered()
        deadline_s = self._loop.time() + DELIVERY_TIMEOUT_MS / 1000 + 1
        while len(self._producer) and self._loop.time() < deadline_s:
            self._producer.poll(0)
            await asyncio.sleep(POLL_BUSY_S)

    async def reachable(self, timeout_s: float) -> bool:
        """Tell whether the broker answers a question about the topic in time."""
        try:
            found = await asyncio.to_thread(self._producer.list_topics, self._topic, timeout_s)
        except KafkaException:
            return False
        return found.topics[self._topic].error is None

    def produce(
        self,
        shard: int,
        *,
        key: str,
        value: bytes,
        command_id: UUID,
        reply_to: bytes,
        version: int,
        on_delivery: Callable[[Delivery], None],
        traceparent: str | None = None,
        key_id: str | None = None,
    ) -> None:
        """Queue one command for a shard; ``on_delivery`` is called later, on the event loop.

        Commands reach each shard in the order in which they are queued. If one cannot be handed
        over after it was queued, those that were queued with it after it are not sent either.

        ``key`` is the record's key, for people to see: ``shard`` alone chooses the partition.
        ``reply_to`` is empty when no gateway waits for the outcome. ``key_id`` is that of the key
        by which the command was signed; ``version`` must be one whose matchers log it.

        Raises:
            NotProduced: Nothing was queued.
        """
        headers = [
            (COMMAND_ID_HEADER, command_id.bytes),
            (REPLY_TO_HEADER, reply_to),
            (VERSION_HEADER, version_header(version)),
        ]
        if traceparent is not None:
            headers.append((TRACE_HEADER, traceparent.encode()))
        if key_id is not None:
            headers.append((KEY_ID_HEADER, key_id.encode()))
        if self.queued >= PRODUCER_QUEUE_MESSAGES:
            raise NotProduced("too many commands wait for Kafka")
        gathered = _Gathered(next(self._numbers), shard, key, value, headers, on_delivery)
        now_s = self._loop.time()
        has_company = now_s - self._lately_s[0] < GATHER_WITHIN_S
        self._lately_s.append(now_s)
        if has_company or self._gathered:
            self._gathered.append(gathered)
        else:
            try:
                self._hand_over(gathered)
            except (BufferError, KafkaException) as error:
                raise NotProduced(str(error)) from error
        self._unconfirmed.add(gathered.number)
        if self._idle:
            self._poll_in(POLL_BUSY_S)

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for number, one in enumerate(gathered):
            try:
                self._hand_over(one)
            except (BufferError, KafkaException) as error:
                not_sent = Delivery(-1, -1, str(error), never_sent=True)
                for each in gathered[number:]:
                    self._confirm(each, not_sent)
                return

    def _hand_over(self, one: "_Gathered") -> None:
        self._producer.produce(
            self._topic,
            one.value,
            one.key,
            one.shard,
            on_delivery=lambda error, message: self._confirm(one, _delivery(error, message)),
            headers=one.headers,  # type: ignore[arg-type]
        )

    def _confirm(self, one: "_Gathered", delivery: "Delivery") -> None:
        self._unconfirmed.discard(one.number)
        self._news.set()
        one.on_delivery(delivery)

    async def confirmed(self) -> None:
        """Wait until Kafka has confirmed what was queued before now, or it was given up."""
        queued = set(self._unconfirmed)
        while not queued.isdisjoint(self._unconfirmed):
            self._news.clear()
            await self._news.wait()

    def _poll(self) -> None:
        try:
            self._send_gathered()
            self._producer.poll(0)
        finally:
            self._poll_in(POLL_BUSY_S if len(self._producer) else POLL_IDLE_S)

    def _on_error(self, error: KafkaError) -> None:
        # An idempotent producer that lost its sequence (its broker lost records) never sends again.
        if error.fatal():
            logger.critical("The Kafka client failed for good", extra={"error": error.str()})
            self.failed.set()

    def _poll_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._idle = delay_s == POLL_IDLE_S
        self._timer = self._loop.call_later(delay_s, self._poll)

    async def end_offsets(self, shards: Sequence[int]) -> dict[int, int]:
        """Return the offset that each shard's next command will get.

        Raises:
            EndsUnknown: Kafka does not answer, or has no such partition.
        """
        return await asyncio.to_thread(self._end_offsets, shards)

    def _end_offsets(self, shards: Sequence[int]) -> dict[int, int]:
        self._admin.poll(0)  # hands over its log messages
        try:
            ends, error = self._list_ends(shards)
            if error is not None and error.args[0].code() in OUTDATED:
                # The client would go on asking with the leader's epoch that it knows.
                self._admin.list_topics(self._topic, timeout=END_TIMEOUT_S)
                ends, error = self._list_ends(shards)
        except KafkaException as away:
            ends, error = {}, away
        if len(ends) < len(shards):
            raise EndsUnknown(str(error or "it does not answer"), ends)
        return ends

    def _list_ends(self, shards: Sequence[int]) -> tuple[dict[int, int], KafkaException | None]:
        """Return the ends that Kafka tells, and an error where it does not."""
        asked = {TopicPartition(self._topic, shard): OffsetSpec.latest() for shard in shards}  # type: ignore[no-untyped-call]
        found = self._admin.list_offsets(asked, request_timeout=END_TIMEOUT_S)
        ends: dict[int, int] = {}
        failure: KafkaException | None = None
        for partition, future in found.items():
            try:
                end: int = future.result().offset
            except KafkaException as error:
                failure = error
            else:
                if end >= 0:  # the client's answer for a partition that timed out is negative
                    ends[partition.partition] = end
        return ends, failure


def _delivery(error: KafkaError | None, message: Message) -> Delivery:
    if error is None:
        return Delivery(message.partition() or 0, message.offset() or 0)
    return Delivery(-1, -1, error.str(), never_sent=_never_sent(error))


def _never_sent(error: KafkaError) -> bool:
    return error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD)
