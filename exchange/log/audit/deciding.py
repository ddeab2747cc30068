"""Decide a shard's recorded commands again by the rules of this build: is each decided as it was?

Read ``decide_again``. The log keeps no commands, so ``command_of`` makes each again from the events
that it caused. It is decided on the state that the recorded events give, so that one difference
does not cause others.

What another order had claimed at the time is not asked again: an id counts as taken where the log
refused it as a duplicate, and as free elsewhere. ``verify`` compares claims with the log.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import asyncpg
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from exchange.domain.commands import (
    CancelOrder,
    Command,
    IssueKey,
    MalformedRecord,
    PlaceOrder,
    QuarantinedRecord,
    RegisterInstrument,
    RetriedRecord,
    RevokeKey,
    RotateKey,
)
from exchange.domain.engine import State, decide, evolve
from exchange.domain.events import (
    AccountEvent,
    CancelAllAccepted,
    CancelRejected,
    CommandQuarantined,
    CommandRetried,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    KeyIssued,
    KeyRejected,
    OpenOrdersLimited,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
    ShardPlaced,
    TradeExecuted,
)
from exchange.domain.values import (
    CancelReason,
    KeyAlgorithm,
    KeyScope,
    OrderType,
    Price,
    Quantity,
    RejectReason,
)
from exchange.log.audit.claims import plain_command
from exchange.log.replay import replay

READ_COMMAND_END: Final = """
select max(position) from events
where shard = $1 and kafka_offset = (
    select kafka_offset from events where shard = $1 and position = $2
)
"""

STRANGER: Final = ""  # owns no order: no client may have this name
# What the refusal of a registration does not tell, and no rule for it asks.
ANYTHING: Final = ("X", "X", 0, 0, Price(1), Quantity(1))
NO_KEY_ID: Final = "0" * 32
SOME_PUBLIC_KEY: Final = "0" * 64

# The bounds as they were when they came; logs from before may exceed them.
FIRST_FILLS_MAX: Final = 10_000
FIRST_OPEN_ORDERS_MAX: Final = 100_000


class NoCommand(Exception):
    """Events are not what any command causes; the first is at ``position``."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position = position


class Decision(Struct, frozen=True):
    """A command, the events that the log has of it, and those that it would cause now.

    ``position`` is that of its first event. ``decided`` is empty where the rules failed, with
    ``error``.
    """

    shard: int
    position: int
    time_ms: int
    command: Command
    recorded: Sequence[Event]
    decided: Sequence[Event]
    error: str | None = None


class Meant(Struct, frozen=True):
    """A difference that a release meant: why, and whether a decision differs in it alone."""

    name: str
    reason: str
    covers: Callable[[State, Decision], bool]


class Again(Struct, frozen=True):
    """What deciding a shard's commands again gave.

    ``meant`` counts the differences that releases meant, by name. ``otherwise`` counts all others;
    ``first`` is the first of these. ``broken`` says why the walk ended before its end.
    """

    shard: int
    up_to: int
    commands: int
    meant: Mapping[str, int]
    otherwise: int
    first: Decision | None
    broken: NoCommand | None = None


