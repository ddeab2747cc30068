"""Bytes to commands and events and back, and the hashes over them.

What is here may be in the log for ever: an event of a changed form gets an upcaster in
``UPCASTERS``, a new value an entry in ``LATER_VALUES``, old bytes never another meaning.

Command ids tell what they are: version 8 (a hash of client and key) when the
client gave an idempotency key, version 7 (made by the gateway) when it did not.
Version 4 (a hash of the bytes) stands for a record that is no command. It is no
identity: the same bytes twice are told of twice in the log, and change nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from exchange import BUILD
from exchange.domain.commands import (
    CancelOrder,
    ClientCommand,
    CloseSettlementCycle,
    Command,
    LimitOpenOrders,
    MalformedRecord,
    PlaceOrder,
    PlaceShard,
    QuarantinedRecord,
    RegisterInstrument,
    RetriedRecord,
    RetryQuarantined,
)
from exchange.domain.events import Event
from exchange.domain.values import (
    CancelReason,
    Offset,
    Position,
    RejectReason,
    Shard,
    instrument_of_exchange_order_id,
)
from exchange.ports import UNKNOWN_BODY, Claim, CommandRecord, StoredEvent

KEYED_COMMAND_ID_VERSION: Final = 8
UNKEYED_COMMAND_ID_VERSION: Final = 7
LINK_BYTES: Final = 8  # finds the event that was changed; that one was, the whole chain proves
BODY_HASH_BYTES: Final = 16  # 128 bits: a client can only collide with itself, under one key
WAITER_MAX: Final = 2**53
VERSION_DIGITS_MAX: Final = 4
BUILD_BYTES_MAX: Final = 100
REASON_CHARACTERS_MAX: Final = 500  # an error may quote the whole record

UPCASTERS: Final[dict[str, tuple[Callable[[str], str], ...]]] = {}
"""By type of event: the functions that lift its text from version 1 to 2, from 2 to 3 and so on.

A type that is not here has its first form. A form is new only where an older reader would
misread it: a field that it may pass over makes none.
"""

LATER_VALUES: Final[dict[str, Mapping[StrEnum, int]]] = {
    "OrderCancelled": {CancelReason.FILLS_MAX: 2},
    "OrderRejected": {RejectReason.TOO_MANY_OPEN_ORDERS: 2},
}
"""By type of event: from which version on an event may have a value that older readers lack.

Only events with such a value are of that version, so that older readers read all others and
an upgrade can be taken back until the first of them. The value asks for no upcaster.
"""

LATER_COMMANDS: Final[dict[str, int]] = {
    "LimitOpenOrders": 2,
    "PlaceShard": 2,
    "RetryQuarantined": 2,
}
"""What commands gained (``Type``, ``Type.field`` or ``Type.field=value``), and in which version.

An earlier matcher would take a command that uses it for no command at all. A command has the lowest
version whose readers read it, so that only those that use something new wait for a newer matcher.
"""

OUTCOMES_VERSION: Final = 1
"""The form of ``OutcomeMessage``: new where an older gateway would misread it."""

SentCommand = ClientCommand | RetryQuarantined
"""What may be in Kafka: commands of clients, and an operator's."""

_SomeCommand = TypeVar("_SomeCommand", bound=Command | RetryQuarantined)

_encoder = msgspec.json.Encoder()
_command_decoder: Final[msgspec.json.Decoder[SentCommand]] = msgspec.json.Decoder(SentCommand)
_event_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


class _Tagged(Struct, frozen=True):
    type: str


_tag_decoder: Final[msgspec.json.Decoder[_Tagged]] = msgspec.json.Decoder(_Tagged)


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
    ``versions`` are those of the events, none of them where all have their first.
    """

    waiter: int
    offset: int
    first_position: int = 0
    events: list[Raw] = []
    versions: list[int] = []
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
    version: int = OUTCOMES_VERSION


_outcome_decoder = msgspec.json.Decoder(OutcomeMessage)


def encode_command(command: SentCommand) -> bytes:
    """Return the value of a Kafka record."""
    return _encoder.encode(_without_defaults(command))


def decode_command(value: bytes) -> SentCommand:
    """Read the value of a Kafka record.

    Raises:
        ValueError: It is no command, or breaks a bound.
    """
    try:
        return _command_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def commands_version() -> int:
    """Return the latest version of commands that this build reads."""
    return max(LATER_COMMANDS.values(), default=1)


def command_version(command: Struct) -> int:
    """Return the version that a command is sent with: the lowest whose readers read it."""
    used = (version for what, version in LATER_COMMANDS.items() if _uses(command, what))
    return max(used, default=1)


def version_header(version: int) -> bytes:
    """Return the header that tells a command's version, and which build sent it."""
    return f"{version} {BUILD}".encode()


