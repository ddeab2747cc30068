"""The single writer: reads commands in order, appends the events they cause.

Read ``step``; it is the whole write side. Per batch it

1. takes the batch's claims, so that a resent command or a taken order id is known;
2. decides every command in memory, each on the state the previous one left;
3. waits until the batch before is durable, then appends this one's events and
   moves the head in one statement, while the next batch is already being read,
   claimed and decided;
4. after the commit, and not before, tells the gateways.

Nothing here retries. When an append fails, memory is ahead of the log and must
not be trusted: the error propagates, the process exits, and the next one starts
from ``restore``.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from exchange import BUILD
from exchange.domain.commands import Command, PlaceOrder, RetriedRecord
from exchange.domain.engine import State, decide, evolve
from exchange.domain.values import (
    Offset,
    Shard,
    instrument_of_exchange_order_id,
)
from exchange.log.chain import abridge_links, chain_links
from exchange.log.command_form import commands_version
from exchange.log.events import store_event
from exchange.log.identity import (
    body_hash,
    command_claim,
    is_keyed,
    is_unkeyed,
    order_claim,
    retry_command_id,
    unkeyed_claim,
)
from exchange.matcher.metrics import MatcherMetrics, MatcherWatch, WatchedBatch
from exchange.matcher.replica import Replica
from exchange.matcher.replies import Message, Publisher, Reply, messages_of
from exchange.ports import (
    UNKNOWN_BODY,
    Claim,
    CommandLog,
    CommandRecord,
    EventStore,
    Head,
    NewerCommand,
    OutcomeChannel,
    StoredEvent,
    UnstorableRows,
)
from exchange.transport.messages import (
    Outcome,
    ReceivedCommand,
    build_of,
    quarantine,
    receive,
    refuse,
    version_of,
)

logger = logging.getLogger(__name__)

BATCH_COMMANDS_MAX: Final = 500  # bounds one transaction and the wait of those behind it
BATCH_EVENTS_MAX: Final = 5_000  # the same for commands that sweep; one command may exceed it
# After a batch the matcher lets commands gather: a transaction, a message and a wake-up cost the
# same for one command as for many. After a small batch it waits little, so a lone client hardly
# notices.
PACE_PER_COMMAND_S: Final = 0.001
PACE_MAX_S: Final = 0.010
CRASHES_MAX: Final = 3  # of one command, run alone; then it is quarantined
CHAIN_EVERY_S: Final = 60.0  # between logged chains: only later events can be rewritten unnoticed
STOP_S: Final = 5.0  # how long a stop waits for the commit under way, and then for its answers


class Fresh(Struct, frozen=True):
    """A command to decide; ``order_id_taken`` says that an earlier one has its order's id."""

    order_id_taken: bool


class Resent(Struct, frozen=True):
    """A command whose key an earlier command took.

    ``first`` is the earlier one's location; ``conflict`` says that it asked something else.
    """

    first: tuple[int, int]
    conflict: bool


Verdict = Fresh | Resent


class Decided(Struct):
    """A batch after deciding: the events to append and the replies to send."""

    events: list[StoredEvent]
    replies: list[Reply]


class Append(Struct, frozen=True):
    """What one transaction appends: events, the head before and after them, their chain.

    ``suspect`` is the offset of the batch's command if that may have crashed the matcher.
    """

    events: list[StoredEvent]
    expected: Head
    head: Head
    links: list[bytes]
    suspect: Offset | None


