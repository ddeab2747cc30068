"""The way of a command: into Kafka, and back as its outcome.

Read ``Submitter.submit``. It gives the command a waiter, whose number travels with the command in
the ``reply_to`` header, and waits for the first of

* the outcome, which the matcher publishes through Redis after its commit;
* the outcome from the log: messages of Redis may be lost, so a waiter without answer after
  ``LOOKUP_AFTER_S`` is looked up by its location in Kafka;
* the finding that Kafka has lost the command: the topic was adopted meanwhile, and does not have it
  any more;
* the end of the wait: the command is in Kafka and will be decided, so the answer is "pending" and
  where to ask;
* a failed delivery: the outcome is unknown, and only with the same key is it safe to send again.

Always holds: a refusal with outcome "none" is given only if the command is certainly not in Kafka.

A matcher that cannot keep up gets no more: an order is refused while one that Kafka has waits for
longer than ``ORDERS_BEHIND_S``, and anything else after ``BEHIND_S``. Nor does a gateway that
cannot keep up itself: its timer comes late by what every request has to wait for its turn.

A waiter costs no task and no timer of its own. One timer walks over all waiters, and one query at a
time asks for all that are due. Both exist only while somebody waits.

Two kinds of look-ups are slow and run apart, so that they delay no other: outcomes of many events,
and commands of a topic that was adopted since, whose look-up waits until all of the topic is
decided.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from functools import partial
from itertools import repeat
from typing import Final, assert_never
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    ClientCommand,
    CloseSettlementCycle,
    CreateAccount,
    IssueKey,
    LimitOpenOrders,
    PlaceOrder,
    PlaceShard,
    RegisterInstrument,
    ResumeClient,
    RevokeKey,
    RotateKey,
    SuspendClient,
)
from exchange.domain.events import CommandQuarantined
from exchange.domain.values import Offset, Position, Shard
from exchange.gateway.http.problems import Code, Problem, telling
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.decisions import (
    Decision,
    Pending,
    RenderedBook,
    decision_of,
    key_conflict,
)
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import log_connection
from exchange.log.command_form import command_version
from exchange.log.events import DecidedEvent, UnknownEvent, decode_event_data
from exchange.log.identity import body_hash, is_keyed
from exchange.log.reader import (
    FoundOutcome,
    LocatedCommand,
    find_outcomes,
    follow_retries,
    read_events_at,
    read_events_of,
)
from exchange.ports import StoredEvent
from exchange.telemetry import tracing
from exchange.transport.commands import CommandProducer, Delivery, NotProduced
from exchange.transport.messages import Outcome, OutcomeMessage, encode_command, reply_address
from exchange.waiting import SharedByKey

logger = logging.getLogger(__name__)

WAITERS_MAX: Final = 10_000  # all orders that one process can take in two seconds
SWEEP_S: Final = 0.05  # half the first look-up's delay
LOOKUP_AFTER_S: Final = 0.1  # an outcome takes 30 ms under load, so its message was probably lost
LOOKUP_EVERY_MAX_S: Final = 0.8
TOGETHER_EVENTS_MAX: Final = 100  # read of each outcome when many are asked for; an order has a few
TOGETHER_MAX: Final = 200  # first outcomes in one query: some 10 ms of the server's time
# An outcome that Redis loses is found within half a second; who waits longer waits for a matcher.
ORDERS_BEHIND_S: Final = 1.0
BEHIND_S: Final = 1.8  # a cancel is taken for as long as it may be decided within the usual wait
# Of the event loop. A request has a few turns, so it takes several times as long.
ORDERS_LATE_S: Final = 0.5
LATE_S: Final = 1.0
DELIVERY_WAIT_S: Final = 1.8  # longer than the producer's own timeout, for an answer within 2 s


class _Way(Enum):
    """How a waiter's outcome is looked up."""

    TOGETHER = "with all others"
    ALONE = "by itself: it has many events"
    SETTLED = "once all is decided: its location is of a former life of the topic"


_Answer = Decision | FoundOutcome | Pending | Delivery


