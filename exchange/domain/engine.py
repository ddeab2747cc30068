"""Decide what a command causes, and evolve the state by what was decided.

Read ``decide`` first. It answers a command with events and changes nothing;
``evolve`` applies one event and asks nothing. The live matcher, recovery and
verification share ``evolve``, so a state rebuilt from its events equals the one
that wrote them.

The digest is a sum, modulo 2^256, of one SHA-256 per resting order (its priority included), per
instrument, account, key and suspended client, of the open settlement cycle and of the bound on open
orders; whatever still has its first value adds nothing. A sum can be kept up to date one change at
a time and does not depend on the order in which things are visited (Bellare and Micciancio, "A new
paradigm for collision-free hashing", 1997). An order that changed is hashed when the digest is next
computed, once a batch; one that has left the book by then is not hashed. So a replay hashes only
the orders that it ends with.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import merge
from itertools import islice, takewhile
from typing import Any, Final, assert_never

from msgspec.structs import replace

from exchange.domain.accounts import (
    Accounts,
    Key,
    change_account,
    change_suspension,
    decide_account,
    hash_of,
    rebuild_accounts,
)
from exchange.domain.book import Book, Instrument, RestingOrder, check_invariants
from exchange.domain.commands import (
    AccountCommand,
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    LimitOpenOrders,
    MalformedRecord,
    PlaceOrder,
    PlaceShard,
    QuarantinedRecord,
    RegisterInstrument,
    RetriedRecord,
)
from exchange.domain.events import (
    AccountCreated,
    AccountRejected,
    CancelAllAccepted,
    CancelRejected,
    ClientResumed,
    ClientSuspended,
    CommandQuarantined,
    CommandRetried,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    KeyIssued,
    KeyRejected,
    KeyRevoked,
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
    OrderType,
    Position,
    Quantity,
    RejectReason,
    Side,
)

DIGEST_BYTES: Final = 32
FIRST_CYCLE: Final = 1
# All change decisions, so they are no settings: whoever decides again must decide alike. The first
# two bound one transaction, message and answer. The last bounds a client's share of memory; a log
# begins with it, and ``LimitOpenOrders`` changes it.
FILLS_MAX: Final = 10_000
CANCEL_ALL_MAX: Final = 1_000  # some 10 ms, in which nobody else's command is decided
OPEN_ORDERS_MAX: Final = 100_000
_DIGEST_MODULUS: Final = 1 << (8 * DIGEST_BYTES)

# The members that most commands need. To look one up in its enum takes as long as to make an event.
_LIMIT, _MARKET = OrderType
_NOT_OPEN: Final = RejectReason.ORDER_NOT_OPEN
_REQUESTED: Final = CancelReason.REQUESTED
_MARKET_REMAINDER: Final = CancelReason.MARKET_REMAINDER

_Other = (
    CancelAllOrders
    | RegisterInstrument
    | CloseSettlementCycle
    | LimitOpenOrders
    | PlaceShard
    | MalformedRecord
    | QuarantinedRecord
    | RetriedRecord
)


@dataclass(slots=True)
class State:
    """A shard after the events up to ``position``; it holds only what still rests.

    ``settlement_cycle`` is the open cycle, whose trades are still being made. ``open_orders``
    counts each client's resting orders, ``open_orders_max`` bounds the count. ``suspended`` has the
    clients whose orders are refused. ``unhashed`` has the books with orders that changed since the
    digest was last computed.
    """

    position: Position = Position(0)
    time_ms: int = 0
    books: dict[str, Book] = field(default_factory=dict)
    settlement_cycle: int = FIRST_CYCLE
    digest_sum: int = 0
    open_orders: dict[str, int] = field(default_factory=dict)
    open_orders_max: int = OPEN_ORDERS_MAX
    unhashed: set[Book] = field(default_factory=set)
    suspended: set[str] = field(default_factory=set)
    accounts: Accounts = field(default_factory=Accounts)

    @property
    def digest(self) -> bytes:
        """The digest of everything that decisions depend on, 32 bytes."""
        for book in self.unhashed:
            name = book.instrument.name
            _shift_digest(self, sum(_rehash(name, order) for order in book.unhashed.values()))
            book.unhashed.clear()
        self.unhashed.clear()
        return self.digest_sum.to_bytes(DIGEST_BYTES, "big")


def decide(
    state: State,
    command: Command,
    *,
    time_ms: int,
    order_id_taken: bool = False,
    key_id: str | None = None,
) -> list[Event]:
    """Return the events that ``command`` causes on ``state``, in order.

    Pure: ``state`` is read, never changed. Business refusals are events, not
    exceptions, because the log must record them.

    Args:
        state: The state after every event so far.
        command: What is asked, in units of the instrument's scales.
        time_ms: When the broker received it; a time before the state's counts as the state's.
        order_id_taken: Whether an earlier command, on any shard, claimed the order's id.
        key_id: By which key the command was signed; the first event tells it. It decides nothing:
            whether the key is good was judged before the command came here.

    Returns:
        At least one event. For an accepted ``PlaceOrder``: ``OrderAccepted``; one ``TradeExecuted``
        per maker, best price first, oldest first within a price; then ``OrderRested`` or
        ``OrderCancelled`` if quantity remains. There are at most ``FILLS_MAX`` trades; a quantity
        that remains after them is cancelled. For ``CancelAllOrders``: ``CancelAllAccepted``, then
        ``OrderCancelled`` of the oldest orders, at most ``CANCEL_ALL_MAX``. Apply all events with
        ``evolve`` before deciding the next command.
    """
    # Calling ``max`` would take as long as a tenth of the check of an order.
    now_ms = time_ms if time_ms > state.time_ms else state.time_ms  # noqa: FURB136
    # Not by ``match``: a case that does not match costs as much as the check of an order.
    if type(command) is PlaceOrder:
        events = _place(state, command, now_ms, order_id_taken)
    elif type(command) is CancelOrder:
        events = [_cancel(state, command, now_ms)]
    elif isinstance(command, AccountCommand):
        events = decide_account(state.accounts, state.suspended, command, now_ms)
    else:
        events = _decide_other(state, command, now_ms, order_id_taken)
    if key_id is not None:
        events[0] = replace(events[0], signed_by=key_id)
    return events


def evolve(state: State, event: Event) -> None:
    """Apply one event: the only function that changes a state."""
    state.position += 1  # type: ignore[assignment]  # calling the type costs a tenth of this
    state.time_ms = event.time_ms
    change = _CHANGES[type(event)]  # a replay is as fast as this: a ``match`` takes twice as long
    if change is not None:
        change(state, event)


def rebuild(
    position: Position,
    time_ms: int,
    settlement_cycle: int,
    books: Iterable[tuple[Instrument, Iterable[RestingOrder]]],
    open_orders_max: int = OPEN_ORDERS_MAX,
    suspended: Iterable[str] = (),
    accounts: Iterable[str] = (),
    keys: Iterable[Key] = (),
) -> State:
    """Return the state with these books; the orders of each come oldest first."""
    state = State(position, time_ms)
    _open_cycle(state, settlement_cycle)
    _limit_open_orders(state, open_orders_max)
    state.suspended = set(suspended)
    state.accounts = rebuild_accounts(accounts, keys, time_ms)
    _shift_digest(state, hash_of(state.accounts, state.suspended))
    for instrument, orders in books:
        book = state.books[instrument.name] = Book(instrument)
        _shift_digest(state, _instrument_hash(instrument))
        for order in orders:
            _add(state, book, order)
    return state


def check_state(state: State) -> None:
    """Assert the invariants of every book, and that digest and counts are what they claim."""
    expected = _cycle_hash(state.settlement_cycle) + _limit_hash(state.open_orders_max)
    expected += hash_of(state.accounts, state.suspended)
    counted: dict[str, int] = {}
    for name, book in state.books.items():
        check_invariants(book)
        for order in book.orders.values():
            counted[order.client_id] = counted.get(order.client_id, 0) + 1
        expected += _instrument_hash(book.instrument)
        expected += sum(_order_hash(name, order) for order in book.orders.values())
    digest = int.from_bytes(state.digest, "big")
    assert digest == expected % _DIGEST_MODULUS, "digest differs from the state"
    assert state.open_orders == counted, "open orders are counted wrongly"


def _decide_other(state: State, command: _Other, now_ms: int, order_id_taken: bool) -> list[Event]:
    match command:
        case CancelAllOrders():
            return _cancel_all(state, command, now_ms)
        case RegisterInstrument():
            return [_register(state, command, now_ms)]
        case CloseSettlementCycle():
            return [_close_cycle(state, command, now_ms)]
        case LimitOpenOrders():
            return [OpenOrdersLimited(command.open_orders_max, time_ms=now_ms)]
        case PlaceShard():
            return [ShardPlaced(command.shard, state.settlement_cycle, time_ms=now_ms)]
        case MalformedRecord() | QuarantinedRecord():
            return [_passed_over(command, now_ms)]
        case RetriedRecord(offset, digest, body_hash):
            return [
                *decide(state, command.command, time_ms=now_ms, order_id_taken=order_id_taken),
                CommandRetried(offset, digest, body_hash, time_ms=now_ms),
            ]
        case _:
            assert_never(command)


def _place(state: State, order: PlaceOrder, now_ms: int, order_id_taken: bool) -> list[Event]:
    if state.suspended and order.client_id in state.suspended and not order_id_taken:
        return [_rejected(order, RejectReason.CLIENT_SUSPENDED, now_ms)]
    book = state.books.get(order.instrument)
    reason = _refusal(state, book, order, order_id_taken)
    if book is None or reason is not None:
        assert reason is not None
        return [_rejected(order, reason, now_ms)]
    events: list[Event] = [_accepted(order, now_ms)]
    remaining = order.quantity
    if book.facing[order.side].meets(order.price):  # most orders meet nobody
        events += islice(_trades(book, order, now_ms), FILLS_MAX)
        last = events[-1]
        remaining = last.taker_remaining if type(last) is TradeExecuted else remaining
    if remaining:
        events.append(_remainder(order, remaining, len(events) - 1, now_ms))
    return events


def _refusal(
    state: State, book: Book | None, order: PlaceOrder, order_id_taken: bool
) -> RejectReason | None:
    if order_id_taken:
        return RejectReason.DUPLICATE_ORDER_ID
    if book is None:
        return RejectReason.UNKNOWN_INSTRUMENT
    if order.order_id in book.orders:
        return RejectReason.DUPLICATE_ORDER_ID
    price = order.price
    if price is None:
        if order.order_type is _LIMIT:
            return RejectReason.PRICE_REQUIRED
    elif order.order_type is _MARKET:
        return RejectReason.PRICE_NOT_ALLOWED
    elif price % book.instrument.tick_size:
        return RejectReason.OFF_TICK
    if order.quantity % book.instrument.lot_size:
        return RejectReason.OFF_LOT
    # Also refused if it would not rest: a client with too many orders is told so early and always.
    if price is not None and state.open_orders.get(order.client_id, 0) >= state.open_orders_max:
        return RejectReason.TOO_MANY_OPEN_ORDERS
    return None


def _trades(book: Book, order: PlaceOrder, now_ms: int) -> Iterator[TradeExecuted]:
    # Calling the type ``Quantity`` would cost as much as the event itself.
    remaining: int = order.quantity
    for maker in book.facing[order.side].orders(order.price):
        quantity = min(remaining, maker.remaining)
        remaining -= quantity
        yield TradeExecuted(
            instrument=order.instrument,
            price=maker.price,
            quantity=quantity,  # type: ignore[arg-type]
            taker_side=order.side,
            taker_order_id=order.order_id,
            taker_client_id=order.client_id,
            taker_remaining=remaining,  # type: ignore[arg-type]
            maker_order_id=maker.order_id,
            maker_client_id=maker.client_id,
            maker_remaining=maker.remaining - quantity,  # type: ignore[arg-type]
            time_ms=now_ms,
        )
        if not remaining:
            return


def _accepted(order: PlaceOrder, now_ms: int) -> OrderAccepted:
    return OrderAccepted(
        order_id=order.order_id,
        client_id=order.client_id,
        instrument=order.instrument,
        side=order.side,
        order_type=order.order_type,
        price=order.price,
        quantity=order.quantity,
        time_ms=now_ms,
    )


def _rejected(order: PlaceOrder, reason: RejectReason, now_ms: int) -> OrderRejected:
    return OrderRejected(
        order_id=order.order_id,
        client_id=order.client_id,
        instrument=order.instrument,
        side=order.side,
        order_type=order.order_type,
        price=order.price,
        quantity=order.quantity,
        reason=reason,
        time_ms=now_ms,
    )


def _remainder(order: PlaceOrder, remaining: Quantity, fills: int, now_ms: int) -> Event:
    if fills >= FILLS_MAX or order.price is None:
        swept = fills >= FILLS_MAX
        return OrderCancelled(
            order_id=order.order_id,
            client_id=order.client_id,
            instrument=order.instrument,
            side=order.side,
            price=None,
            quantity=remaining,
            reason=CancelReason.FILLS_MAX if swept else _MARKET_REMAINDER,
            time_ms=now_ms,
        )
    return OrderRested(
        order_id=order.order_id,
        client_id=order.client_id,
        instrument=order.instrument,
        side=order.side,
        price=order.price,
        quantity=remaining,
        time_ms=now_ms,
    )


def _cancel(state: State, command: CancelOrder, now_ms: int) -> Event:
    book = state.books.get(command.instrument)
    if book is None:
        return _cancel_rejected(command, RejectReason.UNKNOWN_INSTRUMENT, now_ms)
    order = book.orders.get(command.order_id)
    if order is None:
        return _cancel_rejected(command, _NOT_OPEN, now_ms)
    if command.client_id is not None and command.client_id != order.client_id:
        return _cancel_rejected(command, RejectReason.NOT_OWNER, now_ms)
    return _cancelled(order, command.instrument, command.client_id, now_ms)


def _cancelled(
    order: RestingOrder, instrument: str, asked_by: str | None, now_ms: int
) -> OrderCancelled:
    return OrderCancelled(
        order_id=order.order_id,
        client_id=order.client_id,
        instrument=instrument,
        side=order.side,
        price=order.price,
        quantity=Quantity(order.remaining),
        reason=_REQUESTED,
        time_ms=now_ms,
        asked_by=asked_by,
    )


def _cancel_all(state: State, command: CancelAllOrders, now_ms: int) -> list[Event]:
    """Cancel the oldest of the orders that are asked for.

    It costs a look-up for each side of each book, and then what this client's orders cost.
    """
    up_to = state.position if command.up_to is None else command.up_to
    queues = _queues(state, command)
    aged = [_aged(name, orders, up_to) for name, orders in queues]
    oldest = list(islice(merge(*aged), CANCEL_ALL_MAX))
    asked = sum(len(orders) - _younger(orders, up_to) for _, orders in queues)
    accepted = CancelAllAccepted(
        client_id=command.client_id,
        instrument=command.instrument,
        side=command.side,
        up_to=command.up_to,
        cancelled_orders=len(oldest),
        remaining_orders=asked - len(oldest),
        time_ms=now_ms,
    )
    cancelled = [_cancelled(order, name, command.client_id, now_ms) for _, name, order in oldest]
    return [accepted, *cancelled]


def _queues(state: State, command: CancelAllOrders) -> list[tuple[str, dict[str, RestingOrder]]]:
    """Return the client's orders of each side that is asked for, oldest first, by instrument."""
    names = state.books if command.instrument is None else (command.instrument,)
    sides = tuple(Side) if command.side is None else (command.side,)
    return [
        (name, orders)
        for name in names
        if name in state.books
        for side in sides
        if (orders := state.books[name].sides[side].of_clients.get(command.client_id))
    ]


