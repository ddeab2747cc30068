"""What may be asked of the exchange.

Every amount is already an integer of the instrument's scales; the gateway converted it once.
Decoding a command from JSON enforces the bounds written here.

A field that has its default is not written. So a new field with a default does not change the bytes
of earlier requests, nor the hashes that their claims hold.
"""

from typing import Annotated, final

from msgspec import Meta, Struct

from exchange.domain.values import (
    AddedShard,
    CycleNumber,
    Id,
    InstrumentName,
    KeyAlgorithm,
    KeyId,
    Label,
    LogPosition,
    MasterNumber,
    Networks,
    OpenOrdersMax,
    OrderType,
    OverlapMs,
    PriceUnits,
    PublicKey,
    QuantityUnits,
    Scale,
    Scopes,
    Side,
    TimeMs,
)


class RegisterInstrument(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Open a book for an instrument on the shard that receives this."""

    instrument: InstrumentName
    base: Id
    quote: Id
    price_scale: Scale
    quantity_scale: Scale
    tick_size: PriceUnits
    lot_size: QuantityUnits


@final
class PlaceOrder(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Trade what crosses; rest what is left of a limit order."""

    order_id: Id
    client_id: Id
    instrument: InstrumentName
    side: Side
    order_type: OrderType
    price: PriceUnits | None
    quantity: QuantityUnits


@final
class CancelOrder(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Take an order off the book; ``client_id``, when given, must own it."""

    order_id: Id
    instrument: InstrumentName
    client_id: Id | None


class CancelAllOrders(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Take a client's orders off the books of the shard that receives this, oldest first.

    ``instrument`` and ``side`` narrow it to these. ``up_to`` narrows it to the orders that came to
    rest at or before this position. One command takes ``CANCEL_ALL_MAX`` orders at most.
    """

    client_id: Id
    instrument: InstrumentName | None = None
    side: Side | None = None
    up_to: LogPosition | None = None


class CloseSettlementCycle(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Close a settlement cycle, and all before it, on the shard that receives this."""

    cycle: CycleNumber


class LimitOpenOrders(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Bound how many open orders each client may have on the shard that receives this."""

    open_orders_max: OpenOrdersMax


class PlaceShard(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Let a shard that is about to be added take part in settlement from the open cycle on.

    It is sent to shard 0, whose log then has it before any later closing: a cycle that shard 0 has
    not closed is closed nowhere.
    """

    shard: AddedShard


class CreateAccount(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Let a client have keys. Shard 0 decides this and all that concerns keys."""

    client_id: Id


class SuspendClient(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Take no more orders of a client on the shard that receives this; cancels pass.

    The client needs no account, of which shard 0 alone could tell.
    """

    client_id: Id


class ResumeClient(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Take orders of a suspended client again on the shard that receives this."""

    client_id: Id


class IssueKey(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Let requests that a key signs act for an account.

    A key of Ed25519 has its ``public_key`` here. One of HMAC has the number of the ``master`` key
    from which its secret is derived. With ``addresses``, networks as CIDR, it is good from there
    only.
    """

    key_id: KeyId
    client_id: Id
    algorithm: KeyAlgorithm
    public_key: PublicKey | None
    master: MasterNumber | None
    scopes: Scopes
    addresses: Networks
    expires_ms: TimeMs | None
    label: Label


class RotateKey(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Put a new key in the place of one, which stays good for ``overlap_ms``.

    The new key has the old one's account, algorithm, scopes, addresses, end and label.
    """

    key_id: KeyId
    new_key_id: KeyId
    public_key: PublicKey | None
    master: MasterNumber | None
    overlap_ms: OverlapMs


class RevokeKey(Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """End a key at once."""

    key_id: KeyId


class MalformedRecord(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Stands for a Kafka record that is no command, so that the log tells of it.

    ``sha256`` is the hex digest of the record's bytes.
    """

    reason: Annotated[str, Meta(max_length=500)]
    sha256: str
    size_bytes: int


class QuarantinedRecord(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Stands for a Kafka record that crashed the matcher, so that the log goes on without it.

    ``sha256`` is the hex digest of the record's bytes; ``crashes`` is how often it was tried alone.
    """

    sha256: str
    size_bytes: int
    crashes: int


class RetryQuarantined(
    Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Decide once more a record that was quarantined on the shard that receives this.

    ``offset`` is that of the quarantined record and ``value`` its bytes. Only an operator sends
    this.
    """

    offset: Annotated[int, Meta(ge=0)]
    value: bytes


class RetriedRecord(Struct, frozen=True):
    """Stands for a ``RetryQuarantined`` whose bytes were read.

    ``sha256`` is the hex digest of the bytes, ``body_hash`` that of the request in them.
    """

    offset: int
    sha256: str
    body_hash: str
    command: "ClientCommand | MalformedRecord | RetriedRecord"


# About accounts, their keys and suspensions; see ``accounts``.
AccountCommand = CreateAccount | SuspendClient | ResumeClient | IssueKey | RotateKey | RevokeKey

# What may be in Kafka: clients' commands; the last two are operators'.
ClientCommand = (
    RegisterInstrument
    | PlaceOrder
    | CancelOrder
    | CancelAllOrders
    | CloseSettlementCycle
    | LimitOpenOrders
    | PlaceShard
    | AccountCommand
)
Command = ClientCommand | MalformedRecord | QuarantinedRecord | RetriedRecord
