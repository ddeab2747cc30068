"""Commands and events in few words; read ``given``, then ``place`` and ``rested``.

A test names orders by number: order 3 is ``order-3`` of ``client-3``. Everything happens at
``TIME_MS`` on ``BTC_USD``. A test may say otherwise.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from msgspec import UNSET, UnsetType

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    CreateAccount,
    IssueKey,
    MalformedRecord,
    PlaceOrder,
    RegisterInstrument,
    ResumeClient,
    RevokeKey,
    RotateKey,
    SuspendClient,
)
from exchange.domain.engine import State, check_state, decide, evolve
from exchange.domain.events import (
    CancelAllAccepted,
    CancelRejected,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    KeyRejected,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
    TradeExecuted,
)
from exchange.domain.values import (
    CancelReason,
    KeyAlgorithm,
    KeyScope,
    Offset,
    OrderType,
    Position,
    Price,
    Quantity,
    RejectReason,
    Shard,
    Side,
)
from exchange.log.chain import chain_links
from exchange.log.events import store_event
from exchange.ports import CommandRecord, StoredEvent

BTC_USD: Final = "BTC-USD"
TIME_MS: Final = 1_700_000_000_000
PUBLIC_KEY: Final = "5a" * 32
COMMAND_ID: Final = UUID("018f0000-0000-7000-8000-000000000001")
OFFSET: Final = Offset(41)


def given(*events: Event) -> State:
    """Return the state after ``events``, with ``BTC_USD`` registered before them."""
    state = State()
    evolve_all(state, [registered(), *events])
    return state


def when(
    state: State,
    command: Command,
    *,
    time_ms: int = TIME_MS,
    order_id_taken: bool = False,
    key_id: str | None = None,
) -> list[Event]:
    """Decide at ``TIME_MS``."""
    return decide(state, command, time_ms=time_ms, order_id_taken=order_id_taken, key_id=key_id)


def evolve_all(state: State, events: Iterable[Event]) -> None:
    """Apply events and check what must hold after them."""
    for event in events:
        evolve(state, event)
    check_state(state)


def depth(state: State, side: Side, instrument: str = BTC_USD) -> list[tuple[int, int]]:
    """Return each price of a side with the quantity at it, best first."""
    return state.books[instrument].sides[side].depth(len(state.books[instrument].orders))


def order_name(number: int) -> str:
    return f"order-{number}"


def client_name(number: int) -> str:
    return f"client-{number}"


def register(
    instrument: str = BTC_USD,
    *,
    price_scale: int = 2,
    quantity_scale: int = 8,
    tick: int = 1,
    lot: int = 1,
) -> RegisterInstrument:
    base, _, quote = instrument.partition("-")
    return RegisterInstrument(
        instrument=instrument,
        base=base,
        quote=quote,
        price_scale=price_scale,
        quantity_scale=quantity_scale,
        tick_size=Price(tick),
        lot_size=Quantity(lot),
    )


def place(
    order: int,
    side: Side,
    *,
    price: int | None,
    quantity: int,
    order_type: OrderType = OrderType.LIMIT,
    client: int | None = None,
    instrument: str = BTC_USD,
) -> PlaceOrder:
    return PlaceOrder(
        order_id=order_name(order),
        client_id=client_name(order if client is None else client),
        instrument=instrument,
        side=side,
        order_type=order_type,
        price=_price(price),
        quantity=Quantity(quantity),
    )


def place_market(
    order: int, side: Side, *, quantity: int, client: int | None = None, instrument: str = BTC_USD
) -> PlaceOrder:
    return place(
        order,
        side,
        price=None,
        quantity=quantity,
        order_type=OrderType.MARKET,
        client=client,
        instrument=instrument,
    )


def cancel(order: int, *, client: int | None = None, instrument: str = BTC_USD) -> CancelOrder:
    """Ask for the end of an order, for ``client`` or, by default, for nobody in particular."""
    return CancelOrder(
        order_name(order), instrument, None if client is None else client_name(client)
    )


def cancel_all(
    client: int,
    *,
    instrument: str | None = None,
    side: Side | None = None,
    up_to: int | None = None,
) -> CancelAllOrders:
    return CancelAllOrders(client_name(client), instrument, side, up_to)


def all_cancelled(
    command: CancelAllOrders, *, cancelled: int, remaining: int = 0
) -> CancelAllAccepted:
    """Say how many orders a command cancels; the cancels of these follow."""
    return CancelAllAccepted(
        command.client_id,
        command.instrument,
        command.side,
        command.up_to,
        cancelled,
        remaining,
        time_ms=TIME_MS,
    )


def key_name(number: int) -> str:
    return f"{number:032x}"


def issue(
    key: int,
    *,
    client: int = 1,
    algorithm: KeyAlgorithm = KeyAlgorithm.ED25519,
    scopes: tuple[KeyScope, ...] = (KeyScope.READ, KeyScope.TRADE),
    addresses: tuple[str, ...] = (),
    expires_ms: int | None = None,
    label: str = "",
) -> IssueKey:
    """Ask for a key with what its algorithm needs."""
    signs = algorithm is KeyAlgorithm.ED25519
    public_key, master = (PUBLIC_KEY, None) if signs else (None, 1)
    return IssueKey(
        key_name(key),
        client_name(client),
        algorithm,
        public_key,
        master,
        scopes,
        addresses,
        expires_ms,
        label,
    )


def rotate(key: int, new: int, *, overlap_ms: int = 0) -> RotateKey:
    """Replace a key of Ed25519."""
    return RotateKey(key_name(key), key_name(new), PUBLIC_KEY, None, overlap_ms)


def revoke(key: int) -> RevokeKey:
    return RevokeKey(key_name(key))


def key_rejected(key: int, reason: RejectReason, *, client: int | None = 1) -> KeyRejected:
    client_id = None if client is None else client_name(client)
    return KeyRejected(key_name(key), client_id, reason, time_ms=TIME_MS)


def account_commands() -> list[Command]:
    """Return commands that together cause every event of accounts and keys.

    They leave client 1 suspended, with key 3 in the place of key 1, which is good for a second
    more, and key 2 revoked.
    """
    hmac = KeyAlgorithm.HMAC_SHA256
    return [
        CreateAccount(client_name(1)),
        CreateAccount(client_name(1)),
        issue(1, addresses=("10.0.0.0/8", "::1/128"), expires_ms=TIME_MS * 2, label="of a desk"),
        issue(2, algorithm=hmac, scopes=(KeyScope.ADMIN,)),
        issue(3, client=2),
        rotate(1, 3, overlap_ms=1_000),
        rotate(1, 4),
        revoke(2),
        revoke(2),
        revoke(9),
        SuspendClient(client_name(1)),
        SuspendClient(client_name(1)),
        SuspendClient(client_name(2)),
        ResumeClient(client_name(2)),
        ResumeClient(client_name(2)),
    ]


def malformed(reason: str = "no command") -> MalformedRecord:
    return MalformedRecord(reason, "00" * 32, size_bytes=7)


def registered(
    instrument: str = BTC_USD,
    *,
    price_scale: int = 2,
    quantity_scale: int = 8,
    tick: int = 1,
    lot: int = 1,
    time_ms: int = TIME_MS,
) -> InstrumentRegistered:
    base, _, quote = instrument.partition("-")
    return InstrumentRegistered(
        instrument=instrument,
        base=base,
        quote=quote,
        price_scale=price_scale,
        quantity_scale=quantity_scale,
        tick_size=Price(tick),
        lot_size=Quantity(lot),
        time_ms=time_ms,
    )


def instrument_rejected(instrument: str = BTC_USD) -> InstrumentRejected:
    reason = RejectReason.INSTRUMENT_ALREADY_REGISTERED
    return InstrumentRejected(instrument, reason, time_ms=TIME_MS)


def close(cycle: int) -> CloseSettlementCycle:
    return CloseSettlementCycle(cycle)


def closed(cycle: int) -> SettlementCycleClosed:
    return SettlementCycleClosed(cycle, time_ms=TIME_MS)


def close_rejected(cycle: int) -> SettlementCycleRejected:
    return SettlementCycleRejected(cycle, RejectReason.CYCLE_CLOSED, time_ms=TIME_MS)


def accepted(
    order: int,
    side: Side,
    *,
    price: int | None,
    quantity: int,
    order_type: OrderType = OrderType.LIMIT,
    client: int | None = None,
    instrument: str = BTC_USD,
    time_ms: int = TIME_MS,
) -> OrderAccepted:
    return OrderAccepted(
        order_id=order_name(order),
        client_id=client_name(order if client is None else client),
        instrument=instrument,
        side=side,
        order_type=order_type,
        price=_price(price),
        quantity=Quantity(quantity),
        time_ms=time_ms,
    )


def accepted_market(order: int, side: Side, *, quantity: int) -> OrderAccepted:
    return accepted(order, side, price=None, quantity=quantity, order_type=OrderType.MARKET)


def rejected(command: PlaceOrder, reason: RejectReason) -> OrderRejected:
    """Refuse ``command``; the event repeats all that was asked."""
    return OrderRejected(
        order_id=command.order_id,
        client_id=command.client_id,
        instrument=command.instrument,
        side=command.side,
        order_type=command.order_type,
        price=command.price,
        quantity=command.quantity,
        reason=reason,
        time_ms=TIME_MS,
    )


def trade(
    *,
    maker: int,
    taker: int,
    price: int,
    quantity: int,
    taker_side: Side = Side.BUY,
    maker_remaining: int = 0,
    taker_remaining: int = 0,
    maker_client: int | None = None,
    taker_client: int | None = None,
    instrument: str = BTC_USD,
) -> TradeExecuted:
    """Trade; each order is filled by it unless something is said to remain."""
    return TradeExecuted(
        instrument=instrument,
        price=Price(price),
        quantity=Quantity(quantity),
        taker_side=taker_side,
        taker_order_id=order_name(taker),
        taker_client_id=client_name(taker if taker_client is None else taker_client),
        taker_remaining=Quantity(taker_remaining),
        maker_order_id=order_name(maker),
        maker_client_id=client_name(maker if maker_client is None else maker_client),
        maker_remaining=Quantity(maker_remaining),
        time_ms=TIME_MS,
    )


def rested(
    order: int,
    side: Side,
    *,
    price: int,
    quantity: int,
    client: int | None = None,
    instrument: str = BTC_USD,
    time_ms: int = TIME_MS,
) -> OrderRested:
    return OrderRested(
        order_id=order_name(order),
        client_id=client_name(order if client is None else client),
        instrument=instrument,
        side=side,
        price=Price(price),
        quantity=Quantity(quantity),
        time_ms=time_ms,
    )


def cancelled(
    order: int,
    side: Side,
    *,
    price: int | None,
    quantity: int,
    reason: CancelReason = CancelReason.REQUESTED,
    client: int | None = None,
    instrument: str = BTC_USD,
    asked_by: int | UnsetType | None = None,
) -> OrderCancelled:
    return OrderCancelled(
        order_id=order_name(order),
        client_id=client_name(order if client is None else client),
        instrument=instrument,
        side=side,
        price=_price(price),
        quantity=Quantity(quantity),
        reason=reason,
        time_ms=TIME_MS,
        asked_by=_asked_by(asked_by),
    )


def remainder_cancelled(order: int, side: Side, *, quantity: int) -> OrderCancelled:
    """End a market order that found too little to trade with."""
    reason = CancelReason.MARKET_REMAINDER
    return cancelled(order, side, price=None, quantity=quantity, reason=reason, asked_by=UNSET)


def cancel_rejected(
    order: int,
    reason: RejectReason,
    *,
    instrument: str = BTC_USD,
    asked_by: int | UnsetType | None = None,
) -> CancelRejected:
    asked = _asked_by(asked_by)
    return CancelRejected(order_name(order), instrument, reason, time_ms=TIME_MS, asked_by=asked)


def record_rejected(command: MalformedRecord) -> RecordRejected:
    return RecordRejected(command.reason, command.sha256, command.size_bytes, time_ms=TIME_MS)


def record(
    value: bytes,
    *,
    command_id: bytes | None = COMMAND_ID.bytes,
    reply_to: bytes | None = None,
    key_id: bytes | None = None,
) -> CommandRecord:
    """Wrap bytes as they come from Kafka."""
    return CommandRecord(OFFSET, TIME_MS, value, command_id, reply_to, key_id=key_id)


def stored(event: Event, position: int = 1) -> StoredEvent:
    """Put an event into shard 0's log."""
    return store_event(
        event,
        shard=Shard(0),
        position=Position(position),
        command_id=COMMAND_ID,
        kafka_offset=OFFSET,
    )


def _asked_by(client: int | UnsetType | None) -> str | UnsetType | None:
    return client_name(client) if isinstance(client, int) else client


def _price(price: int | None) -> Price | None:
    return None if price is None else Price(price)


def chain_after(chain: bytes, events: Sequence[StoredEvent]) -> bytes:
    """Return the hash chain after all ``events``."""
    return chain_links(chain, events)[-1] if events else chain