def version_of(record: CommandRecord) -> int:
    """Return a record's version; without a header that can be read it is the first."""
    number = (record.version or b"").partition(b" ")[0]
    told = number.isdigit() and len(number) <= VERSION_DIGITS_MAX
    return int(number) if told else 1


def build_of(record: CommandRecord) -> str:
    """Name the build that sent a record, as far as it says so."""
    build = (record.version or b"").partition(b" ")[2][:BUILD_BYTES_MAX]
    return _readable(build.decode(errors="replace")) or "a build that does not say its name"


def receive(record: CommandRecord) -> ReceivedCommand:
    """Decode a record; one that cannot be decoded becomes a ``MalformedRecord``."""
    try:
        command_id = _command_id(record)
        sent = decode_command(record.value)
    except (ValueError, TypeError) as error:
        return refuse(record, str(error))
    command = _retried(sent) if isinstance(sent, RetryQuarantined) else sent
    return _received(record, command, command_id)


def refuse(record: CommandRecord, reason: str) -> ReceivedCommand:
    """Stand for a record that is no command. It claims nothing, whatever id it came with."""
    command = _malformed(record.value, reason)
    return _received(record, command, UUID(hex=command.sha256[:32], version=4))


def quarantine(record: CommandRecord, *, crashes: int) -> ReceivedCommand:
    """Stand for a record that crashed the matcher; its value is not looked into again.

    Its key, if it has one, is claimed for it all the same: a resend is refused and not decided.
    """
    digest = sha256(record.value).hexdigest()
    try:
        command_id = _command_id(record)
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


def retry_command_id(shard: int, offset: int) -> UUID:
    """Return the id of the retry of a quarantined record: its place is the idempotency key."""
    return _hash_uuid("retry", str(shard), str(offset))


def placing_command_id(shard: int) -> UUID:
    """Return the id of a shard's placing in the open cycle: a shard is placed once."""
    return _hash_uuid("shard", str(shard))


def is_keyed(command_id: UUID) -> bool:
    """Tell whether a resend of this command must give the first one's outcome."""
    return command_id.version == KEYED_COMMAND_ID_VERSION


def is_unkeyed(command_id: UUID) -> bool:
    """Tell whether a gateway made the id: a second record with it is the first one, sent again."""
    return command_id.version == UNKEYED_COMMAND_ID_VERSION


def command_claim(command_id: UUID) -> str:
    """Name the claim of a keyed command; one without a key holds its own by its events."""
    return f"command:{command_id.hex}"


def unkeyed_claim(command_id: UUID, shard: int, offset: int) -> Claim:
    """Return what the events of a command without a key are: its claim, though without a hash."""
    return Claim(command_claim(command_id), Shard(shard), Offset(offset), UNKNOWN_BODY)


def order_claim(order_id: str) -> str:
    """Name the claim of an order id that a client chose."""
    return f"order:{order_id}"


def body_hash(command: Command) -> bytes:
    """Hash what the client asked; what a gateway made (an order id) is left out.

    Claims hold these hashes for ever, so the one of a request that an earlier build could make
    never changes: a later field enters it only where it differs from its default.
    """
    match command:
        case PlaceOrder() if instrument_of_exchange_order_id(command.order_id) is not None:
            command = msgspec.structs.replace(command, order_id="")  # no client can choose that
        case RetriedRecord(offset, digest):
            return retry_body_hash(offset, digest)
        case (
            PlaceOrder()
            | CancelOrder()
            | RegisterInstrument()
            | CloseSettlementCycle()
            | LimitOpenOrders()
            | PlaceShard()
            | MalformedRecord()
            | QuarantinedRecord()
        ):
            pass
    return sha256(_encoder.encode(_without_defaults(command))).digest()[:BODY_HASH_BYTES]


def retry_body_hash(offset: int, digest: str) -> bytes:
    """Hash what an operator asked, from what the event of a retry tells too."""
    return sha256(f"RetriedRecord\0{offset}\0{digest}".encode()).digest()[:BODY_HASH_BYTES]


def store_event(
    event: Event, *, shard: Shard, position: Position, command_id: UUID, kafka_offset: Offset
) -> StoredEvent:
    """Return the event as the store keeps it."""
    return StoredEvent(
        shard=shard,
        position=position,
        instrument=getattr(event, "instrument", None),
        type=type(event).__name__,
        version=event_version(event),
        data=_encoder.encode(event).decode(),
        command_id=command_id,
        kafka_offset=kafka_offset,
    )