class Waiter:
    """One command that was sent and waits for its outcome; the first answer wins."""

    __slots__ = (
        "_future",
        "born_s",
        "command",
        "command_id",
        "every_s",
        "key_id",
        "location",
        "next_s",
        "number",
        "wait",
        "way",
    )

    def __init__(
        self,
        number: int,
        command: ClientCommand,
        command_id: UUID,
        wait: bool,
        key_id: str | None,
    ) -> None:
        now_s = time.monotonic()
        self.number = number
        self.command = command
        self.command_id = command_id
        self.wait = wait
        self.key_id = key_id
        self.born_s = now_s
        self.next_s = now_s + LOOKUP_AFTER_S
        self.every_s = LOOKUP_AFTER_S
        self.way = _Way.TOGETHER
        self.location: Pending | None = None
        self._future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()

    @property
    def answered(self) -> bool:
        return self._future.done()

    def answer(self, answer: _Answer) -> None:
        if not self._future.done():
            self._future.set_result(answer)

    def delivered(self, delivery: Delivery, location: Pending) -> None:
        """Take Kafka's report: a failure is the answer, a location only if nobody waits."""
        if delivery.error is not None:
            self.answer(delivery)
            return
        self.location = location
        if not self.wait:
            self.answer(self.location)

    async def result(self) -> _Answer:
        return await self._future

    @property
    def is_undecided(self) -> bool:
        """Whether the matcher is waited for, and not the reading of what it decided."""
        return not self._future.done() and self.way is _Way.TOGETHER

    @property
    def is_decided(self) -> bool:
        """Whether the outcome has come whole, so that nothing is left to look up."""
        return self._future.done() and isinstance(self._future.result(), Decision)


