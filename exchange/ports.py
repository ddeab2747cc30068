"""What the matcher needs of the world: commands, an event store, a way to answer.

Each port has two real implementations: the one that runs (Kafka, Postgres,
Redis) and the one in the tests, held to the same contract by
``tests/contracts``. Everything here speaks for one shard.
"""

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Final, Protocol
from uuid import UUID

from msgspec import Struct

from exchange.domain.events import Event
from exchange.domain.values import Offset, Position, Shard

EMPTY_CHAIN: Final = bytes(32)  # the hash chain before the first event
UNKNOWN_BODY: Final = b""  # stands for a hash where the log no longer tells the request


class CommandRecord(Struct, frozen=True, gc=False):
    """A Kafka record as it was read; nothing in it is trusted yet.

    ``time_ms`` is the broker's stamp, milliseconds since the epoch. ``command_id`` to ``version``
    and ``key_id`` are headers.
    """

    offset: Offset
    time_ms: int
    value: bytes
    command_id: bytes | None
    reply_to: bytes | None
    traceparent: bytes | None = None
    version: bytes | None = None
    leader_epoch: int | None = None
    key_id: bytes | None = None

    @property
    def last(self) -> "LastRecord":
        """What a head keeps of this record when it is the last one that was decided."""
        told = self.time_ms.to_bytes(8, "big", signed=True), self.command_id or b"", self.value
        return LastRecord(self.offset, self.leader_epoch, sha256(b"\0".join(told)).digest())


class LastRecord(Struct, frozen=True):
    """What identifies a record: its offset, the epoch of the leader that wrote it, and its hash.

    A topic that still has the record lost nothing before it, even if it was cut behind it and has
    grown since.
    """

    offset: Offset
    leader_epoch: int | None
    digest: bytes


class StoredEvent(Struct, frozen=True, gc=False):
    """An event as the store keeps it: the text that is hashed, and where it came from."""

    shard: Shard
    position: Position
    instrument: str | None
    type: str
    version: int
    data: str
    command_id: UUID
    kafka_offset: Offset


class Claim(Struct, frozen=True, gc=False):
    """A name taken for ever (an idempotency key, an order id) and the command that took it.

    ``body_hash`` is a hash of the request: a key that is sent again with another request shows. It
    is ``UNKNOWN_BODY`` in a claim that was rebuilt from events that do not tell the whole request.
    ``of`` is the id of a command on which the name depends: it is taken only if that command was
    not resent.
    """

    name: str
    shard: Shard
    kafka_offset: Offset
    body_hash: bytes
    of: UUID | None = None

    def conflicts_with(self, body_hash: bytes) -> bool:
        """Tell whether this is another request; an unknown one counts as the same."""
        return self.body_hash not in (UNKNOWN_BODY, body_hash)


class Trace(Struct, frozen=True, gc=False):
    """The trace context of a sampled command; ``position`` is that of its first event."""

    position: Position
    traceparent: str


class Head(Struct, frozen=True):
    """How far a shard's log and its Kafka partition have come, and under which writer.

    ``chain`` is the hash chain after the event at ``position``, ``state_digest`` the digest of the
    state there, ``next_offset`` the first offset that is not yet decided.

    An offset of the log is ``offset_base`` plus the offset in Kafka. Each life of the topic has its
    own base, so the log uses no offset twice. ``last`` is the last record that was decided, None
    before the first.
    """

    shard: Shard
    epoch: int
    position: Position
    topic_id: str
    next_offset: Offset
    chain: bytes
    state_digest: bytes
    offset_base: int = 0
    last: LastRecord | None = None


class TopicLife(Struct, frozen=True):
    """One topic that a shard was decided from: since when, and from which base it counts.

    ``first_offset`` is the first offset of the log in this life. An offset of the log is
    ``offset_base`` plus the offset in Kafka.
    """

    first_offset: int
    topic_id: str
    offset_base: int


class StoredSnapshot(Struct, frozen=True):
    """An engine snapshot at the end of a batch, with what that batch recorded.

    ``digest`` is the batch's and ``time_ms`` that of its last event: both are from the log, to
    compare the snapshot with.
    """

    position: Position
    version: int
    data: bytes
    digest: bytes
    time_ms: int


class StaleWriter(Exception):
    """Another writer moved the head. Stop; do not retry."""


class UnstorableRows(Exception):
    """The store works, but refuses these rows and would refuse them again."""


class LeaseLost(Exception):
    """The writer cannot show that it lives: another took over, or the store is away."""


class LogCorrupt(Exception):
    """The log is not as its matchers wrote it; ``exchange verify`` finds the first difference."""


class NewerCommand(Exception):
    """A command has a version that this build does not read; a newer build must decide it."""


class ForeignTopic(Exception):
    """The head belongs to another Kafka topic than the one that is there now."""