def _aged(
    name: str, orders: dict[str, RestingOrder], up_to: int
) -> Iterator[tuple[int, str, RestingOrder]]:
    """Yield the orders that rested at or before ``up_to``; no two have one priority."""
    for order in orders.values():
        if order.priority > up_to:
            return
        yield order.priority, name, order


def _younger(orders: dict[str, RestingOrder], up_to: int) -> int:
    """Count the orders that came to rest after ``up_to``."""
    newest_first = reversed(orders.values())
    return sum(1 for _ in takewhile(lambda order: order.priority > up_to, newest_first))


def _cancel_rejected(command: CancelOrder, reason: RejectReason, now_ms: int) -> CancelRejected:
    return CancelRejected(
        command.order_id,
        command.instrument,
        reason,
        time_ms=now_ms,
        asked_by=command.client_id,
    )


def _register(state: State, command: RegisterInstrument, now_ms: int) -> Event:
    if command.instrument in state.books:
        reason = RejectReason.INSTRUMENT_ALREADY_REGISTERED
        return InstrumentRejected(command.instrument, reason, time_ms=now_ms)
    return InstrumentRegistered(
        instrument=command.instrument,
        base=command.base,
        quote=command.quote,
        price_scale=command.price_scale,
        quantity_scale=command.quantity_scale,
        tick_size=command.tick_size,
        lot_size=command.lot_size,
        time_ms=now_ms,
    )


