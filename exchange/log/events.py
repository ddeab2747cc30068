"""Events as the log keeps them: text and version, and older forms lifted to the present one.

Read ``store_event`` and ``load_event``. The text is what the chain was computed over; it is never
written again in another form.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from exchange.domain.events import Event
from exchange.domain.values import CancelReason, Offset, Position, RejectReason, Shard
from exchange.ports import StoredEvent

UPCASTERS: Final[dict[str, tuple[Callable[[str], str], ...]]] = {}
"""By type of event: the functions that lift its text from version 1 to 2, from 2 to 3 and so on.

A type that is not here still has its first form. A change makes a new form only where an older
reader would misread it; an added field that the reader may ignore does not.
"""


LATER_VALUES: Final[dict[str, Mapping[StrEnum, int]]] = {
    "OrderCancelled": {CancelReason.FILLS_MAX: 2},
    "OrderRejected": {RejectReason.TOO_MANY_OPEN_ORDERS: 2, RejectReason.CLIENT_SUSPENDED: 3},
}
"""By type of event: values that older readers lack, and the version of an event with one of them.

Only events with such a value have that version. Older readers read all others, so an upgrade can be
taken back until the first such event. These versions have no upcaster.
"""
_event_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


_encoder = msgspec.json.Encoder()


class _Tagged(Struct, frozen=True):
    type: str


_tag_decoder: Final[msgspec.json.Decoder[_Tagged]] = msgspec.json.Decoder(_Tagged)


class UnknownEvent(Exception):
    """The log holds an event that this version of the software cannot read."""


class DecidedEvent(Struct, frozen=True, gc=False):
    """An event with its position in the log, decoded."""

    shard: Shard
    position: Position
    event: Event
    command_id: UUID
    kafka_offset: Offset


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
    """Return the version that an event is stored with: the lowest whose readers understand it."""
    name = type(event).__name__
    version = _form(name)
    later = LATER_VALUES.get(name)
    if later is None:
        return version
    values = [value for value in msgspec.structs.astuple(event) if isinstance(value, StrEnum)]
    return max(version, *(later.get(value, 1) for value in values))


def lift_event_data(name: str, version: int, data: str) -> str | None:
    """Return an event's text in its present form; None if its version is unknown."""
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


def decode_event(stored: StoredEvent) -> Event:
    """Read what happened, lifting older forms to the present one.

    Raises:
        UnknownEvent: Its type or version is not known here.
    """
    data = lift_event_data(stored.type, stored.version, stored.data)
    if data is None:
        raise UnknownEvent(_told_of(stored, f"version {stored.version} is not known"))
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnknownEvent(_told_of(stored, str(error))) from error


def _form(name: str) -> int:
    """Return the version that a type of event has had since its form last changed."""
    return 1 + len(UPCASTERS.get(name, ()))


def _told_of(stored: StoredEvent, problem: str) -> str:
    return f"{stored.type} at position {stored.position} of shard {stored.shard}: {problem}"