class CommandLog(Protocol):
    """The commands of one shard, in order; its offsets are the log's, see ``Head``."""

    next_offset: Offset
    """The offset after the last record that was read, and after markers that followed it."""

    async def topic_id(self) -> str:
        """Return the id that the broker gave the topic when it was created."""
        ...

    async def seek(self, offset: Offset, *, base: int = 0, last: LastRecord | None = None) -> None:
        """Continue at ``offset``, and check that ``last`` is the record before it.

        Call it before any other method but ``topic_id``.

        Raises:
            CommandsCut: The topic ends before ``offset`` or begins after it, or has another record
                where ``last`` was.
            CommandLogLost: The broker failed.
        """
        ...

    async def end(self) -> Offset:
        """Return the offset that the next command will get."""
        ...

    async def read(self, limit: int) -> list[CommandRecord]:
        """Return the next records, at most ``limit``; wait if there are none.

        The list is empty after offsets that hold no record, such as the markers that end a
        producer's transactions: then only ``next_offset`` has moved.

        Raises:
            CommandLogLost: The offset does not exist (any more), or the broker failed.
        """
        ...


class CommandLogLost(Exception):
    """The command log cannot be read on from the offset where the matcher stands."""


class CommandsCut(CommandLogLost):
    """The topic has lost commands that were decided; asking again does not help."""


class EventStore(Protocol):
    """The log of one shard, and the head that fences its writer."""

    async def is_free(self) -> bool:
        """Tell whether no other writer lives; where one does, answer after a moment.

        A writer whose lease stands still counts as dead. Ask until this is true, then call
        ``take_over``.
        """
        ...

    async def position(self) -> Position:
        """Return the head's position, 0 before the first batch."""
        ...

    async def take_over(self, topic_id: str) -> Head:
        """Become the writer: raise the epoch, shut earlier writers out, return the head.

        Raises:
            ForeignTopic: The head was written from a topic with another id.
        """
        ...

    async def check_end(self, head: Head) -> None:
        """Check that the log ends at the head, and its last command before ``next_offset``.

        Raises:
            LogCorrupt: Events or a batch are beyond the head, or a command would be decided
                again.
        """
        ...

    async def hold(self) -> None:
        """Show others, until cancelled, that the writer lives.

        Raises:
            LeaseLost: The lease could not be renewed.
        """
        ...

    def replay(self, *, after: Position, up_to: Position) -> AsyncIterator[list[Event]]:
        """Yield the events after position ``after`` up to ``up_to``, a list at a time.

        Raises:
            LogCorrupt: An event is missing.
            UnknownEvent: An event was written by another version of the software.
        """
        ...

    def snapshots(self, *, up_to: Position) -> AsyncIterator[StoredSnapshot]:
        """Yield the snapshots at batches' ends up to ``up_to``, newest first."""
        ...

    async def count_start(self, offset: Offset) -> bool:
        """Count that a writer begins at ``offset``; tell whether an earlier one ended there."""
        ...

    async def count_attempt(self, offset: Offset) -> int:
        """Count, durably, that the command at ``offset`` is tried alone; return which try it is.

        If it raises, the count is taken back.
        """
        ...

    async def forgive_attempt(self, offset: Offset) -> None:
        """Take the last count back, durably: the command did no harm.

        Until then a death of the process counts against the command, so whatever has nothing to do
        with the command comes after this call. While the store fails, it is asked again.
        """
        ...

    async def quarantined(self, offsets: Sequence[Offset]) -> dict[Offset, str]:
        """Return the hex digests of the records among ``offsets`` that were quarantined."""
        ...

    async def claim(self, claims: Sequence[Claim], *, unkeyed: Sequence[UUID] = ()) -> list[Claim]:
        """Take names for ever, whatever becomes of the batch; one call at a time.

        A name that this shard's command at the same offset has already is its own, so a command may
        claim again. ``unkeyed`` are the ids of commands without a key. They take no name: their
        events hold the id. Keys are taken first, then the names that are ``of`` a command; where
        several commands want one name, the first command gets it.

        Returns:
            The holder of each name that was taken before; and for each of ``unkeyed`` that the log
            has, the location of the first such command, as a claim without a hash.

        Raises:
            StaleWriter: Another writer took over; no name was taken.
            UnstorableRows: One of the names cannot be stored; no name was taken.
        """
        ...

    async def append(
        self,
        events: Sequence[StoredEvent],
        *,
        expected: Head,
        head: Head,
        links: bytes,
        traces: Sequence[Trace] = (),
    ) -> None:
        """Append ``events`` after ``expected`` and move the head to ``head``; one call at a time.

        ``links`` are the abridged hashes of the chain after each event. ``traces`` are stored with
        the events, for the projectors to continue.

        Raises:
            StaleWriter: The stored head is not ``expected``; nothing was appended.
            UnstorableRows: One of the events cannot be stored; nothing was appended.
        """
        ...


class OutcomeChannel(Protocol):
    """The way back to the gateway that waits; a hint, since the log has every outcome too."""

    async def publish(self, gateway: str, message: bytes) -> None:
        """Send ``message`` to ``gateway``, or raise; nobody may be listening."""
        ...