def _open_book(state: State, event: InstrumentRegistered) -> None:
    instrument = Instrument(
        name=event.instrument,
        base=event.base,
        quote=event.quote,
        price_scale=event.price_scale,
        quantity_scale=event.quantity_scale,
        tick_size=event.tick_size,
        lot_size=event.lot_size,
    )
    state.books[event.instrument] = Book(instrument)
    _shift_digest(state, _instrument_hash(instrument))


def _close_cycle(state: State, command: CloseSettlementCycle, now_ms: int) -> Event:
    if command.cycle < state.settlement_cycle:
        return SettlementCycleRejected(command.cycle, RejectReason.CYCLE_CLOSED, time_ms=now_ms)
    return SettlementCycleClosed(command.cycle, time_ms=now_ms)


def _passed_over(record: MalformedRecord | QuarantinedRecord, now_ms: int) -> Event:
    if isinstance(record, MalformedRecord):
        return RecordRejected(record.reason, record.sha256, record.size_bytes, time_ms=now_ms)
    return CommandQuarantined(record.sha256, record.size_bytes, record.crashes, time_ms=now_ms)


def _open_cycle(state: State, cycle: int) -> None:
    shift = _cycle_hash(cycle) - _cycle_hash(state.settlement_cycle)
    state.settlement_cycle = cycle
    _shift_digest(state, shift)