class Matcher:
    """The writer of one shard."""

    def __init__(
        self,
        shard: Shard,
        commands: CommandLog,
        events: EventStore,
        outcomes: OutcomeChannel,
        metrics: MatcherMetrics | None = None,
    ) -> None:
        self.shard = shard
        self.state = State()
        self.head: Head
        self._suspects_end = Offset(0)
        self._commands = commands
        self._events = events
        self._watch = MatcherWatch(metrics or MatcherMetrics(), shard)
        self._publisher = Publisher(shard, outcomes, self._watch.dropped)
        self._waiting: list[CommandRecord] = []  # read, but beyond the last batch's bound
        self._commit: asyncio.Task[None] | None = None
        self._gather_until_s = 0.0
        self._told_s = 0.0
        # The commands without a key of the last batch. Its commit may be under way, so that the
        # next batch does not find them in the log. The batch before it is durable.
        self._under_way: dict[str, Claim] = {}

    async def run(self) -> None:
        """Take the shard over and match until cancelled or until something fails."""
        await self.restore()
        async with asyncio.TaskGroup() as tasks:
            holding = tasks.create_task(self._events.hold())
            publishing = tasks.create_task(self._publisher.run())
            try:
                while True:
                    await self.step(tasks)
            finally:
                await self._finish(publishing)
                publishing.cancel()
                holding.cancel()

    async def restore(self) -> None:
        """Take over the shard with the state that its log gives. Call once, before ``step``.

        While another matcher lives, this one stands by: it follows the log, and takes over when the
        other is gone. Everything slow is done before the take-over.

        Raises:
            ForeignTopic: The topic is not the one that the log was written from.
            CommandLogLost: The topic does not have the last record that the log has decided.
            LogCorrupt: The events do not give the digest of the head, or do not end with it.
            UnknownEvent: An event was written by another version of the software.
        """
        replica = Replica(self.shard, self._events)
        await replica.begin(await self._events.position())
        replica.check_books()
        standing_by = False
        while not await self._events.is_free():
            if not standing_by:
                self._report_standing_by(replica)
                standing_by = True
            await replica.advance(await self._events.position())
        head = await self._events.take_over(await self._commands.topic_id())
        await replica.advance(head.position)
        replica.check_digest(head)
        await self._events.check_end(head)
        self.state, self.head = replica.state, head
        await self._commands.seek(head.next_offset, base=head.offset_base, last=head.last)
        await self._suspect()
        self._watch.restored(head, lambda: self._publisher.waiting)
        self._told_s = asyncio.get_running_loop().time()
        fields = {"epoch": head.epoch, "chain": head.chain.hex()}
        logger.info("Took over the shard", extra={**self._where(), **fields})

    async def step(self, tasks: asyncio.TaskGroup) -> None:
        """Decide one batch of commands; its commit goes on in ``tasks``."""
        await self._pace()
        records = self._waiting or await self._commands.read(BATCH_COMMANDS_MAX)
        if not records:
            await self._pass_by()
            return
        self._watch.read()
        suspect = records[0].offset if records[0].offset < self._suspects_end else None
        received = await self._receive(records[: self._readable(records)], suspect)
        async with self._blaming_rows(suspect):
            verdicts = await self._claim(received)
        if suspect is not None:
            await self._events.count_attempt(suspect)
        self._watch.claimed()
        decided, done = self._decide(received, verdicts)
        self._under_way = self._unkeyed(received[:done], verdicts)
        watched = self._watch.decided(received[:done], decided.events)
        pace_s = min(PACE_MAX_S, done * PACE_PER_COMMAND_S)
        self._gather_until_s = asyncio.get_running_loop().time() + pace_s
        self._waiting = records[done:]
        links = chain_links(self.head.chain, decided.events)
        head = self._next_head(links, records[done - 1])
        messages = messages_of(self.shard, self.state, decided.replies)
        if suspect is not None:
            await self._events.forgive_attempt(suspect)
        await self._settle()
        append = Append(decided.events, self.head, head, links, suspect)
        self._commit = tasks.create_task(self._append(watched, append, messages))
        self.head = head

    def _readable(self, records: Sequence[CommandRecord]) -> int:
        """Return how many records come before the first that a newer build must decide.

        Raises:
            NewerCommand: The first record needs a newer build. No crash is counted for it.
        """
        reads = commands_version()
        for number, record in enumerate(records):
            version = version_of(record)
            if version <= reads:
                continue
            if number:
                return number
            raise NewerCommand(
                f"shard {self.shard}: the command at offset {record.offset} is of version"
                f" {version}, sent by {build_of(record)}; this matcher, {BUILD}, reads"
                f" up to {reads}. Start one of that build: nothing is lost until then."
            )
        return len(records)

    async def _suspect(self) -> None:
        """After a crash at the same offset, mark the commands that may have caused it."""
        begin = self.head.next_offset
        if await self._events.count_start(begin):
            end = await self._commands.end()  # a command that came later caused no crash
            self._suspects_end = Offset(min(end, begin + BATCH_COMMANDS_MAX))

    async def _receive(
        self, records: Sequence[CommandRecord], suspect: Offset | None
    ) -> list[ReceivedCommand]:
        """Read commands; a suspect one alone."""
        if suspect is None:
            received = [receive(record) for record in records]
        else:
            records = records[:1]
            received = [await self._receive_suspect(records[0])]
        if not any(isinstance(r.command, RetriedRecord) for r in received):
            return received
        return await self._check_retries(records, received)

    async def _receive_suspect(self, record: CommandRecord) -> ReceivedCommand:
        """Read a command that may have crashed the matcher, or quarantine it if it did too often.

        An attempt is counted while the command is read and again while it is decided, and taken
        back after each: a crash in between, such as a failure of the store, does not count.
        """
        await self._settle()  # so that a crash is this command's and no other's
        crashes = await self._events.count_attempt(record.offset) - 1
        if crashes < CRASHES_MAX:
            received = receive(record)
            body_hash(received.command)  # its claim needs it
        else:
            received = quarantine(record, crashes=crashes)
            fields = {**self._where(), "offset": record.offset, "crashes": crashes}
            logger.critical("Quarantined a command that crashed the matcher", extra=fields)
        await self._events.forgive_attempt(record.offset)
        return received

    async def _check_retries(
        self, records: Sequence[CommandRecord], received: Sequence[ReceivedCommand]
    ) -> list[ReceivedCommand]:
        """Refuse retries of what was not quarantined, before they can take a retry's key."""
        await self._settle()  # so that the store has every command before these
        offsets = [retry.offset for r in received for retry in _retries(r.command)]
        quarantined = await self._events.quarantined([Offset(offset) for offset in offsets])
        return [
            r if reason is None else refuse(record, reason)
            for record, r in zip(records, received, strict=True)
            for reason in [self._refusal_of_retry(r, quarantined)]
        ]

    def _refusal_of_retry(
        self, received: ReceivedCommand, quarantined: Mapping[Offset, str]
    ) -> str | None:
        retries = _retries(received.command)
        for retry in retries:
            if quarantined.get(Offset(retry.offset)) != retry.sha256:
                return f"offset {retry.offset} of this shard holds no quarantine of these bytes"
        if retries and received.command_id != retry_command_id(self.shard, retries[0].offset):
            return f"its command id is not that of a retry of offset {retries[0].offset}"
        return None

    @asynccontextmanager
    async def _blaming_rows(self, suspect: Offset | None) -> AsyncIterator[None]:
        """Count it against a suspect if its own rows cannot be stored."""
        try:
            yield
        except UnstorableRows:
            if suspect is not None:
                await self._events.count_attempt(suspect)
            raise

    async def _settle(self) -> None:
        """Wait until the batch before is durable."""
        if self._commit is not None:
            await asyncio.shield(self._commit)  # a stop must not cancel the commit under way

    async def _pace(self) -> None:
        """Let commands gather while the last batch is young; an idle matcher decides at once."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._gather_until_s - loop.time()))

    async def _claim(self, received: Sequence[ReceivedCommand]) -> list[Verdict]:
        """Take the ids of the batch's commands, and the order ids of those that are fresh.

        A command that is resent must not take an order id. One without a key takes no name: its id
        is in its events, or in ``_under_way`` while those of the batch before are not durable.
        """
        holders = dict(self._under_way)
        named = [(r, _command_claim(r), _chosen_order_claim(r)) for r in received]
        claims: list[Claim] = []
        unkeyed: list[UUID] = []
        for r, name, order_name in named:
            if name is None or name in holders:
                continue
            keyed = is_keyed(r.command_id)
            body = body_hash(r.command) if keyed or order_name is not None else UNKNOWN_BODY
            if keyed:
                holders[name] = Claim(name, self.shard, r.offset, body)
                claims.append(holders[name])
            else:
                holders[name] = unkeyed_claim(r.command_id, self.shard, r.offset)
                unkeyed.append(r.command_id)
            if order_name is not None:
                claims.append(Claim(order_name, self.shard, r.offset, body, of=r.command_id))
        holders |= {
            claim.name: claim for claim in await self._events.claim(claims, unkeyed=unkeyed)
        }
        return [self._verdict(*one, holders) for one in named]

    def _verdict(
        self,
        received: ReceivedCommand,
        name: str | None,
        order_name: str | None,
        holders: dict[str, Claim],
    ) -> Verdict:
        """Tell what a command is by the holders of its names; it takes those that are free."""
        if name is not None and not self._is_mine(first := holders[name], received):
            conflict = first.conflicts_with(body_hash(received.command))
            return Resent((first.shard, first.kafka_offset), conflict)
        if order_name is None:
            return Fresh(order_id_taken=False)
        first = holders.setdefault(
            order_name, Claim(order_name, self.shard, received.offset, UNKNOWN_BODY)
        )
        return Fresh(order_id_taken=not self._is_mine(first, received))

    def _is_mine(self, holder: Claim, received: ReceivedCommand) -> bool:
        # By location, not by whether the claim is new: a command left over from the last batch has
        # claimed already, and a quarantined command may have claimed before it crashed.
        offsets = [received.offset, *(retry.offset for retry in _retries(received.command))]
        return holder.shard == self.shard and holder.kafka_offset in offsets

    def _unkeyed(
        self, received: Sequence[ReceivedCommand], verdicts: Sequence[Verdict]
    ) -> dict[str, Claim]:
        """Return the first locations of the just decided commands without a key, as claims."""
        claims: dict[str, Claim] = {}
        for r, verdict in zip(received, verdicts, strict=False):
            if is_unkeyed(r.command_id):
                first = verdict.first if isinstance(verdict, Resent) else (self.shard, r.offset)
                claims[command_claim(r.command_id)] = unkeyed_claim(r.command_id, *first)
        return claims

    def _decide(
        self, received: Sequence[ReceivedCommand], verdicts: Sequence[Verdict]
    ) -> tuple[Decided, int]:
        """Decide commands until the batch is full; return it and how many were decided."""
        decided = Decided([], [])
        done = 0
        for command, verdict in zip(received, verdicts, strict=True):
            match verdict:
                case Fresh():
                    self._decide_fresh(command, verdict.order_id_taken, decided)
                case Resent():
                    _tell_resent(command, verdict, decided)
            done += 1
            if len(decided.events) >= BATCH_EVENTS_MAX:
                break
        return decided, done

    def _decide_fresh(self, received: ReceivedCommand, taken: bool, decided: Decided) -> None:
        events = decide(
            self.state,
            received.command,
            time_ms=received.time_ms,
            order_id_taken=taken,
            key_id=received.key_id,
        )
        first = len(decided.events)
        for event in events:
            evolve(self.state, event)
            decided.events.append(
                store_event(
                    event,
                    shard=self.shard,
                    position=self.state.position,
                    command_id=received.command_id,
                    kafka_offset=received.offset,
                )
            )
        if received.gateway is None:
            return
        stored = decided.events[first:]
        versions = [event.version for event in stored]
        outcome = Outcome(
            received.waiter,
            received.offset,
            first_position=stored[0].position,
            events=[Raw(event.data.encode()) for event in stored],
            versions=versions if any(version != 1 for version in versions) else [],
        )
        order = _order(received.command)
        instrument = None if order is None else order.instrument
        decided.replies.append(Reply(received.gateway, outcome, instrument))

    def _next_head(self, links: Sequence[bytes], last: CommandRecord) -> Head:
        # A marker may follow the last record. It came in the same read, and would not come again.
        following = Offset(last.offset + 1) if self._waiting else self._commands.next_offset
        return msgspec.structs.replace(
            self.head,
            position=self.state.position,
            next_offset=following,
            chain=links[-1] if links else self.head.chain,
            state_digest=self.state.digest,
            last=last.last,
        )

    async def _pass_by(self) -> None:
        """Move the head past offsets that hold no command, so that nobody waits for them."""
        await self._settle()
        head = msgspec.structs.replace(self.head, next_offset=self._commands.next_offset)
        await self._events.append([], expected=self.head, head=head, links=b"")
        self.head = head

    async def _append(
        self,
        watched: WatchedBatch,
        append: Append,
        messages: Sequence[Message],
    ) -> None:
        with watched:
            async with self._blaming_rows(append.suspect):
                await self._events.append(
                    append.events,
                    expected=append.expected,
                    head=append.head,
                    links=abridge_links(append.links),
                    traces=watched.traces,
                )
        self._publisher.put(messages)
        self._tell_chain(append.head)
        logger.debug(
            "Appended batch",
            extra={
                "shard": self.shard,
                "position": append.head.position,
                "events": len(append.events),
            },
        )

    def _tell_chain(self, head: Head) -> None:
        """Log the chain once a minute, so that a log which is rewritten later can be told."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_s >= CHAIN_EVERY_S:
            self._told_s = now_s
            fields = {"shard": head.shard, "position": head.position, "chain": head.chain.hex()}
            logger.info("The log's chain", extra=fields)

    async def _finish(self, publishing: asyncio.Task[None]) -> None:
        """Let the commit under way end and its gateways know; a stop should cost no answer."""
        if self._commit is not None:
            # Its failure is the task group's to report.
            await asyncio.wait({self._commit}, timeout=STOP_S)
        drained = asyncio.create_task(self._publisher.drained())
        # A publisher that was cancelled, since something failed, sends no more.
        ends = {drained, publishing}
        await asyncio.wait(ends, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()

    def _report_standing_by(self, replica: Replica) -> None:
        fields = {"shard": self.shard, "position": replica.state.position}
        logger.warning("Standing by: another matcher has the shard", extra=fields)

    def _where(self) -> dict[str, object]:
        return {"shard": self.shard, "position": self.state.position}


def _command_claim(received: ReceivedCommand) -> str | None:
    """Name the claim of a command; None for a record that is no command."""
    command_id = received.command_id
    named = is_keyed(command_id) or is_unkeyed(command_id)
    return command_claim(command_id) if named else None


def _chosen_order_claim(received: ReceivedCommand) -> str | None:
    order = _order(received.command)
    if order is None or instrument_of_exchange_order_id(order.order_id) is not None:
        return None
    return order_claim(order.order_id)


def _order(command: Command) -> PlaceOrder | None:
    """Return the order that a command places, at once or in a retry."""
    while isinstance(command, RetriedRecord):
        command = command.command
    return command if isinstance(command, PlaceOrder) else None


def _retries(command: Command) -> list[RetriedRecord]:
    """Return the retries in a command, outermost first: a retry may have been quarantined too."""
    retries: list[RetriedRecord] = []
    while isinstance(command, RetriedRecord):
        retries.append(command)
        command = command.command
    return retries


def _tell_resent(received: ReceivedCommand, verdict: Resent, decided: Decided) -> None:
    if received.gateway is None:
        return
    outcome = Outcome(
        received.waiter, received.offset, first=verdict.first, conflict=verdict.conflict
    )
    decided.replies.append(Reply(received.gateway, outcome))
