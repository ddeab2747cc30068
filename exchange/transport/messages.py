"""Commands and outcomes as bytes, and what becomes of bytes that are no command.

Read ``receive``: whatever is in Kafka becomes a command that can be decided, if only to be refused.
"""

import re
from contextlib import suppress
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct, field

from exchange import BUILD
from exchange.domain.commands import (
    ClientCommand,
    Command,
    MalformedRecord,
    QuarantinedRecord,
    RetriedRecord,
    RetryQuarantined,
)
from exchange.domain.values import Offset
from exchange.log.command_form import without_defaults
from exchange.log.identity import body_hash, is_keyed, is_unkeyed
from exchange.ports import CommandRecord

WAITER_MAX: Final = 2**53
VERSION_DIGITS_MAX: Final = 4
BUILD_BYTES_MAX: Final = 100
REASON_CHARACTERS_MAX: Final = 500  # an error may quote the whole record
KEY_ID: Final = re.compile(rb"[0-9a-f]{32}")


OUTCOMES_VERSION: Final = 1
"""The version of ``OutcomeMessage``; a change that an older gateway would misread raises it."""


SentCommand = ClientCommand | RetryQuarantined
"""What may be in Kafka: clients' commands, and an operator's ``RetryQuarantined``."""
_encoder = msgspec.json.Encoder()
_command_decoder: Final[msgspec.json.Decoder[SentCommand]] = msgspec.json.Decoder(SentCommand)


class ReceivedCommand(Struct, frozen=True, gc=False):
    """A command that arrived; ``waiter`` of ``gateway`` waits for its outcome.

    ``gateway`` is None if nobody waits. ``time_ms`` is the broker's stamp. ``key_id`` is that of
    the key by which the command was signed.
    """

    command: Command
    command_id: UUID
    offset: Offset
    time_ms: int
    gateway: str | None
    waiter: int
    traceparent: str | None = None
    key_id: str | None = None


class Outcome(Struct, frozen=True, omit_defaults=True):
    """What became of one command, for the gateway that waits.

    Either ``events``, the first of them at ``first_position``; or ``first``, the location of an
    earlier command that took the key, where ``conflict`` says that it asked something else.
    ``versions`` are those of the events; it is empty where every event has version 1.
    """

    waiter: int
    offset: int
    first_position: int = 0
    events: list[Raw] = []
    versions: list[int] = []
    first: tuple[int, int] | None = field(default=None, name="replay_of")
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
    return _encoder.encode(without_defaults(command))


def decode_command(value: bytes) -> SentCommand:
    """Read the value of a Kafka record.

    Raises:
        ValueError: It is no command, or breaks a bound.
    """
    try:
        return _command_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def version_header(version: int) -> bytes:
    """Return the header that tells a command's version and the build that sends it."""
    return f"{version} {BUILD}".encode()


def version_of(record: CommandRecord) -> int:
    """Return the version in a record's header; 1 if there is no readable header."""
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
        key_id = _key_id(record)
        sent = decode_command(record.value)
    except (ValueError, TypeError) as error:
        return refuse(record, str(error))
    command = _retried(sent) if isinstance(sent, RetryQuarantined) else sent
    return _received(record, command, command_id, key_id)


def refuse(record: CommandRecord, reason: str) -> ReceivedCommand:
    """Return the command that stands for a malformed record; it claims nothing, whatever its id."""
    command = _malformed(record.value, reason)
    return _received(
        record, command, UUID(hex=command.sha256[:32], version=4), readable_key_id(record)
    )


def quarantine(record: CommandRecord, *, crashes: int) -> ReceivedCommand:
    """Return the command that stands for a record which crashed the matcher.

    The record's value is not decoded again. Its key, if it has one, is claimed nevertheless, so
    that a resend of it is not decided.
    """
    digest = sha256(record.value).hexdigest()
    try:
        command_id = _command_id(record)
    except (ValueError, TypeError):
        command_id = UUID(hex=digest[:32], version=4)
    command = QuarantinedRecord(digest, len(record.value), crashes)
    return _received(record, command, command_id, readable_key_id(record))


def readable_key_id(record: CommandRecord) -> str | None:
    """Return the id of the key that signed a record, if it can be read."""
    with suppress(ValueError):
        return _key_id(record)
    return None


def reply_address(gateway: str, waiter: int) -> bytes:
    """Return the ``reply_to`` header for a waiter of a gateway."""
    return f"{gateway}:{waiter}".encode()


def encode_outcomes(message: OutcomeMessage) -> bytes:
    """Return the message that carries a batch's outcomes to a gateway."""
    return _encoder.encode(message)


def decode_outcomes(data: bytes) -> OutcomeMessage:
    """Read a message of outcomes.

    Raises:
        ValueError: It has another version, or is no such message.
    """
    message = _outcome_decoder.decode(data)
    if message.version != OUTCOMES_VERSION:
        raise ValueError(f"its version {message.version} is not {OUTCOMES_VERSION}")
    return message


def _command_id(record: CommandRecord) -> UUID:
    """Return a record's command id. By an id of another version no resend could be found."""
    command_id = UUID(bytes=record.command_id)
    if not (is_keyed(command_id) or is_unkeyed(command_id)):
        raise ValueError(f"its command id {command_id} is neither of version 7 nor of version 8")
    return command_id


def _key_id(record: CommandRecord) -> str | None:
    """Return the id of the key that signed a record; None if none did."""
    if record.key_id is None:
        return None
    if not KEY_ID.fullmatch(record.key_id):
        raise ValueError(f"its key id {record.key_id[:REASON_CHARACTERS_MAX]!r} is none")
    return record.key_id.decode()


def _received(
    record: CommandRecord, command: Command, command_id: UUID, key_id: str | None = None
) -> ReceivedCommand:
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
        key_id,
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
    # A reason may quote bytes that anyone sent. PostgreSQL cannot read a NUL out of a json text,
    # and control or bidirectional characters would deceive whoever reads the log.
    return "".join(c if c.isprintable() else "\ufffd" for c in reason[:REASON_CHARACTERS_MAX])


def _reply_address(header: bytes | None) -> tuple[str | None, int]:
    gateway, _, waiter = (header or b"").partition(b":")
    if not (gateway.isalnum() and waiter.isdigit() and len(waiter) <= len(str(WAITER_MAX))):
        return None, 0
    return gateway.decode(), int(waiter)