def _limit_open_orders(state: State, open_orders_max: int) -> None:
    shift = _limit_hash(open_orders_max) - _limit_hash(state.open_orders_max)
    state.open_orders_max = open_orders_max
    _shift_digest(state, shift)


def _rest(state: State, event: OrderRested) -> None:
    order = RestingOrder(
        order_id=event.order_id,
        client_id=event.client_id,
        side=event.side,
        price=event.price,
        remaining=event.quantity,
        priority=state.position,
    )
    _add(state, state.books[event.instrument], order)


def _add(state: State, book: Book, order: RestingOrder) -> None:
    book.rest(order)
    state.unhashed.add(book)
    state.open_orders[order.client_id] = state.open_orders.get(order.client_id, 0) + 1


def _reduce(state: State, instrument: str, order_id: str, quantity: int) -> None:
    book = state.books[instrument]
    order = book.orders[order_id]
    book.reduce(order, quantity)
    if order.remaining:
        state.unhashed.add(book)
        return
    if order.hashed:
        _shift_digest(state, -order.hashed)
    count = state.open_orders[order.client_id] - 1
    if count:
        state.open_orders[order.client_id] = count
    else:
        del state.open_orders[order.client_id]


def _trade(state: State, event: TradeExecuted) -> None:
    _reduce(state, event.instrument, event.maker_order_id, event.quantity)


