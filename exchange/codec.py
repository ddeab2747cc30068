"""Bytes to commands and events and back, and the hashes over them.

What is here may be in the log for ever: a change of an event's shape gets a new
version and an upcaster in ``UPCASTERS``, never another meaning for old bytes.

Command ids tell what they are: version 8 (a hash of client and key) when the
client gave an idempotency key, version 7 (made by the gateway) when it did not.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from exchange.domain.commands import (
    CancelOrder,
    ClientCommand,
    CloseSettlementCycle,
    Command,
    MalformedRecord,
    PlaceOrder,
    QuarantinedRecord,
    RegisterInstrument,
)
from exchange.domain.events import Event
from exchange.domain.values import (
    Offset,
    Position,
    Shard,
    instrument_of_exchange_order_id,
)
from exchange.ports import CommandRecord, StoredEvent

EVENT_VERSION: Final = 1
KEYED_COMMAND_ID_VERSION: Final = 8
LINK_BYTES: Final = 8  # finds the event that was changed; that one was, the whole chain proves
BODY_HASH_BYTES: Final = 16  # 128 bits: a client can only collide with itself, under one key
WAITER_MAX: Final = 2**53
REASON_CHARACTERS_MAX: Final = 500  # an error may quote the whole record

UPCASTERS: Final[dict[tuple[str, int], Callable[[str], str]]] = {}
"""From a type and an old version to the function that lifts its text by one version."""

_encoder = msgspec.json.Encoder()
_command_decoder: Final[msgspec.json.Decoder[ClientCommand]] = msgspec.json.Decoder(ClientCommand)
_event_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


class UnknownEvent(Exception):
    """The log holds an event that this version of the software cannot read."""


class ReceivedCommand(Struct, frozen=True, gc=False):
    """A command that arrived, and who waits for its outcome (gateway and waiter, or None)."""

    command: Command
    command_id: UUID
    offset: Offset
    time_ms: int
    gateway: str | None
    waiter: int
    traceparent: str | None = None


class DecidedEvent(Struct, frozen=True, gc=False):
    """An event with its place in the log, decoded."""

    shard: Shard
    position: Position
    event: Event
    command_id: UUID
    kafka_offset: Offset


class Outcome(Struct, frozen=True, omit_defaults=True):
    """What became of one command, for the gateway that waits.

    Either ``events`` (with the position of the first), or ``replay_of``: the Kafka place of
    the command that took the key earlier; ``conflict`` when that one asked something else.
    """

    waiter: int
    offset: int
    first_position: int = 0
    events: list[Raw] = []
    replay_of: tuple[int, int] | None = None
    conflict: bool = False


class Depth(Struct, frozen=True):
    """Price levels of one instrument, best first, as pairs of price and quantity in units."""

    position: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


class OutcomeMessage(Struct, frozen=True):
    """The outcomes of one batch for one gateway, with the books that it left."""

    shard: int
    books: dict[str, Depth]
    outcomes: list[Outcome]


_outcome_decoder = msgspec.json.Decoder(OutcomeMessage)


def encode_command(command: ClientCommand) -> bytes:
    """Return the value of a Kafka record."""
    return _encoder.encode(command)


def decode_command(value: bytes) -> ClientCommand:
    """Read the value of a Kafka record.

    Raises:
        ValueError: It is no command, or breaks a bound.
    """
    try:
        return _command_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def receive(record: CommandRecord) -> ReceivedCommand:
    """Decode a record; one that cannot be decoded becomes a ``MalformedRecord``."""
    command: Command
    try:
        command_id = UUID(bytes=record.command_id)
        command = decode_command(record.value)
    except (ValueError, TypeError) as error:
        digest = sha256(record.value).hexdigest()
        command_id = UUID(hex=digest[:32], version=4)
        command = MalformedRecord(_readable(str(error)), digest, len(record.value))
    return _received(record, command, command_id)


def quarantine(record: CommandRecord, *, crashes: int) -> ReceivedCommand:
    """Stand for a record that crashed the matcher; its value is not looked into again.

    Its key, if it has one, is claimed for it all the same: a resend is refused and not decided.
    """
    digest = sha256(record.value).hexdigest()
    try:
        command_id = UUID(bytes=record.command_id)
    except (ValueError, TypeError):
        command_id = UUID(hex=digest[:32], version=4)
    command = QuarantinedRecord(digest, len(record.value), crashes)
    return _received(record, command, command_id)


def reply_address(gateway: str, waiter: int) -> bytes:
    """Return the ``reply_to`` header for a waiter of a gateway."""
    return f"{gateway}:{waiter}".encode()


def keyed_command_id(client_id: str, idempotency_key: str) -> UUID:
    """Return the id that every command of this client with this key has."""
    return _hash_uuid("key", client_id, idempotency_key)


def registration_command_id(instrument: str) -> UUID:
    """Return the id of an instrument's registration: its name is the idempotency key."""
    return _hash_uuid("instrument", instrument)


def cycle_command_id(shard: int, cycle: int) -> UUID:
    """Return the id of a cycle's closing on a shard: its number is the idempotency key."""
    return _hash_uuid("settlement cycle", str(shard), str(cycle))


def is_keyed(command_id: UUID) -> bool:
    """Tell whether a resend of this command must give the first one's outcome."""
    return command_id.version == KEYED_COMMAND_ID_VERSION


