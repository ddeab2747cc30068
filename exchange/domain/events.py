"""What happened, as the log records it for ever.

Events suffice alone: a reader needs no other state than the events before them.
``time_ms`` is the engine's time, milliseconds since the epoch as the broker
stamped the command, and never runs backwards within a shard. ``signed_by`` is
the id of the key by which the command was signed. The first of a command's
events has it; it is unset where no key signed.
"""

from msgspec import UNSET, Struct, UnsetType

from exchange.domain.values import (
    CancelReason,
    KeyAlgorithm,
    KeyScope,
    OrderType,
    Price,
    Quantity,
    RejectReason,
    Side,
)


class InstrumentRegistered(Struct, frozen=True, tag=True, gc=False):
    """An instrument can be traded on this shard. Scales, base and quote never change."""

    instrument: str
    base: str
    quote: str
    price_scale: int
    quantity_scale: int
    tick_size: Price
    lot_size: Quantity
    time_ms: int
    signed_by: str | UnsetType = UNSET


class InstrumentRejected(Struct, frozen=True, tag=True, gc=False):
    """An instrument was not registered."""

    instrument: str
    reason: RejectReason
    time_ms: int
    signed_by: str | UnsetType = UNSET


class OrderAccepted(Struct, frozen=True, tag=True, gc=False):
    """An order passed every check; its trades and what becomes of the rest follow."""

    order_id: str
    client_id: str
    instrument: str
    side: Side
    order_type: OrderType
    price: Price | None
    quantity: Quantity
    time_ms: int
    signed_by: str | UnsetType = UNSET


class OrderRejected(Struct, frozen=True, tag=True, gc=False):
    """An order was refused and changed nothing."""

    order_id: str
    client_id: str
    instrument: str
    side: Side
    order_type: OrderType
    price: Price | None
    quantity: Quantity
    reason: RejectReason
    time_ms: int
    signed_by: str | UnsetType = UNSET


class TradeExecuted(Struct, frozen=True, tag=True, gc=False):
    """Maker and taker exchanged ``quantity`` at the maker's price.

    ``maker_remaining`` and ``taker_remaining`` are what is left of each order after it.
    """

    instrument: str
    price: Price
    quantity: Quantity
    taker_side: Side
    taker_order_id: str
    taker_client_id: str
    taker_remaining: Quantity
    maker_order_id: str
    maker_client_id: str
    maker_remaining: Quantity
    time_ms: int

    @property
    def buy_order_id(self) -> str:
        return self.taker_order_id if self.taker_side is Side.BUY else self.maker_order_id

    @property
    def sell_order_id(self) -> str:
        return self.maker_order_id if self.taker_side is Side.BUY else self.taker_order_id

    @property
    def buyer_client_id(self) -> str:
        return self.taker_client_id if self.taker_side is Side.BUY else self.maker_client_id

    @property
    def seller_client_id(self) -> str:
        return self.maker_client_id if self.taker_side is Side.BUY else self.taker_client_id


class OrderRested(Struct, frozen=True, tag=True, gc=False):
    """What is left of a limit order joined the book, behind all others at its price."""

    order_id: str
    client_id: str
    instrument: str
    side: Side
    price: Price
    quantity: Quantity
    time_ms: int


class OrderCancelled(Struct, frozen=True, tag=True, gc=False):
    """``quantity`` of an order will never trade.

    ``price`` is the level that it leaves; None when it was never on the book. ``asked_by`` is
    the client that the cancel named, None if it named none; it is unset where nobody asked, and
    in logs that are older than the field.
    """

    order_id: str
    client_id: str
    instrument: str
    side: Side
    price: Price | None
    quantity: Quantity
    reason: CancelReason
    time_ms: int
    asked_by: str | UnsetType | None = UNSET
    signed_by: str | UnsetType = UNSET


class CancelRejected(Struct, frozen=True, tag=True, gc=False):
    """A cancel was refused and changed nothing; ``asked_by`` is as in ``OrderCancelled``."""

    order_id: str
    instrument: str
    reason: RejectReason
    time_ms: int
    asked_by: str | UnsetType | None = UNSET
    signed_by: str | UnsetType = UNSET


class CancelAllAccepted(Struct, frozen=True, tag=True, gc=False):
    """So many orders of a client are cancelled by the events that follow, oldest first.

    Others that were asked for, ``remaining_orders``, are still open: one command cancels only so
    many. ``instrument``, ``side`` and ``up_to`` are None where the command did not name them.
    """

    client_id: str
    instrument: str | None
    side: Side | None
    up_to: int | None
    cancelled_orders: int
    remaining_orders: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class SettlementCycleClosed(Struct, frozen=True, tag=True, gc=False):
    """Settlement cycle ``cycle``, and all before it, take no more of the shard's trades."""

    cycle: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class SettlementCycleRejected(Struct, frozen=True, tag=True, gc=False):
    """A settlement cycle was not closed."""

    cycle: int
    reason: RejectReason
    time_ms: int
    signed_by: str | UnsetType = UNSET