async def decide_again(
    connection: asyncpg.Connection,
    shard: int,
    *,
    up_to: int,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> Again:
    """Decide a shard's commands again, from the first to the last event at or before ``up_to``.

    Args:
        connection: To the log, which is only read; the exchange may run meanwhile.
        shard: Whose log.
        up_to: A position where a command's events end: of a batch, the head, or ``command_end``.
        on_progress: Is told how many events have been compared.

    Returns:
        What was found; up to events that no command causes or that cannot be applied, if there are
        any.

    Raises:
        LogCorrupt: An event is missing.
        Undecodable: An event was written by another version of the software.
    """
    found = Comparison(shard)
    try:
        async for events in _commands(replay(connection, shard, after=0, up_to=up_to)):
            found.compare(events)
            on_progress(found.position)
    except NoCommand as error:
        return found.result(error)
    return found.result()


async def command_end(connection: asyncpg.Connection, shard: int, position: int) -> int:
    """Return where the events of the command end that caused the event at ``position``."""
    found: int | None = await connection.fetchval(READ_COMMAND_END, shard, position)
    return position if found is None else found


class Comparison:
    """Decides commands one after the other, and counts what is decided otherwise."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._state = State()
        self._commands = 0
        self._meant: Counter[str] = Counter()
        self._otherwise = 0
        self._first: Decision | None = None

    @property
    def position(self) -> int:
        return self._state.position

    def compare(self, commands: Iterable[Sequence[Event]]) -> None:
        """Decide some commands, each given as all of its events, and go on by these.

        Raises:
            NoCommand: Events are not what a command causes, or cannot be applied.
        """
        for recorded in commands:
            try:
                command, taken = command_of(recorded)
            except ValueError as error:
                raise NoCommand(self.position + 1, str(error)) from error
            decision = self._decide(command, taken, recorded)
            if decision is not None:
                self._count(decision)
            self._apply(recorded)
            self._commands += 1

    def result(self, broken: NoCommand | None = None) -> Again:
        """Return what was found; ``broken`` is what ``compare`` raised."""
        return Again(
            self._shard,
            self.position if broken is None else broken.position - 1,
            self._commands,
            dict(self._meant),
            self._otherwise,
            self._first,
            broken,
        )

    def _decide(self, command: Command, taken: bool, recorded: Sequence[Event]) -> Decision | None:
        """Return what is decided otherwise, None if nothing is."""
        time_ms, error = self._asked_ms(recorded[0]), None
        decided: Sequence[Event] = ()
        signed_by = getattr(recorded[0], "signed_by", UNSET)
        try:
            decided = decide(
                self._state,
                command,
                time_ms=time_ms,
                order_id_taken=taken,
                key_id=None if signed_by is UNSET else signed_by,
            )
        except Exception as failure:  # whatever the rules of a build do
            error = repr(failure)
        if decided == recorded:
            return None
        position = self.position + 1
        return Decision(self._shard, position, time_ms, command, recorded, decided, error)

    def _asked_ms(self, first: Event) -> int:
        """Return when a command was asked for, by its first event.

        One that has the time of the event before it may have come at any earlier time, since time
        never runs backwards: so it is asked at the earliest.
        """
        return 0 if first.time_ms == self._state.time_ms else first.time_ms

    def _count(self, decision: Decision) -> None:
        for meant in MEANT:
            if meant.covers(self._state, decision):
                self._meant[meant.name] += 1
                return
        self._otherwise += 1
        self._first = self._first or decision

    def _apply(self, events: Sequence[Event]) -> None:
        for event in events:
            try:
                evolve(self._state, event)
            except (KeyError, AssertionError) as error:
                raise NoCommand(self.position, f"it cannot be applied: {error!r}") from error


def command_of(events: Sequence[Event]) -> tuple[Command, bool]:
    """Return the command that caused these events, and whether its order's id was taken.

    Raises:
        ValueError: No command causes them.
    """
    first, last = events[0], events[-1]
    if isinstance(last, CommandRetried):
        if len(events) == 1:
            raise ValueError("a record was retried, and nothing was decided of it")
        command, taken = command_of(events[:-1])
        if isinstance(command, QuarantinedRecord):
            raise ValueError("a record was quarantined and retried at once")
        return RetriedRecord(last.offset, last.sha256, last.body_hash, command), taken
    match first:
        case OrderAccepted():
            return _order(first), False
        case OrderRejected():
            return _order(first), first.reason is RejectReason.DUPLICATE_ORDER_ID
        case OrderCancelled() | CancelRejected():
            return _cancel(first), False
        case InstrumentRegistered() | InstrumentRejected():
            return _registration(first), False
        case KeyRejected():
            return _key_command(first), False
        case TradeExecuted() | OrderRested() | CommandRetried():
            raise ValueError(f"{type(first).__name__} begins no command")
        case _:
            return _plain(first), False


def commands_in(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Split events into those of each command; the last one's may go on behind them."""
    begin = 0
    following = 0  # where the next command may begin
    for index, event in enumerate(events):
        if index < following or not _begins(event):
            continue
        if index > begin:
            yield events[begin:index]
        begin, following = index, index + 1
        if isinstance(event, CancelAllAccepted):
            following += event.cancelled_orders
        elif isinstance(event, KeyIssued) and event.rotated_from is not None:
            following += 1
    yield events[begin:]


async def _commands(parts: AsyncIterator[list[Event]]) -> AsyncIterator[list[Sequence[Event]]]:
    """Yield the events of whole commands, some commands at a time."""
    left: Sequence[Event] = ()
    async for part in parts:
        *whole, left = commands_in([*left, *part])
        if whole:
            yield whole
    if left:
        yield [left]


def _begins(event: Event) -> bool:
    """Tell whether an event is its command's first one."""
    match event:
        case TradeExecuted() | OrderRested() | CommandRetried():
            return False
        case OrderCancelled():
            return event.reason is CancelReason.REQUESTED
        case _:
            return True


def _order(event: OrderAccepted | OrderRejected) -> PlaceOrder:
    return PlaceOrder(
        event.order_id,
        event.client_id,
        event.instrument,
        event.side,
        event.order_type,
        event.price,
        event.quantity,
    )


def _cancel(event: OrderCancelled | CancelRejected) -> CancelOrder:
    asked_by = None if isinstance(event.asked_by, UnsetType) else event.asked_by
    if event.asked_by is UNSET and event.reason is RejectReason.NOT_OWNER:
        asked_by = STRANGER  # the log is older than the field
    return CancelOrder(event.order_id, event.instrument, asked_by)


def _registration(event: InstrumentRegistered | InstrumentRejected) -> RegisterInstrument:
    if isinstance(event, InstrumentRejected):
        return RegisterInstrument(event.instrument, *ANYTHING)
    return RegisterInstrument(
        event.instrument,
        event.base,
        event.quote,
        event.price_scale,
        event.quantity_scale,
        event.tick_size,
        event.lot_size,
    )


def _key_command(event: KeyRejected) -> IssueKey | RotateKey | RevokeKey:
    """Return a command that is refused as the one was, of which the event does not tell all.

    A rotation that is refused because of its new key is refused as the issuing of that would be.
    """
    match event.reason:
        case RejectReason.UNKNOWN_KEY | RejectReason.KEY_ENDED:
            return RevokeKey(event.key_id)
        case RejectReason.KEY_NOT_GOOD:
            return RotateKey(event.key_id, NO_KEY_ID, SOME_PUBLIC_KEY, None, 0)
        case _:
            lacks = event.reason is RejectReason.KEY_MATERIAL
            return IssueKey(
                event.key_id,
                event.client_id or STRANGER,
                KeyAlgorithm.ED25519,
                None if lacks else SOME_PUBLIC_KEY,
                None,
                (KeyScope.READ,),
                (),
                None,
                "",
            )


def _plain(
    event: CancelAllAccepted
    | SettlementCycleClosed
    | SettlementCycleRejected
    | OpenOrdersLimited
    | ShardPlaced
    | AccountEvent
    | RecordRejected
    | CommandQuarantined,
) -> Command:
    """Return the command of an event that tells all of it."""
    match event:
        case RecordRejected():
            return MalformedRecord(event.reason, event.sha256, event.size_bytes)
        case CommandQuarantined():
            return QuarantinedRecord(event.sha256, event.size_bytes, event.crashes)
        case _:
            return plain_command(event)


def _tells_who_asked(_: State, decision: Decision) -> bool:
    pairs = zip(decision.recorded, decision.decided, strict=False)
    as_before = [
        replace(now, asked_by=UNSET)
        if isinstance(before, OrderCancelled | CancelRejected)
        and isinstance(now, OrderCancelled | CancelRejected)
        and before.asked_by is UNSET
        else now
        for before, now in pairs
    ]
    lengths = len(decision.recorded), len(decision.decided)
    return lengths[0] == lengths[1] and as_before == [*decision.recorded]


def _ends_a_sweep(_: State, decision: Decision) -> bool:
    recorded, decided = decision.recorded, decision.decided
    end = 1 + FIRST_FILLS_MAX
    if len(recorded) <= end or not isinstance(recorded[end], TradeExecuted):
        return False
    *fills, last = decided
    return [*fills] == [*recorded[:end]] and (
        isinstance(last, OrderCancelled) and last.reason is CancelReason.FILLS_MAX
    )


def _bounds_open_orders(state: State, decision: Decision) -> bool:
    order = decision.command
    if not isinstance(order, PlaceOrder) or order.order_type is not OrderType.LIMIT:
        return False
    held = state.open_orders.get(order.client_id, 0)
    if state.open_orders_max != FIRST_OPEN_ORDERS_MAX or held < FIRST_OPEN_ORDERS_MAX:
        return False
    refused = [event.reason for event in decision.decided if isinstance(event, OrderRejected)]
    accepted = isinstance(decision.recorded[0], OrderAccepted)
    return accepted and refused == [RejectReason.TOO_MANY_OPEN_ORDERS]


MEANT: Final[tuple[Meant, ...]] = (
    Meant(
        "asked_by",
        "Cancels and their refusals tell who asked; logs from before the field do not.",
        _tells_who_asked,
    ),
    Meant(
        "fills_max",
        f"An order trades with at most {FIRST_FILLS_MAX:,} others, and the rest is cancelled.",
        _ends_a_sweep,
    ),
    Meant(
        "too_many_open_orders",
        f"A client has at most {FIRST_OPEN_ORDERS_MAX:,} open orders on a shard.",
        _bounds_open_orders,
    ),
)
"""What releases changed in the decisions of earlier ones.

A release that decides otherwise adds what it means here, as narrow as it can be told. All else
fails the gate.
"""
