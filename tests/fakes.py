"""The ports in memory, held to the same contract as the real adapters.

``MemoryTopic`` and ``MemoryDatabase`` are the servers: they outlive a writer, and several
adapters may open them, one after the other or at once, as processes do. Stored events are
kept encoded. An adapter reaches its server through a ``Link``. The link here never fails;
those of the simulation do.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import UUID

import msgspec

from exchange.domain.events import CommandQuarantined, Event
from exchange.domain.values import Offset, Position, Shard
from exchange.log.events import decode_event
from exchange.log.identity import command_claim, is_keyed, unkeyed_claim
from exchange.ports import (
    EMPTY_CHAIN,
    Claim,
    CommandRecord,
    CommandsCut,
    ForeignTopic,
    Head,
    LastRecord,
    LogCorrupt,
    StaleWriter,
    StoredEvent,
    StoredSnapshot,
    Trace,
)

READ_CHUNK_EVENTS = 3  # so that short logs are read in several

T = TypeVar("T")


class Link:
    """The way from an adapter to its server and back."""

    async def call(self, what: str, effect: Callable[[], T]) -> T:  # noqa: ARG002
        """Let the server carry out ``effect`` and return what it answers."""
        await asyncio.sleep(0)
        return effect()


class MemoryTopic:
    """A topic with one partition and a broker's clock that the test sets."""

    def __init__(self, topic_id: str = "topic-1") -> None:
        self.topic_id = topic_id
        self.leader_epoch = 0
        self.records: list[CommandRecord] = []
        self.time_ms = 1_000
        self.appended = asyncio.Event()

    def produce(
        self,
        value: bytes,
        *,
        command_id: bytes | None = None,
        reply_to: bytes | None = None,
        version: bytes | None = None,
        key_id: bytes | None = None,
    ) -> Offset:
        offset = Offset(len(self.records))
        record = CommandRecord(
            offset, self.time_ms, value, command_id, reply_to, version=version, key_id=key_id
        )
        self.records.append(msgspec.structs.replace(record, leader_epoch=self.leader_epoch))
        self.appended.set()
        return offset

    def cut(self, end: int) -> None:
        """Lose the records from ``end`` on, as a broker's disk may while it is away."""
        del self.records[end:]
        self.leader_epoch += 1


class MemoryCommandLog:
    """A ``CommandLog`` over a ``MemoryTopic``."""

    def __init__(self, topic: MemoryTopic, link: Link | None = None) -> None:
        self._topic = topic
        self._link = link or Link()
        self._base = 0
        self.next_offset = Offset(0)

    async def topic_id(self) -> str:
        return await self._link.call("describe", lambda: self._topic.topic_id)

    async def seek(self, offset: Offset, *, base: int = 0, last: LastRecord | None = None) -> None:
        self._base, self.next_offset = base, offset
        end = await self.end()
        if end < offset:
            raise CommandsCut(f"the topic ends at {end - base}: it was cut")
        if last is not None and self._record(last.offset - base).last != last:
            raise CommandsCut(f"another record is at {last.offset - base}: it was cut")

    async def end(self) -> Offset:
        return await self._link.call("ask for the end", self._end)

    async def read(self, limit: int) -> list[CommandRecord]:
        while self.next_offset == self._end():
            self._topic.appended.clear()
            await self._topic.appended.wait()
        first = self.next_offset - self._base
        records = await self._link.call(
            "poll", lambda: [self._record(n) for n in self._range(first, limit)]
        )
        self.next_offset = Offset(self.next_offset + len(records))
        return records

    def _end(self) -> Offset:
        return Offset(self._base + len(self._topic.records))

    def _range(self, first: int, limit: int) -> range:
        return range(first, min(first + limit, len(self._topic.records)))

    def _record(self, number: int) -> CommandRecord:
        return msgspec.structs.replace(
            self._topic.records[number], offset=Offset(self._base + number)
        )