class Submitter:
    """Sends commands and finds out what became of them."""

    def __init__(
        self,
        producer: CommandProducer,
        engine: AsyncEngine,
        metrics: Metrics,
        backlog: Backlog,
        *,
        wait_s: float,
    ) -> None:
        self.gateway_id = os.urandom(8).hex()
        self._producer = producer
        self._engine = engine
        self._metrics = metrics
        self._backlog = backlog
        self._wait_s = wait_s
        self._waiters: dict[int, Waiter] = {}  # oldest first
        self._last_number = 0
        self._places_kept = 0  # for commands that are about to be sent
        self._oldest: dict[int, Waiter] = {}  # by shard: what waited longest at the last sweep
        self._late_s = 0.0  # how late the timer was when it came last
        self._timer: asyncio.TimerHandle | None = None
        self._lookups: dict[_Way, asyncio.Task[None]] = {}  # the last one of each way
        self._first_events = SharedByKey(self._read_first_events)

    @property
    def waiters(self) -> int:
        """How many requests wait here."""
        return len(self._waiters)

    @property
    def wait_s(self) -> float:
        """How long a command waits for its outcome before it is "pending"."""
        return self._wait_s

    @property
    def longest_wait_s(self) -> float:
        """How long a command may wait for its outcome, or for Kafka to have it."""
        return max(self._wait_s, DELIVERY_WAIT_S)

    async def submit(
        self,
        shard: int,
        command: ClientCommand,
        command_id: UUID,
        *,
        wait: bool = True,
        on_handed_over: Callable[[], None] | None = None,
        key_id: str | None = None,
    ) -> Decision | Pending:
        """Send ``command`` and return its outcome, or its location if it is not decided in time.

        ``key_id`` is that of the key by which the command was signed.

        Raises:
            Problem: The command was not sent, it may or may not have been sent, Kafka has lost it,
                or its key belongs to another request.
        """
        async with self.places_for(1):
            waiter = self.send(shard, command, command_id, wait=wait, key_id=key_id)
        if on_handed_over is not None:
            on_handed_over()
        try:
            return await self.outcome_of(waiter)
        finally:
            self.forget(waiter)

    def check_open(self) -> None:
        """Refuse many orders before they are read, where none of them would be sent.

        Raises:
            Problem: 503, too many commands wait here, or the gateway cannot keep up.
        """
        if len(self._waiters) + self._places_kept >= WAITERS_MAX:
            raise _no_places()
        self._check_turns(ORDERS_LATE_S)

    @asynccontextmanager
    async def places_for(self, commands: int) -> AsyncIterator[None]:
        """Keep places for so many commands, which are sent inside: for all of them or for none.

        Raises:
            Problem: 503, too many commands wait for their outcomes here.
        """
        await self._backlog.learn_bases()
        if len(self._waiters) + self._places_kept + commands > WAITERS_MAX:
            raise _no_places()
        self._places_kept += commands
        try:
            yield
        finally:
            self._places_kept -= commands

    def send(
        self,
        shard: int,
        command: ClientCommand,
        command_id: UUID,
        *,
        wait: bool = True,
        key_id: str | None = None,
    ) -> Waiter:
        """Hand a command to Kafka's client, in a place that was kept; ``forget`` it in the end.

        Raises:
            Problem: The command was not sent.
        """
        self._backlog.check_whole(shard)
        version = command_version(command, signed=key_id is not None)
        self._backlog.check_readable(shard, version)
        self._backlog.check_room(shard, command)
        self._check_pace(shard, command)
        self._last_number += 1
        waiter = Waiter(self._last_number, command, command_id, wait, key_id)
        self._produce(shard, waiter, version)
        self._waiters[waiter.number] = waiter
        self._arm()
        return waiter

    def _check_pace(self, shard: int, command: ClientCommand) -> None:
        self._check_turns(ORDERS_LATE_S if isinstance(command, PlaceOrder) else LATE_S)
        oldest = self._oldest.get(shard)
        if oldest is None or not oldest.is_undecided:
            return
        behind_s = time.monotonic() - oldest.born_s
        if behind_s > (ORDERS_BEHIND_S if isinstance(command, PlaceOrder) else BEHIND_S):
            detail = f"A command of shard {shard} waits for {behind_s:.1f} s: nothing was sent."
            raise Problem(Code.BUSY, detail, outcome="none")

    def _check_turns(self, late_s: float) -> None:
        if self._late_s > late_s:
            detail = (
                f"Requests wait for {self._late_s:.1f} s for their turn here: nothing was sent."
            )
            raise Problem(Code.BUSY, detail, outcome="none")

    async def outcome_of(self, waiter: Waiter) -> Decision | Pending:
        """Return the outcome of a command, or its location if it is not decided in time.

        Raises:
            Problem: It may or may not have been sent, Kafka has lost it, or its key belongs to
                another request.
        """
        answer = await waiter.result()
        tracing.note("heard")
        self.forget(waiter)
        if isinstance(answer, Decision | FoundOutcome):
            self._metrics.order_seconds.observe(time.monotonic() - waiter.born_s)
        return await self._concluded(answer, waiter)

    def forget(self, *waiters: Waiter) -> None:
        """Wait no more for the outcomes of some commands; they may have come."""
        for waiter in waiters:
            self._waiters.pop(waiter.number, None)

    def heard(self, message: OutcomeMessage) -> None:
        """Answer the waiters whose outcomes are in a message from Redis."""
        books = {name: RenderedBook(depth) for name, depth in message.books.items()}
        for outcome in message.outcomes:
            waiter = self._waiters.get(outcome.waiter)
            if waiter is None:
                continue
            if not waiter.wait:  # decided before Kafka reported the same location
                waiter.answer(Pending(message.shard, outcome.offset))
                continue
            # An outcome that a newer matcher wrote in a new form is left to the look-up in the log.
            with suppress(UnknownEvent, ValueError):
                waiter.answer(_heard(message.shard, outcome, books, waiter))

    async def first_outcome(
        self, first: tuple[int, int], command_id: UUID, asked: bytes, *, conflict: bool
    ) -> Decision | Pending:
        """Return the outcome of the first command with a key, which may not be decided yet.

        ``asked`` is the hash of the present request. ``conflict`` says whether the key's claim has
        another hash.

        Raises:
            Problem: 409, the first command asked for something else; 503, the log cannot be read.
        """
        with telling(outcome="unknown", command_id=str(command_id)):
            events = await self._first_events.ask(first) or []
            if events and _goes_on(events):
                async with log_connection(self._engine) as connection:
                    whole = await read_events_at(connection, *first)
                    events = await follow_retries(connection, whole)
        decision = await decision_of(events, resent=True) if events else None
        if conflict if decision is None else decision.conflicts_with(asked, claimed=conflict):
            raise key_conflict()
        return Pending(*first) if decision is None else decision

    async def _read_first_events(
        self, firsts: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], list[StoredEvent]]:
        """Return the events of the first commands with their keys, as many as are read together."""
        found: dict[tuple[int, int], list[StoredEvent]] = {}
        for begin in range(0, len(firsts), TOGETHER_MAX):
            some = firsts[begin : begin + TOGETHER_MAX]
            async with log_connection(self._engine) as connection:
                found |= await read_events_of(connection, some, limit=TOGETHER_EVENTS_MAX + 1)
        return found

    def stop(self) -> None:
        """Cancel the timer and the look-ups. No command may be under way any more."""
        if self._timer is not None:
            self._timer.cancel()
        for lookup in self._lookups.values():
            lookup.cancel()

    def _produce(self, shard: int, waiter: Waiter, version: int) -> None:
        try:
            self._producer.produce(
                shard,
                key=_key_of(waiter.command),
                value=encode_command(waiter.command),
                command_id=waiter.command_id,
                reply_to=reply_address(self.gateway_id, waiter.number),
                on_delivery=partial(self._delivered, waiter),
                traceparent=tracing.current(),
                version=version,
                key_id=waiter.key_id,
            )
            tracing.note("sent")
        except NotProduced as error:
            self._metrics.produce_failures["none"].inc()
            raise Problem(
                Code.KAFKA_UNAVAILABLE, f"Nothing was sent: {error}.", outcome="none"
            ) from error

    def _delivered(self, waiter: Waiter, delivery: Delivery) -> None:
        offset = self._backlog.offset_of_log(delivery.shard, delivery.offset)
        waiter.delivered(delivery, Pending(delivery.shard, offset))

    async def _concluded(self, answer: _Answer, waiter: Waiter) -> Decision | Pending:
        match answer:
            case Pending():
                return _told_later(answer, waiter)
            case Delivery():
                raise self._undelivered(answer, waiter)
            case FoundOutcome(first=first) if first is not None:
                return await self._first_outcome(first, waiter, conflict=answer.conflict)
            case FoundOutcome(displaced=True):
                raise lost(waiter.command_id)
            case FoundOutcome():
                return await decision_of(answer.events)
            case Decision():
                return answer

    async def _first_outcome(
        self, first: tuple[int, int], waiter: Waiter, *, conflict: bool
    ) -> Decision | Pending:
        asked = body_hash(waiter.command)
        return await self.first_outcome(first, waiter.command_id, asked, conflict=conflict)

    def _undelivered(self, delivery: Delivery, waiter: Waiter) -> Problem:
        outcome = "none" if delivery.never_sent else "unknown"
        self._metrics.produce_failures[outcome].inc()
        return Problem(
            Code.KAFKA_UNAVAILABLE,
            f"Kafka did not confirm the command ({delivery.error}). With an idempotency key it can"
            " be sent again safely.",
            outcome=outcome,
            command_id=str(waiter.command_id),
        )

    def _arm(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SWEEP_S, self._sweep, loop.time() + SWEEP_S)

    def _sweep(self, due_s: float) -> None:
        """Answer the waiters whose time is over, and start a look-up for those that are due."""
        self._timer = None
        # With nobody who waits no timer would find out that it is over.
        self._late_s = asyncio.get_running_loop().time() - due_s if self._waiters else 0.0
        now_s = time.monotonic()
        due: list[Waiter] = []
        self._oldest = {}
        for waiter in self._waiters.values():
            if now_s - waiter.born_s < LOOKUP_AFTER_S:
                break  # all after it are younger
            if not waiter.answered and self._is_due(waiter, now_s):
                due.append(waiter)
            if waiter.location is not None and waiter.is_undecided:
                self._oldest.setdefault(waiter.location.shard, waiter)
        for way in _Way:
            some = [waiter for waiter in due if waiter.way is way]
            before = self._lookups.get(way)
            if some and (before is None or before.done()):
                self._lookups[way] = asyncio.create_task(self._look_up_by(way, some))
        if self._waiters:
            self._arm()

    async def _look_up_by(self, way: _Way, due: Sequence[Waiter]) -> None:
        match way:
            case _Way.TOGETHER:
                await self._look_up(due, TOGETHER_EVENTS_MAX)
            case _Way.ALONE:
                await self._look_up_each(due)
            case _Way.SETTLED:
                await self._look_up_settled(due)

    def _is_due(self, waiter: Waiter, now_s: float) -> bool:
        age_s = now_s - waiter.born_s
        if waiter.location is None:
            if age_s >= DELIVERY_WAIT_S:
                waiter.answer(Delivery(-1, -1, "it did not answer in time"))
            return False
        if age_s >= self._wait_s:
            waiter.answer(waiter.location)
            return False
        return now_s >= waiter.next_s

    async def _look_up_each(self, due: Sequence[Waiter]) -> None:
        for waiter in due:
            if not waiter.answered:
                await self._look_up([waiter])

    async def _look_up_settled(self, due: Sequence[Waiter]) -> None:
        """Wait until all of Kafka is decided, then look the commands up: missing ones are lost."""
        try:
            await self._backlog.settle()
        except Problem as problem:
            logger.warning("Cannot tell what Kafka has lost", extra={"error": str(problem)})
            _ask_later(due)
            return
        await self._look_up(due)

    async def _look_up(self, due: Sequence[Waiter], events_max: int | None = None) -> None:
        self._metrics.lookups.inc(len(due))
        asked = [_located(waiter) for waiter in due]
        try:
            async with log_connection(self._engine) as connection:
                found = await find_outcomes(connection, asked, events_max=events_max)
        except Problem as problem:
            logger.warning("Cannot look outcomes up in the log", extra={"error": str(problem)})
            found = {}
        still: list[Waiter] = []
        for waiter in due:
            assert waiter.location is not None
            answer = found.get((waiter.location.shard, waiter.location.offset))
            if answer is None:
                still.append(waiter)
            elif answer.too_many:
                waiter.way = _Way.ALONE  # from the next sweep on
            elif answer.displaced and waiter.way is not _Way.SETTLED:
                waiter.way = _Way.SETTLED
            else:
                waiter.answer(answer)
        _ask_later(still)


