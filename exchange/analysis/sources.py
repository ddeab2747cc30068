"""What is needed of where a log is: its events and trades as columns, by position."""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import pyarrow as pa
from msgspec import Struct

from exchange.export.columns import stored_events
from exchange.log.documents.document import Scales
from exchange.log.events import decode_event
from projections.folding import LogPart

PART_EVENTS: Final = 8_192  # a group of rows in a file has eight times as many: objects are larger


class Unavailable(Exception):
    """What was asked for is not there; the message says what is, and what to do."""


class Span(Struct, frozen=True):
    """The events of a shard that a source has: after ``after`` up to ``up_to``."""

    after: int
    up_to: int


class Source(Protocol):
    """A log, in the columns of ``exchange/export/columns.py``."""

    def spans(self) -> Mapping[int, Span]:
        """Return which events of each shard are there now."""

    def instruments(self) -> pa.Table:
        """Return the instruments, as rows of ``INSTRUMENTS``."""

    def position_at(self, shard: int, time_ms: int, span: Span) -> int:
        """Return the position of the last event of a span at or before a time, or its begin."""

    def events(self, shard: int, span: Span) -> Iterator[pa.Table]:
        """Yield the events of a span in order, as rows of ``EVENTS``."""

    def trades(self, shard: int, span: Span, instrument: str | None) -> Iterator[pa.Table]:
        """Yield the trades of a span in order, as rows of ``TRADES``; of one instrument, or all."""

    def close(self) -> None:
        """Give back what is held."""


def parts_in(shard: int, rows: pa.Table) -> Iterator[LogPart]:
    """Yield consecutive rows of ``EVENTS`` as parts that a fold takes."""
    for begin in range(0, rows.num_rows, PART_EVENTS):
        stored = stored_events(rows.slice(begin, PART_EVENTS))
        ids = b"".join(one.command_id.bytes for one in stored)
        yield LogPart(shard, stored[0].position, [decode_event(event) for event in stored], ids)


def scales_in(instruments: pa.Table) -> Scales:
    """Return the scales of instruments."""
    columns = (instruments[name].to_pylist() for name in SCALES)
    return {name: (price, quantity) for name, price, quantity in zip(*columns, strict=True)}


SCALES = ("instrument", "price_scale", "quantity_scale")
