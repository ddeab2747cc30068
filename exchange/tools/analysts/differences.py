"""How two answers differ, as rows that are known by a key, and pictures of it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

BAR_WIDE: Final = 24  # beside the figures on a terminal of 100 columns
STAYED, CAME, WENT = "█", "▒", "░"
LEGEND: Final = f"{STAYED} stayed {CAME} came {WENT} went"
DRAWN: Final = ("quantity", "net_quantity", "filled_quantity", "volume")

Row = dict[str, Any]


class Rows(Struct, frozen=True):
    """A table of an answer; a row is known by the values of the columns ``key``.

    ``order`` tells where a key stands among those of two answers.
    """

    title: str
    key: tuple[str, ...]
    rows: list[Row]
    order: Callable[[tuple[Any, ...]], Any] | None = None


class Change(Struct, frozen=True):
    """A row that differs between two moments; None where it is not there."""

    table: str
    key: Row
    before: Row | None
    after: Row | None


class Difference(Struct, frozen=True):
    """The rows that differ between two moments."""

    as_of_sequence: str
    other_sequence: str
    changes: list[Change]


def differences(before: Sequence[Rows], after: Sequence[Rows]) -> Iterator[Change]:
    """Yield the rows that differ, in the order of the tables.

    Where a table has no order, those of the first moment come first.
    """
    for earlier, later in zip(before, after, strict=True):
        first, second = _by_key(earlier), _by_key(later)
        keys = list({**first, **second})
        for key in keys if earlier.order is None else sorted(keys, key=earlier.order):
            if first.get(key) != second.get(key):
                named = dict(zip(earlier.key, key, strict=True))
                yield Change(earlier.title, named, first.get(key), second.get(key))


def _by_key(table: Rows) -> dict[tuple[Any, ...], Row]:
    """Return rows by their keys; what is added up over rows is no difference of one of them."""
    return {
        tuple(row[name] for name in table.key): without(row, "cumulative") for row in table.rows
    }


def pictures_of(changes: Sequence[Change]) -> list[str]:
    """Return a bar for each change of a quantity: what stayed, what came, what went.

    All are to one scale in each table; a change of nothing that is drawn has none.
    """
    drawn = [_drawn(change) for change in changes]
    largest: dict[str, Decimal] = {}
    for change, sizes in zip(changes, drawn, strict=True):
        largest[change.table] = max(largest.get(change.table, Decimal(0)), *sizes)
    return [
        _bar(*(_cells(size, largest[change.table]) for size in sizes))
        for change, sizes in zip(changes, drawn, strict=True)
    ]


def _drawn(change: Change) -> tuple[Decimal, Decimal]:
    """Return the size before and after of the first quantity that differs."""
    before, after = change.before or {}, change.after or {}
    for name in DRAWN:
        if before.get(name) != after.get(name):
            was, now = (abs(Decimal(side.get(name) or 0)) for side in (before, after))
            return was, now
    return Decimal(0), Decimal(0)


def _cells(size: Decimal, largest: Decimal) -> int:
    return math.ceil(size * BAR_WIDE / largest) if largest else 0  # of what is there one at least


def _bar(was: int, now: int) -> str:
    stayed = min(was, now)
    return STAYED * stayed + CAME * (now - stayed) + WENT * (was - stayed)


def without(row: Mapping[str, Any], name: str) -> Row:
    """Return a row without one of its columns."""
    return {key: value for key, value in row.items() if key != name}