def _goes_on(events: Sequence[StoredEvent]) -> bool:
    """Tell whether a command has more events than are read together, or a retry has its own."""
    return len(events) > TOGETHER_EVENTS_MAX or events[0].type == CommandQuarantined.__name__


def _no_places() -> Problem:
    return Problem(Code.BUSY, "Nothing was sent; try again.", outcome="none")


def lost(command_id: UUID) -> Problem:
    """Return the problem that Kafka acknowledged a command and lost it before it was decided."""
    return Problem(
        Code.COMMAND_LOST,
        "Kafka had acknowledged the command and lost it before it was decided. Nothing was done,"
        " and nothing will be; an idempotency key that it had is free. Send it again.",
        outcome="none",
        command_id=str(command_id),
    )


def _ask_later(waiters: Iterable[Waiter]) -> None:
    now_s = time.monotonic()
    for waiter in waiters:
        waiter.every_s = min(2 * waiter.every_s, LOOKUP_EVERY_MAX_S)
        waiter.next_s = now_s + waiter.every_s


def _heard(
    shard: int, outcome: Outcome, books: Mapping[str, RenderedBook], waiter: Waiter
) -> Decision | FoundOutcome:
    """Return an outcome as from the log, with the book after it if the command places an order."""
    if outcome.first is not None:
        return FoundOutcome([], outcome.first, outcome.conflict)
    command = waiter.command
    book = books.get(command.instrument) if isinstance(command, PlaceOrder) else None
    return Decision(_decided_events(shard, outcome, waiter.command_id), book)


