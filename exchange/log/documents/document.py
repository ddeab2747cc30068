"""An event as a JSON object, which any reader of JSON takes exactly.

Read ``Documents.of``. Where an event stands comes first, then its own fields. An amount is there
twice: ``price`` as a decimal in a string, and ``price_units`` as the integer that the log has.
Names and meanings are those of the columns of an exported event (``exchange/export/columns.py``).
"""

from collections.abc import Iterable
from typing import Any, Final, get_args

from msgspec import UNSET, Struct

from exchange.domain.events import Event, InstrumentRegistered
from exchange.domain.values import RejectReason
from exchange.log.documents.text import decimal, timestamp
from exchange.log.events import decode_event
from exchange.ports import StoredEvent

PRICES: Final = ("price", "tick_size")
QUANTITIES: Final = ("quantity", "taker_remaining", "maker_remaining", "lot_size")
# Names of fields that every event has for something else.
RENAMED: Final = {"shard": "placed_shard", "offset": "retried_offset"}

OF_PRICE, OF_QUANTITY = 0, 1

Scales = dict[str, tuple[int, int]]
"""The scales of price and quantity by instrument."""


class _Field(Struct, frozen=True):
    """What becomes of an event's field; an amount also has a name for its units."""

    name: str
    column: str
    units: str | None
    scale: int


def _fields_of(event: type[Struct]) -> tuple[_Field, ...]:
    return tuple(
        _Field(
            name,
            RENAMED.get(name, name),
            f"{name}_units" if name in PRICES + QUANTITIES else None,
            OF_PRICE if name in PRICES else OF_QUANTITY,
        )
        for name in event.__struct_fields__
        if name not in ("instrument", "time_ms")  # they are told of every event
    )


_FIELDS: Final = {event: _fields_of(event) for event in get_args(Event)}


class Documents:
    """Makes documents of a shard's events, in the order of the log."""

    def __init__(self, registrations: Iterable[StoredEvent] = ()) -> None:
        """Begin after ``registrations``: those of all instruments that are registered by then."""
        self._scales: Scales = {}
        for stored in registrations:
            self._learn(decode_event(stored))

    def of(self, stored: StoredEvent, chain: bytes) -> dict[str, Any]:
        """Return the document of the next event; ``chain`` is the hash chain after it.

        An order of an instrument that is not registered has units, and null as decimals.

        Raises:
            UnknownEvent: It was written by another version of the software.
        """
        event = decode_event(stored)
        self._learn(event)
        document: dict[str, Any] = {
            "shard": stored.shard,
            "position": stored.position,
            "chain": chain.hex(),
            "time": timestamp(event.time_ms),
            "instrument": stored.instrument,
            "type": stored.type,
            "version": stored.version,
            "command_id": str(stored.command_id),
            "kafka_offset": stored.kafka_offset,
        }
        unregistered = getattr(event, "reason", None) is RejectReason.UNKNOWN_INSTRUMENT
        scales = None if unregistered else self._scales.get(stored.instrument or "")
        for field in _FIELDS[type(event)]:
            value = getattr(event, field.name)
            if value is UNSET:
                continue
            if field.units is None:
                document[field.column] = value
                continue
            document[field.column] = _amount(value, scales and scales[field.scale])
            document[field.units] = value
        return document

    def _learn(self, event: object) -> None:
        if isinstance(event, InstrumentRegistered):
            self._scales[event.instrument] = event.price_scale, event.quantity_scale


def _amount(units: int | None, scale: int | None) -> str | None:
    return None if units is None or scale is None else decimal(units, scale)