def _end(state: State, event: OrderCancelled) -> None:
    if event.price is not None:  # else it never rested
        _reduce(state, event.instrument, event.order_id, event.quantity)


def _close(state: State, event: SettlementCycleClosed) -> None:
    _open_cycle(state, event.cycle + 1)


def _limit(state: State, event: OpenOrdersLimited) -> None:
    _limit_open_orders(state, event.open_orders_max)


def _change_account(state: State, event: AccountCreated | KeyIssued | KeyRevoked) -> None:
    _shift_digest(state, change_account(state.accounts, event))


def _change_suspension(state: State, event: ClientSuspended | ClientResumed) -> None:
    _shift_digest(state, change_suspension(state.suspended, event))


# What each event changes. A test holds that every type of event is here.
_CHANGES: Final[dict[type[Event], Callable[[State, Any], None] | None]] = {
    OrderAccepted: None,
    TradeExecuted: _trade,
    OrderRested: _rest,
    OrderCancelled: _end,
    InstrumentRegistered: _open_book,
    SettlementCycleClosed: _close,
    OpenOrdersLimited: _limit,
    ClientSuspended: _change_suspension,
    ClientResumed: _change_suspension,
    AccountCreated: _change_account,
    KeyIssued: _change_account,
    KeyRevoked: _change_account,
    AccountRejected: None,
    KeyRejected: None,
    OrderRejected: None,
    CancelRejected: None,
    CancelAllAccepted: None,
    InstrumentRejected: None,
    SettlementCycleRejected: None,
    ShardPlaced: None,
    RecordRejected: None,
    CommandQuarantined: None,
    CommandRetried: None,
}