def _decided_events(shard: int, outcome: Outcome, command_id: UUID) -> list[DecidedEvent]:
    versions = outcome.versions or repeat(1, len(outcome.events))
    return [
        DecidedEvent(
            Shard(shard),
            Position(position),
            decode_event_data(data, version),
            command_id,
            Offset(outcome.offset),
        )
        for position, (data, version) in enumerate(
            zip(outcome.events, versions, strict=True), outcome.first_position
        )
    ]


def _told_later(location: Pending, waiter: Waiter) -> Pending:
    if not is_keyed(waiter.command_id):
        return location
    return Pending(location.shard, location.offset, body_hash(waiter.command))


def _key_of(command: ClientCommand) -> str:
    match command:
        case PlaceOrder() | CancelOrder() | RegisterInstrument():
            return command.instrument
        case CancelAllOrders() | CreateAccount() | SuspendClient() | ResumeClient() | IssueKey():
            return command.client_id
        case RotateKey() | RevokeKey():
            return command.key_id
        case CloseSettlementCycle() | LimitOpenOrders() | PlaceShard():
            return "settlement"
        case _:
            assert_never(command)


def _located(waiter: Waiter) -> LocatedCommand:
    assert waiter.location is not None
    return LocatedCommand(
        waiter.location.shard, waiter.location.offset, waiter.command_id, body_hash(waiter.command)
    )