@dataclass
class MemoryDatabase:
    """What is committed."""

    events: dict[int, list[StoredEvent]] = field(default_factory=dict)
    heads: dict[int, Head] = field(default_factory=dict)
    batches: dict[int, list[Head]] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    traces: dict[int, list[Trace]] = field(default_factory=dict)
    writers: dict[int, "MemoryEventStore"] = field(default_factory=dict)
    links: dict[int, bytes] = field(default_factory=dict)
    snapshots: dict[int, list[StoredSnapshot]] = field(default_factory=dict)
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    on_commit: Callable[[Head], None] = lambda _head: None
    _waiting: list["asyncio.Future[None]"] = field(default_factory=list)

    def next_end(self) -> "asyncio.Future[None]":
        """Return what is done when the next batch is appended, whoever's."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return waiting

    def tell_end(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


class MemoryEventStore:
    """An ``EventStore`` over a ``MemoryDatabase``: the sessions of one writer."""

    def __init__(self, database: MemoryDatabase, shard: Shard, link: Link | None = None) -> None:
        self.database = database
        self.link = link or Link()
        self.shard = shard
        self.closed = False
        self._ended = False
        self._epoch = 0

    async def __aexit__(self, *error: object) -> None:
        """End the connections."""
        self.end()

    def close(self) -> None:
        """Be gone for good, as a process is that was killed: what it still had sent is refused."""
        self.closed = True
        self.end()

    async def is_free(self) -> bool:
        return await self.link.call("ask for the lock", self._is_free)

    async def position(self) -> Position:
        return await self.link.call("ask how far", self._position)

    async def snapshots(self, *, up_to: Position) -> AsyncIterator[StoredSnapshot]:
        for snapshot in await self.link.call("read snapshots", self._snapshots):
            if snapshot.position <= up_to:
                yield snapshot

    async def count_start(self, offset: Offset) -> bool:
        return await self.link.call("count start", partial(self._count_start, offset))

    async def count_attempt(self, offset: Offset) -> int:
        try:
            return await self.link.call("count attempt", partial(self._count_attempt, offset))
        except Exception:
            await self.forgive_attempt(offset)
            raise

    async def forgive_attempt(self, offset: Offset) -> None:
        while True:
            try:
                return await self.link.call(
                    "forgive attempt", partial(self._forgive_attempt, offset)
                )
            except ConnectionError:
                await asyncio.sleep(1.0)

    async def quarantined(self, offsets: Sequence[Offset]) -> dict[Offset, str]:
        return await self.link.call("look for quarantines", partial(self._quarantined, offsets))

    async def take_over(self, topic_id: str) -> Head:
        return await self.link.call("take over", partial(self._take_over, topic_id))

    async def check_end(self, head: Head) -> None:
        await self.link.call("check the end", partial(self._check_end, head))

    async def hold(self) -> None:
        await asyncio.Event().wait()

    async def replay(self, *, after: Position, up_to: Position) -> AsyncIterator[list[Event]]:
        for start in range(after, up_to, READ_CHUNK_EVENTS):
            end = min(up_to, start + READ_CHUNK_EVENTS)
            part = await self.link.call("read", partial(self._slice, start, end))
            if [stored.position for stored in part] != list(range(start + 1, end + 1)):
                raise LogCorrupt(f"an event after position {start} is missing")
            yield [decode_event(stored) for stored in part]

    async def claim(self, claims: Sequence[Claim], *, unkeyed: Sequence[UUID] = ()) -> list[Claim]:
        known = await self.link.call("look up", partial(self._known, unkeyed)) if unkeyed else []
        if not claims:
            return known
        return known + await self.link.call("claim", partial(self._claim, claims, known))

    async def append(
        self,
        events: Sequence[StoredEvent],
        *,
        expected: Head,
        head: Head,
        links: bytes,
        traces: Sequence[Trace] = (),
    ) -> None:
        await self.link.call("append", partial(self._append, events, expected, head, links, traces))

    def end(self) -> None:
        """End the sessions, as a server does when its client is gone or was ended."""
        self._ended = True
        if self.database.writers.get(self.shard) is self:
            del self.database.writers[self.shard]

    def _snapshots(self) -> list[StoredSnapshot]:
        """Return the last one stored at each batch's end, newest first, with what the log has."""
        batches = self.database.batches.get(self.shard, [])
        digests = {batch.position: batch.state_digest for batch in batches}
        stored = {one.position: one for one in self.database.snapshots.get(self.shard, [])}
        return [
            msgspec.structs.replace(
                stored[position], digest=digests[position], time_ms=self._time_ms(position)
            )
            for position in sorted(stored, reverse=True)
            if position in digests
        ]

    def _time_ms(self, position: Position) -> int:
        (event,) = self._slice(position - 1, position)
        return decode_event(event).time_ms

    def _is_free(self) -> bool:
        return self.database.writers.get(self.shard) in (None, self)

    def _position(self) -> Position:
        head = self.database.heads.get(self.shard)
        return Position(0) if head is None else head.position

    def _count_start(self, offset: Offset) -> bool:
        place, starts = self.database.starts.get(self.shard, (-1, 0))
        starts = starts + 1 if place == offset else 1
        self.database.starts[self.shard] = (offset, starts)
        return starts > 1 or self.database.attempts.get(self.shard, (-1, 0))[0] == offset

    def _count_attempt(self, offset: Offset) -> int:
        place, attempts = self.database.attempts.get(self.shard, (-1, 0))
        attempts = attempts + 1 if place == offset else 1
        self.database.attempts[self.shard] = (offset, attempts)
        return attempts

    def _forgive_attempt(self, offset: Offset) -> None:
        place, attempts = self.database.attempts.get(self.shard, (-1, 0))
        if place == offset and attempts:
            self.database.attempts[self.shard] = (offset, attempts - 1)

    def _quarantined(self, offsets: Sequence[Offset]) -> dict[Offset, str]:
        found = {e.kafka_offset: e for e in self.database.events.get(self.shard, [])}
        events = {offset: decode_event(found[offset]) for offset in offsets if offset in found}
        return {
            offset: event.sha256
            for offset, event in events.items()
            if isinstance(event, CommandQuarantined)
        }

    def _take_over(self, topic_id: str) -> Head:
        if self.closed:
            raise ConnectionError("the client of this session is gone")
        earlier = self.database.writers.get(self.shard)
        if earlier is not None and earlier is not self:
            earlier.end()
        nothing = bytes(len(EMPTY_CHAIN))
        empty = Head(self.shard, 0, Position(0), topic_id, Offset(0), EMPTY_CHAIN, nothing)
        head = self.database.heads.get(self.shard, empty)
        if head.topic_id != topic_id:
            raise ForeignTopic(f"{head.topic_id} is not {topic_id}")
        self.database.writers[self.shard] = self
        head = self.database.heads[self.shard] = msgspec.structs.replace(head, epoch=head.epoch + 1)
        self._epoch = head.epoch
        return head

    def _known(self, unkeyed: Sequence[UUID]) -> list[Claim]:
        """Return the first event's place of each command that the log has."""
        self._check_open()
        places: dict[UUID, Claim] = {}
        for _, events in sorted(self.database.events.items()):
            for event in events:
                if event.command_id in unkeyed:
                    claim = unkeyed_claim(event.command_id, event.shard, event.kafka_offset)
                    places.setdefault(event.command_id, claim)
        return list(places.values())

    def _claim(self, claims: Sequence[Claim], known: Sequence[Claim]) -> list[Claim]:
        self._check_open()
        if self.database.heads[self.shard].epoch != self._epoch:
            raise StaleWriter(f"epoch {self._epoch} is over")
        alone = [claim for claim in claims if claim.of is None]
        holders = [holder for claim in alone if (holder := self._take(claim)) is not None]
        resent = {claim.name for claim in known}
        won = {claim.name for claim in alone} - {claim.name for claim in holders}
        taken: set[str] = set()
        for claim in sorted(claims, key=lambda claim: claim.kafka_offset):
            if claim.of is None:
                continue
            name = command_claim(claim.of)
            is_fresh = name in won if is_keyed(claim.of) else name not in resent
            holder = self._take(claim) if is_fresh else self.database.claims.get(claim.name)
            taken |= {claim.name} if is_fresh and holder is None else set()
            if holder is not None and holder not in holders and claim.name not in taken:
                holders.append(holder)
        return holders

    def _take(self, claim: Claim) -> Claim | None:
        """Take a name, or return who has it."""
        holder = self.database.claims.get(claim.name)
        if holder is None:
            self.database.claims[claim.name] = msgspec.structs.replace(claim, of=None)
        return holder

    def _append(
        self,
        events: Sequence[StoredEvent],
        expected: Head,
        head: Head,
        links: bytes,
        traces: Sequence[Trace],
    ) -> None:
        self._check_open()
        stored = self.database.heads.get(head.shard)
        if stored != expected:
            raise StaleWriter(f"{stored} is not {expected}")
        self.database.links[head.shard] = self.database.links.get(head.shard, b"") + links
        self.database.traces.setdefault(head.shard, []).extend(traces)
        self.database.heads[head.shard] = head
        self.database.batches.setdefault(head.shard, []).append(head)
        self.database.events.setdefault(head.shard, []).extend(events)
        self.database.tell_end()
        self.database.on_commit(head)

    def _check_open(self) -> None:
        if self._ended:
            raise ConnectionError("the server has ended this session")

    def _check_end(self, head: Head) -> None:
        if self.database.writers.get(self.shard) is not self:
            raise ConnectionError("a successor ended this session")
        events = self.database.events.get(self.shard, [])
        ends = [batch.position for batch in self.database.batches.get(self.shard, [])]
        ends += [event.position for event in events[-1:]]
        if any(end > head.position for end in ends):
            raise LogCorrupt(f"there is more than {head} has reached")
        if any(event.kafka_offset >= head.next_offset for event in events[-1:]):
            raise LogCorrupt(f"{head} would decide again")

    def _slice(self, start: int, end: int) -> list[StoredEvent]:
        events = self.database.events.get(self.shard, [])
        begin, behind = (bisect_right(events, at, key=lambda e: e.position) for at in (start, end))
        return events[begin:behind]


class MemoryOutcomes:
    """An ``OutcomeChannel`` that calls whoever listens at that moment."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[[bytes], None]]] = {}

    async def publish(self, gateway: str, message: bytes) -> None:
        self.deliver(gateway, message)

    def deliver(self, gateway: str, message: bytes) -> None:
        for on_message in self._listeners.get(gateway, []):
            on_message(message)

    def listen(self, gateway: str, on_message: Callable[[bytes], None]) -> None:
        self._listeners.setdefault(gateway, []).append(on_message)