def event_version(event: Event) -> int:
    """Return the version that an event is stored with: the lowest whose readers read it."""
    name = type(event).__name__
    version = _form(name)
    later = LATER_VALUES.get(name)
    if later is None:
        return version
    values = [value for value in msgspec.structs.astuple(event) if isinstance(value, StrEnum)]
    return max(version, *(later.get(value, 1) for value in values))


def lift_event_data(name: str, version: int, data: str) -> str | None:
    """Return the text of an event of type ``name`` in its present form; None if none is known."""
    if version == 1 and name not in UPCASTERS:  # nearly every event there is
        return data
    form = _form(name)
    if not 1 <= version <= max(form, *LATER_VALUES.get(name, {}).values(), 1):
        return None
    for upcast in UPCASTERS.get(name, ())[version - 1 :]:
        data = upcast(data)
    return data


def load_event(stored: StoredEvent) -> DecidedEvent:
    """Read a stored event, lifting older forms to the present one.

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
    """Read events in their present form, one a line.

    Raises:
        ValueError: One cannot be read.
    """
    try:
        return _event_decoder.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def encode_event_data(event: Event) -> bytes:
    """Return an event as text, in its present form."""
    return _encoder.encode(event)


def decode_event_data(data: bytes | Raw, version: int) -> Event:
    """Read an event from its text alone, lifting older forms to the present one.

    Raises:
        UnknownEvent: Its type or version is not known here.
    """
    try:
        if version == 1 and not UPCASTERS:  # nearly every event there is
            return _event_decoder.decode(data)
        name = _tag_decoder.decode(data).type
        lifted = lift_event_data(name, version, bytes(data).decode())
        if lifted is None:
            raise UnknownEvent(f"{name}: version {version} is not known")
        return _event_decoder.decode(lifted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownEvent(str(error)) from error


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
    """Read a message of outcomes.

    Raises:
        ValueError: It is of another version, or none.
    """
    message = _outcome_decoder.decode(data)
    if message.version != OUTCOMES_VERSION:
        raise ValueError(f"its version {message.version} is not {OUTCOMES_VERSION}")
    return message


def decode_event(stored: StoredEvent) -> Event:
    """Read what happened, lifting older forms to the present one.

    Raises:
        UnknownEvent: Its type or version is not known here.
    """
    data = lift_event_data(stored.type, stored.version, stored.data)
    if data is None:
        raise UnknownEvent(_place_of(stored, f"version {stored.version} is not known"))
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnknownEvent(_place_of(stored, str(error))) from error


def _form(name: str) -> int:
    """Return the version that a type of event has had since its form last changed."""
    return 1 + len(UPCASTERS.get(name, ()))


def _uses(command: Struct, what: str) -> bool:
    """Tell whether a command uses what an entry of ``LATER_COMMANDS`` names."""
    name, _, field = what.partition(".")
    field, _, value = field.partition("=")
    if type(command).__name__ != name:
        return False
    if value:
        return bool(getattr(command, field) == value)
    return not field or getattr(command, field) != _default_of(command, field)


def _default_of(command: Struct, field: str) -> object:
    fields, defaults = command.__struct_fields__, command.__struct_defaults__
    return defaults[fields.index(field) - len(fields)]  # a later field has one


def _without_defaults(command: _SomeCommand) -> _SomeCommand:
    """Have fields that equal their defaults left out: msgspec leaves out what *is* the default."""
    defaults = command.__struct_defaults__
    if not defaults:
        return command
    fields = command.__struct_fields__[-len(defaults) :]
    equal = {
        name: default
        for name, default in zip(fields, defaults, strict=True)
        if getattr(command, name) == default
    }
    return msgspec.structs.replace(command, **equal)


def _place_of(stored: StoredEvent, problem: str) -> str:
    return f"{stored.type} at position {stored.position} of shard {stored.shard}: {problem}"


def _command_id(record: CommandRecord) -> UUID:
    """Return a record's command id; one of another form could not be found when it is resent."""
    command_id = UUID(bytes=record.command_id)
    if not (is_keyed(command_id) or is_unkeyed(command_id)):
        raise ValueError(f"its command id {command_id} is neither of version 7 nor of version 8")
    return command_id


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


def _retried(retry: RetryQuarantined) -> RetriedRecord:
    command: ClientCommand | MalformedRecord | RetriedRecord
    try:
        sent = decode_command(retry.value)
        command = _retried(sent) if isinstance(sent, RetryQuarantined) else sent
    except ValueError as error:
        command = _malformed(retry.value, str(error))
    digest = sha256(retry.value).hexdigest()
    return RetriedRecord(retry.offset, digest, body_hash(command).hex(), command)


def _malformed(value: bytes, reason: str) -> MalformedRecord:
    return MalformedRecord(_readable(reason), sha256(value).hexdigest(), len(value))


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