class OpenOrdersLimited(Struct, frozen=True, tag=True, gc=False):
    """From now on a client may have at most ``open_orders_max`` open orders on this shard."""

    open_orders_max: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class ShardPlaced(Struct, frozen=True, tag=True, gc=False):
    """Shard ``shard``, which is added, takes part in settlement cycle ``cycle`` and later ones."""

    shard: int
    cycle: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class AccountCreated(Struct, frozen=True, tag=True, gc=False):
    """A client may have keys. Only shard 0 has this and the events of keys."""

    client_id: str
    time_ms: int
    signed_by: str | UnsetType = UNSET


class AccountRejected(Struct, frozen=True, tag=True, gc=False):
    """An account was not created, or a client not suspended or resumed."""

    client_id: str
    reason: RejectReason
    time_ms: int
    signed_by: str | UnsetType = UNSET


class ClientSuspended(Struct, frozen=True, tag=True, gc=False):
    """From now on this shard accepts no order of the client; its open orders stay."""

    client_id: str
    time_ms: int
    signed_by: str | UnsetType = UNSET


class ClientResumed(Struct, frozen=True, tag=True, gc=False):
    """From now on this shard accepts orders of the client again."""

    client_id: str
    time_ms: int
    signed_by: str | UnsetType = UNSET


class KeyIssued(Struct, frozen=True, tag=True, gc=False):
    """Requests that the key signs act for the client, as far as its scopes go.

    Either ``public_key`` is there, or the number of the ``master`` key from which the secret is
    derived. ``rotated_from`` is the key that this one replaces; ``KeyRevoked`` follows, which ends
    that one ``overlap_ms`` later.
    """

    key_id: str
    client_id: str
    algorithm: KeyAlgorithm
    public_key: str | None
    master: int | None
    scopes: tuple[KeyScope, ...]
    addresses: tuple[str, ...]
    expires_ms: int | None
    label: str
    rotated_from: str | None
    overlap_ms: int | None
    time_ms: int
    signed_by: str | UnsetType = UNSET


class KeyRevoked(Struct, frozen=True, tag=True, gc=False):
    """From ``ends_ms`` on the key is good for nothing."""

    key_id: str
    client_id: str
    ends_ms: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class KeyRejected(Struct, frozen=True, tag=True, gc=False):
    """A key was not issued, rotated or revoked; ``client_id`` is None if there is no such key."""

    key_id: str
    client_id: str | None
    reason: RejectReason
    time_ms: int
    signed_by: str | UnsetType = UNSET


class RecordRejected(Struct, frozen=True, tag=True, gc=False):
    """A Kafka record was no command; ``sha256`` is the hex digest of its bytes."""

    reason: str
    sha256: str
    size_bytes: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class CommandQuarantined(Struct, frozen=True, tag=True, gc=False):
    """A Kafka record was passed over: each time it was decided, alone, the matcher crashed."""

    sha256: str
    size_bytes: int
    crashes: int
    time_ms: int
    signed_by: str | UnsetType = UNSET


class CommandRetried(Struct, frozen=True, tag=True, gc=False):
    """The events before this one are the outcome of a record that had been quarantined.

    ``offset`` is that of the quarantined record on this shard, ``sha256`` the hex digest of its
    bytes and ``body_hash`` that of the request in them.
    """

    offset: int
    sha256: str
    body_hash: str
    time_ms: int


# About accounts, their keys and suspensions, but for the refusal of a key.
AccountEvent = (
    AccountCreated | AccountRejected | ClientSuspended | ClientResumed | KeyIssued | KeyRevoked
)

Event = (
    InstrumentRegistered
    | InstrumentRejected
    | OrderAccepted
    | OrderRejected
    | TradeExecuted
    | OrderRested
    | OrderCancelled
    | CancelRejected
    | CancelAllAccepted
    | SettlementCycleClosed
    | SettlementCycleRejected
    | OpenOrdersLimited
    | ShardPlaced
    | AccountEvent
    | KeyRejected
    | RecordRejected
    | CommandQuarantined
    | CommandRetried
)


def trade_id(shard: int, position: int) -> str:
    """Name the trade that stands at ``position`` of ``shard``'s log."""
    return f"{shard}-{position}"