def _rehash(instrument: str, order: RestingOrder) -> int:
    """Hash an order that changed and return what that adds to the digest."""
    shift = -order.hashed
    order.hashed = _order_hash(instrument, order)
    return shift + order.hashed


def _shift_digest(state: State, shift: int) -> None:
    state.digest_sum = (state.digest_sum + shift) % _DIGEST_MODULUS


def _order_hash(instrument: str, order: RestingOrder) -> int:
    # Ids hold no control characters, so the separator cannot be forged.
    text = (
        f"{instrument}\x1f{order.order_id}\x1f{order.client_id}\x1f{order.side.value}"
        f"\x1f{order.price}\x1f{order.remaining}\x1f{order.priority}"
    )
    return int.from_bytes(sha256(text.encode()).digest(), "big")


def _cycle_hash(cycle: int) -> int:
    if cycle == FIRST_CYCLE:
        return 0  # as the empty state has it
    return int.from_bytes(sha256(f"settlement cycle {cycle}".encode()).digest(), "big")


def _limit_hash(open_orders_max: int) -> int:
    if open_orders_max == OPEN_ORDERS_MAX:
        return 0  # as in logs from before it could be changed
    return int.from_bytes(sha256(f"open orders max {open_orders_max}".encode()).digest(), "big")


def _instrument_hash(instrument: Instrument) -> int:
    text = (
        f"{instrument.name}\x1f{instrument.base}\x1f{instrument.quote}\x1f{instrument.price_scale}"
        f"\x1f{instrument.quantity_scale}\x1f{instrument.tick_size}\x1f{instrument.lot_size}"
    )
    return int.from_bytes(sha256(text.encode()).digest(), "big")
