"""The ports in memory, held to the same contract as the real adapters.

``MemoryDatabase`` is what outlives a writer: several ``MemoryEventStore``s may open it
one after the other, as processes do. Stored events are kept encoded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from exchange.domain.values import Offset, Position, Shard
from exchange.ports import (
    EMPTY_CHAIN,
    Claim,
    CommandLogLost,
    CommandRecord,
    ForeignTopic,
    Head,
    StaleWriter,
    StoredEvent,
    StoredSnapshot,
    Trace,
)


class MemoryTopic:
    """A topic with one partition and a broker's clock that the test sets."""

    def __init__(self, topic_id: str = "topic-1") -> None:
        self.topic_id = topic_id
        self.records: list[CommandRecord] = []
        self.time_ms = 1_000
        self.appended = asyncio.Event()

    def produce(
        self, value: bytes, *, command_id: bytes | None = None, reply_to: bytes | None = None
    ) -> Offset:
        offset = Offset(len(self.records))
        self.records.append(CommandRecord(offset, self.time_ms, value, command_id, reply_to))
        self.appended.set()
        return offset


class MemoryCommandLog:
    """A ``CommandLog`` over a ``MemoryTopic``."""

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic
        self._next = 0

    async def topic_id(self) -> str:
        return self._topic.topic_id

    async def seek(self, offset: Offset) -> None:
        self._next = offset

    async def end(self) -> Offset:
        return Offset(len(self._topic.records))

    async def read(self, limit: int) -> list[CommandRecord]:
        if self._next > len(self._topic.records):
            raise CommandLogLost(f"offset {self._next} does not exist")
        while self._next == len(self._topic.records):
            self._topic.appended.clear()
            await self._topic.appended.wait()
        records = self._topic.records[self._next : self._next + limit]
        self._next += len(records)
        return records


@dataclass
class MemoryDatabase:
    """What is committed, and the claims that open batches are about to commit."""

    events: dict[int, list[StoredEvent]] = field(default_factory=dict)
    heads: dict[int, Head] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    traces: dict[int, list[Trace]] = field(default_factory=dict)
    pending: dict[str, "MemoryBatch"] = field(default_factory=dict)
    writers: dict[int, "MemoryEventStore"] = field(default_factory=dict)
    links: dict[int, bytes] = field(default_factory=dict)
    snapshots: dict[int, list[StoredSnapshot]] = field(default_factory=dict)
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    ended: asyncio.Condition = field(default_factory=asyncio.Condition)


class MemoryEventStore:
    """An ``EventStore`` over a ``MemoryDatabase``."""

    def __init__(self, database: MemoryDatabase, shard: Shard) -> None:
        self.database = database
        self._shard = shard
        self._batches = asyncio.Semaphore(2)
        self._open: set[MemoryBatch] = set()

    async def __aexit__(self, *error: object) -> None:
        """End the connections, and with them the transactions that are open."""
        for batch in list(self._open):
            await batch.abandon()
        if self.database.writers.get(self._shard) is self:
            del self.database.writers[self._shard]

    async def is_free(self) -> bool:
        await asyncio.sleep(0)
        return self.database.writers.get(self._shard) in (None, self)

    async def position(self) -> Position:
        head = self.database.heads.get(self._shard)
        return Position(0) if head is None else head.position

    async def snapshots(self, *, up_to: Position) -> AsyncIterator[StoredSnapshot]:
        for snapshot in reversed(self.database.snapshots.get(self._shard, [])):
            if snapshot.position <= up_to:
                yield snapshot

    async def count_start(self, offset: Offset) -> bool:
        place, starts = self.database.starts.get(self._shard, (-1, 0))
        starts = starts + 1 if place == offset else 1
        self.database.starts[self._shard] = (offset, starts)
        return starts > 1 or self.database.attempts.get(self._shard, (-1, 0))[0] == offset

    async def count_attempt(self, offset: Offset) -> int:
        place, attempts = self.database.attempts.get(self._shard, (-1, 0))
        attempts = attempts + 1 if place == offset else 1
        self.database.attempts[self._shard] = (offset, attempts)
        return attempts

    async def take_over(self, topic_id: str) -> Head:
        heads = self.database.heads
        empty = Head(
            self._shard, 0, Position(0), topic_id, Offset(0), EMPTY_CHAIN, bytes(len(EMPTY_CHAIN))
        )
        head = heads.get(self._shard, empty)
        if head.topic_id != topic_id:
            raise ForeignTopic(f"{head.topic_id} is not {topic_id}")
        self.database.writers[self._shard] = self
        heads[self._shard] = msgspec.structs.replace(head, epoch=head.epoch + 1)
        return heads[self._shard]

    async def read(
        self, *, after: Position, up_to: Position
    ) -> AsyncIterator[Sequence[StoredEvent]]:
        events = self.database.events.get(self._shard, [])[after:up_to]
        for start in range(0, len(events), 3):
            yield events[start : start + 3]

    async def begin(self) -> "MemoryBatch":
        await self._batches.acquire()
        batch = MemoryBatch(self.database, self._ended)
        self._open.add(batch)
        return batch

    def _ended(self, batch: "MemoryBatch") -> None:
        if batch in self._open:
            self._open.remove(batch)
            self._batches.release()


class MemoryBatch:
    """A ``Batch`` that keeps its claims to itself until it commits."""

    def __init__(self, database: MemoryDatabase, on_end: Callable[["MemoryBatch"], None]) -> None:
        self._database = database
        self._on_end = on_end
        self._claims: dict[str, Claim] = {}

    async def claim(self, claims: Sequence[Claim]) -> list[Claim]:
        holders = [await self._claim(c) for c in sorted(claims, key=lambda c: c.name)]
        return [holder for holder in holders if holder is not None]

    async def append(
        self,
        events: Sequence[StoredEvent],
        *,
        expected: Head,
        head: Head,
        links: bytes,
        traces: Sequence[Trace] = (),
    ) -> None:
        stored = self._database.heads.get(expected.shard)
        if stored != expected:
            await self.abandon()
            raise StaleWriter(f"{stored} is not {expected}")
        self._database.heads[expected.shard] = head
        self._database.events.setdefault(expected.shard, []).extend(events)
        self._database.claims |= self._claims
        self._database.links[expected.shard] = self._database.links.get(expected.shard, b"") + links
        self._database.traces.setdefault(expected.shard, []).extend(traces)
        await self._end()

    async def abandon(self) -> None:
        await self._end()

    async def _claim(self, claim: Claim) -> Claim | None:
        async with self._database.ended:
            await self._database.ended.wait_for(
                lambda: self._database.pending.get(claim.name) in (None, self)
            )
        holder = self._database.claims.get(claim.name) or self._claims.get(claim.name)
        if holder is None:
            self._claims[claim.name] = claim
            self._database.pending[claim.name] = self
        return holder

    async def _end(self) -> None:
        for name in self._claims:
            del self._database.pending[name]
        self._claims = {}
        self._on_end(self)
        async with self._database.ended:
            self._database.ended.notify_all()


class MemoryOutcomes:
    """An ``OutcomeChannel`` that calls whoever listens at that moment."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[[bytes], None]]] = {}

    async def publish(self, gateway: str, message: bytes) -> None:
        for on_message in self._listeners.get(gateway, []):
            on_message(message)

    def listen(self, gateway: str, on_message: Callable[[bytes], None]) -> None:
        self._listeners.setdefault(gateway, []).append(on_message)
