"""What a comparison finds: the rows that differ, and a digest of those that were compared."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct

from projections.folding import Row

EXAMPLES_MAX: Final = 20


class Difference(Struct, frozen=True):
    """A row that is not as the log gives it; None where there is no row.

    ``last_event`` is the last event that the fold applied to it: shard, position and type.
    """

    table: str
    key: dict[str, Any]
    stored: dict[str, Any] | None
    folded: dict[str, Any] | None
    last_event: tuple[int, int, str] | None = None


class Comparison(Struct, frozen=True):
    """What was compared: rows and their digest, at which positions, and what differs.

    ``examples`` has the first differences, of ``different`` in all. ``passed_over`` are the events
    that the definition skips. ``columns`` are those that only one of two definitions has; a table
    that only one has, or whose key is another, is named whole and not compared.
    """

    projection: str
    generation: int
    positions: dict[int, int]
    rows: int
    digest: str
    different: int
    examples: list[Difference]
    passed_over: list[tuple[int, int]] = []
    columns: list[str] = []

    @property
    def at(self) -> str:
        """The positions, as ``shard:position``."""
        return ",".join(f"{shard}:{at}" for shard, at in sorted(self.positions.items()))


def only_in_one(table: str, names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the columns that only one of two tables has."""
    return [f"{table}.{name}" for name in sorted({*names} ^ {*others})]


def named(columns: Sequence[str], row: Row | None) -> dict[str, Any] | None:
    """Return a row by the names of its columns, with numbers as a person reads them."""
    return None if row is None else dict(zip(columns, map(_plain, row), strict=True))


def _plain(value: object) -> object:
    """Write a decimal out: the driver reads 618700000 as 6.1870E+8."""
    return Decimal(f"{value:f}") if isinstance(value, Decimal) else value


class Digest:
    """How many rows were compared, and a digest of them, which does not depend on their order."""

    def __init__(self) -> None:
        self.rows = 0
        self._total = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Count rows in."""
        for row in rows:
            self.rows += 1
            self._total += int.from_bytes(sha256(repr(row).encode()).digest()[:8], "big")

    def __str__(self) -> str:
        return f"{self._total % 2**64:016x}"
