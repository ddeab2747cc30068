"""One partition of the topic, as its only writer has it.

Read ``Partition``. A transactional id of its own for each partition makes Kafka refuse every
earlier writer as soon as a new one has opened it, and end the transaction that it left. Only then
is the last committed record looked for: nothing can come behind it but our own.

Nothing is sent again from memory: after any error the partition is opened anew, and its last record
says where to go on. All calls block.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from exchange.transport.commands import TRANSIENT, client_logger
from projections.publisher.records import Ends, Record, written_in

REQUEST_TIMEOUT_S: Final = 10.0  # ending a killed writer's transaction takes less than one
TRANSACTION_TIMEOUT_MS: Final = 10_000  # a frozen writer holds readers back for no longer
ABORT_TIMEOUT_S: Final = 1.0  # what is not aborted by then, the next opening aborts
POLL_S: Final = 0.5
QUEUE_MESSAGES: Final = 100_000  # more than one transaction has
BACKWARDS_OFFSETS: Final = 64  # looked at first: a marker or two stand behind the last record
FETCH_KIB: Final = 4 * 1024  # read ahead when looking for a record

FENCED: Final = frozenset(
    (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
)


class OpenTransaction(ConnectionError):
    """Another producer has an open transaction in the partition, so its end cannot be read yet."""


class Partition:
    """Writes to one partition, in transactions; opening it fences every earlier writer."""

    def __init__(self, bootstrap_servers: str, topic: str, number: int) -> None:
        self._topic = topic
        self._number = number
        self._in_transaction = False
        self._bootstrap_servers = bootstrap_servers
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "transactional.id": f"exchange-publisher.{topic}.{number}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "queue.buffering.max.messages": QUEUE_MESSAGES,
                "compression.type": "lz4",  # the fastest; JSON shrinks to a fifth
                "linger.ms": 5,
                "reconnect.backoff.max.ms": 1_000,
            },
            logger=client_logger,
        )

    def open(self) -> None:
        """Fence every earlier writer, and wait until its transaction is ended.

        Raises:
            KafkaException: Kafka does not answer.
        """
        self._producer.init_transactions(REQUEST_TIMEOUT_S)

    def close(self) -> None:
        """Give up what is not committed."""
        if self._in_transaction:
            self._producer.purge()
            with suppress(KafkaException):
                self._producer.abort_transaction(ABORT_TIMEOUT_S)

    def commit(self, records: Sequence[Record]) -> None:
        """Write records in one transaction.

        Raises:
            KafkaException: It is not known whether they are written.
        """
        self._producer.begin_transaction()
        self._in_transaction = True
        for record in records:
            self._producer.produce(
                self._topic,
                record.value,
                record.key,
                self._number,
                headers=record.headers,  # type: ignore[arg-type]
            )
        self._producer.commit_transaction(TRANSACTION_TIMEOUT_MS / 1000)
        self._in_transaction = False

    def ends(self) -> Ends | None:
        """Return the first and the last committed record; None if there is none.

        Raises:
            NotOurs: One of them is no published event.
            OpenTransaction: Somebody else's records may still come before ours.
            KafkaException: Kafka does not answer.
        """
        with _Reader(self._bootstrap_servers, self._topic, self._number) as reader:
            last = reader.last()
            if last is None:
                return None
            was_cut = reader.begin > 0
            return Ends(written_in(reader.first()), written_in(last), was_cut)


class _Reader:
    """Looks for committed records of a partition."""

    def __init__(self, bootstrap_servers: str, topic: str, number: int) -> None:
        self._partition = TopicPartition(topic, number)
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=client_logger)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "unused",  # required by the client; no group is ever joined
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "check.crcs": True,
                "queued.max.messages.kbytes": FETCH_KIB,
                "fetch.error.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1_000,
            },
            logger=client_logger,
        )

    def __enter__(self) -> Self:
        self.begin = self._offset(OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def last(self) -> Message | None:
        """Return the last committed record, behind which only markers and aborted ones stand."""
        end = self._offset(OffsetSpec.latest())  # type: ignore[no-untyped-call]
        back = BACKWARDS_OFFSETS
        while end > self.begin:
            begin = max(self.begin, end - back)
            found = self._last_between(begin, end)
            if found is not None or begin == self.begin:
                return found
            back *= 4
        return None

    def first(self) -> Message:
        """Return the first committed record of a partition that has one."""
        self._assign(self.begin)
        return self._next()

    def _last_between(self, begin: int, end: int) -> Message | None:
        self._assign(begin)
        last: Message | None = None
        while True:
            message = self._next()
            if not _is_end(message):
                last = message
                continue
            if (message.offset() or 0) < end:
                raise OpenTransaction(
                    f"partition {self._partition.partition} of {self._partition.topic} has a"
                    f" transaction that is open since offset {message.offset()}"
                )
            return last

    def _assign(self, offset: int) -> None:
        self._consumer.assign(
            [TopicPartition(self._partition.topic, self._partition.partition, offset)]
        )

    def _next(self) -> Message:
        """Return the next committed record, or what tells the partition's end."""
        deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
        while time.monotonic() < deadline_s:
            message = self._consumer.poll(POLL_S)
            if message is None:
                continue
            error = message.error()
            if error is None or _is_end(message):
                return message
            if error.code() not in TRANSIENT:
                raise KafkaException(error)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def _offset(self, which: OffsetSpec) -> int:
        asked = self._admin.list_offsets({self._partition: which}, request_timeout=POLL_S * 10)
        offset: int = asked[self._partition].result().offset
        if offset < 0:  # the client's answer for a partition that timed out
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return offset


def is_fenced(error: BaseException) -> bool:
    """Tell whether another writer has opened the partition."""
    return isinstance(error, KafkaException) and error.args[0].code() in FENCED


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF
