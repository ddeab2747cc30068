"""Where an exported row stands. Any two exports of a range have the same files.

``DIR/events/shard=0/date=2026-11-25/1-524288.parquet`` has the events of one shard and day, by
position; the name tells the first and the last. A file ends with the day (UTC) or at a position
that is a multiple of ``FILE_EVENTS``, and only the last one where the range ends. A group of rows
ends at a multiple of ``GROUP_EVENTS``. So where an export began, paused or went on changes nothing.

``DIR/trades/instrument=BTC-USD/date=2026-11-25/0-1-524288.parquet`` has the trades among the
events of one such file; its name begins with the shard.

``DIR/orders/shard=0/date=2026-11-25/1-524288.parquet`` has what the events of one such file made
known of orders for good; what of it may still change is in ``1-900000-open.parquet``, under the day
that the range ends on.
"""

import re
from datetime import date
from pathlib import Path
from typing import Final

from msgspec import Struct

GROUP_EVENTS: Final = 65_536
FILE_EVENTS: Final = 8 * GROUP_EVENTS  # bounds what is held of a file's trades
EVENTS_SET: Final = "events"
TRADES_SET: Final = "trades"
ORDERS_SET: Final = "orders"
BOOK_SET: Final = "book"
POSITIONS_SET: Final = "positions"
SETTLEMENT_SET: Final = "settlement"
DATA_SETS: Final = (EVENTS_SET, TRADES_SET)
DERIVED_SETS: Final = (ORDERS_SET, BOOK_SET, POSITIONS_SET, SETTLEMENT_SET)

SUFFIX: Final = ".parquet"
UNFINISHED: Final = ".unfinished"
_EVENTS_NAME: Final = re.compile(r"([1-9]\d*)-([1-9]\d*)")
_DAY: Final = r"\d{4}-\d{2}-\d{2}"
_SHARDS: Final = "|".join((EVENTS_SET, *DERIVED_SETS))
_WRITTEN: Final = re.compile(
    rf"""(?:
    (?:{_SHARDS})/shard=\d+/(?: date={_DAY}/\d+-\d+(?:-open)? | {_DAY}-\d+ )
    | {TRADES_SET}/instrument=[^/]+/date={_DAY}/\d+-\d+-\d+
    ) (?:\.[a-z]+)? (?:{re.escape(UNFINISHED)})?""",
    re.VERBOSE,
)


class Span(Struct, frozen=True):
    """Consecutive events of one shard and day, from ``first`` to ``last``."""

    shard: int
    day: date
    first: int
    last: int

    @property
    def events_path(self) -> str:
        """Where its events stand, below the folder of the export."""
        return self.derived_path(EVENTS_SET)

    def trades_path(self, instrument: str) -> str:
        """Where its trades of an instrument stand."""
        name = f"{self.shard}-{self.first}-{self.last}{SUFFIX}"
        return f"{TRADES_SET}/instrument={instrument}/date={self.day}/{name}"

    def derived_path(self, data_set: str) -> str:
        """Where rows stand that its events made known, and that no later one changes."""
        return f"{self._derived_folder(data_set)}/{self.first}-{self.last}{SUFFIX}"

    def open_path(self, data_set: str) -> str:
        """Where rows stand that are of all events up to its last, and may change."""
        return f"{self._derived_folder(data_set)}/1-{self.last}-open{SUFFIX}"

    def whole_path(self, data_set: str) -> str:
        """Where rows stand that are of all events up to its last."""
        return f"{self._derived_folder(data_set)}/1-{self.last}{SUFFIX}"

    def _derived_folder(self, data_set: str) -> str:
        return f"{data_set}/shard={self.shard}/date={self.day}"


def shard_folder(shard: int) -> str:
    """Return where the events of a shard stand, below the folder of the export."""
    return f"{EVENTS_SET}/shard={shard}"


def is_written(path: str) -> bool:
    """Tell whether an export gives a file such a path; in its folder others may have theirs."""
    return _WRITTEN.fullmatch(path) is not None


def group_end(position: int) -> int:
    """Return the last position of the group of rows that a position is in."""
    return -(-position // GROUP_EVENTS) * GROUP_EVENTS


def ends_file(position: int) -> bool:
    """Tell whether a file ends after a position, on whatever day it is."""
    return position % FILE_EVENTS == 0


def spans_on_disk(directory: Path, shard: int) -> list[Span]:
    """Return the spans whose events stand in a folder, by position."""
    found = [
        Span(shard, date.fromisoformat(folder.name.removeprefix("date=")), *_range(file))
        for folder in (directory / shard_folder(shard)).glob("date=*")
        for file in folder.glob(f"*{SUFFIX}")
        if _EVENTS_NAME.fullmatch(file.stem)
    ]
    return sorted(found, key=lambda span: (span.first, span.last))


def _range(file: Path) -> tuple[int, int]:
    first, _, last = file.stem.partition("-")
    return int(first), int(last)