def command_claim(command_id: UUID) -> str:
    """Name the claim of a keyed command."""
    return f"command:{command_id.hex}"


def order_claim(order_id: str) -> str:
    """Name the claim of an order id that a client chose."""
    return f"order:{order_id}"


def body_hash(command: Command) -> bytes:
    """Hash what the client asked; what a gateway made (an order id) is left out."""
    match command:
        case PlaceOrder() if instrument_of_exchange_order_id(command.order_id) is not None:
            command = msgspec.structs.replace(command, order_id="")  # no client can choose that
        case (
            PlaceOrder()
            | CancelOrder()
            | RegisterInstrument()
            | CloseSettlementCycle()
            | MalformedRecord()
            | QuarantinedRecord()
        ):
            pass
    return sha256(_encoder.encode(command)).digest()[:BODY_HASH_BYTES]


def store_event(
    event: Event, *, shard: Shard, position: Position, command_id: UUID, kafka_offset: Offset
) -> StoredEvent:
    """Return the event as the store keeps it."""
    return StoredEvent(
        shard=shard,
        position=position,
        instrument=getattr(event, "instrument", None),
        type=type(event).__name__,
        version=EVENT_VERSION,
        data=_encoder.encode(event).decode(),
        command_id=command_id,
        kafka_offset=kafka_offset,
    )


def load_event(stored: StoredEvent) -> DecidedEvent:
    """Read a stored event, lifting old versions to the current one.

    Raises:
        UnknownEvent: Its type or version is not known here.
    """
    return DecidedEvent(
        stored.shard,
        stored.position,
        decode_event(stored),
        stored.command_id,
        stored.kafka_offset,
    )


def decode_event_lines(lines: bytes) -> list[Event]:
    """Read events of the current version, one a line.

    Raises:
        ValueError: One cannot be read.
    """
    try:
        return _event_decoder.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def encode_event_data(event: Event) -> bytes:
    """Return an event of the current version as text."""
    return _encoder.encode(event)


def decode_event_data(data: bytes | Raw) -> Event:
    """Read an event of the current version from its text."""
    return _event_decoder.decode(data)


def chain_links(chain: bytes, events: Sequence[StoredEvent]) -> list[bytes]:
    """Return the hash chain after each event: one SHA-256 over the last and the event's columns.

    Event by event, so that any batching of the same events gives the same chain.
    """
    links: list[bytes] = []
    for stored in events:
        columns = (
            f"{stored.shard}\x1f{stored.position}\x1f{stored.instrument or ''}\x1f{stored.type}"
            f"\x1f{stored.version}\x1f{stored.command_id.hex}\x1f{stored.kafka_offset}\x1f"
        )
        chain = sha256(chain + columns.encode() + stored.data.encode()).digest()
        links.append(chain)
    return links


def abridge_links(links: Sequence[bytes]) -> bytes:
    """Return what a batch keeps of its links: enough to tell which event is not what it was."""
    return b"".join(link[:LINK_BYTES] for link in links)


def encode_outcomes(message: OutcomeMessage) -> bytes:
    """Return the message that carries a batch's outcomes to a gateway."""
    return _encoder.encode(message)


def decode_outcomes(data: bytes) -> OutcomeMessage:
    """Read a message of outcomes."""
    return _outcome_decoder.decode(data)


def decode_event(stored: StoredEvent) -> Event:
    """Read what happened, lifting old versions to the current one.

    Raises:
        UnknownEvent: Its type or version is not known here.
    """
    version, data = stored.version, stored.data
    while version < EVENT_VERSION:
        upcast = UPCASTERS.get((stored.type, version))
        if upcast is None:
            break
        version, data = version + 1, upcast(data)
    if version != EVENT_VERSION:
        raise UnknownEvent(_place_of(stored, f"version {stored.version} is not known"))
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnknownEvent(_place_of(stored, str(error))) from error


def _place_of(stored: StoredEvent, problem: str) -> str:
    return f"{stored.type} at position {stored.position} of shard {stored.shard}: {problem}"


def _received(record: CommandRecord, command: Command, command_id: UUID) -> ReceivedCommand:
    gateway, waiter = _reply_address(record.reply_to)
    traceparent = record.traceparent
    return ReceivedCommand(
        command,
        command_id,
        record.offset,
        record.time_ms,
        gateway,
        waiter,
        None if traceparent is None else traceparent.decode(errors="replace"),
    )


def _readable(reason: str) -> str:
    # It quotes what anyone may have sent. PostgreSQL cannot read a NUL out of a json text, and
    # control or bidirectional characters would deceive whoever reads the log.
    return "".join(c if c.isprintable() else "\ufffd" for c in reason[:REASON_CHARACTERS_MAX])


def _reply_address(header: bytes | None) -> tuple[str | None, int]:
    gateway, _, waiter = (header or b"").partition(b":")
    if not (gateway.isalnum() and waiter.isdigit() and len(waiter) <= len(str(WAITER_MAX))):
        return None, 0
    return gateway.decode(), int(waiter)


def _hash_uuid(*parts: str) -> UUID:
    # A NUL cannot be in an id, so no two lists of parts give the same text.
    digest = sha256("\0".join(parts).encode()).digest()[:16]
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | (KEYED_COMMAND_ID_VERSION << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=number)
