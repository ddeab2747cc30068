"""Fingerprints of definitions: two builds with the same one keep a generation up alike.

A fingerprint is of what the rules do (their version, which a test forces up when the fold of a
sample of the log changes) and of the shape of the tables, never of the code's text.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

SHAPE_DIGITS: Final = 8


def fingerprint(version: int, tables: Sequence[Table]) -> str:
    """Return the fingerprint of rules and tables, such as ``1-0a1b2c3d``."""
    shape = "\n".join(_lines(tables))
    return f"{version}-{sha256(shape.encode()).hexdigest()[:SHAPE_DIGITS]}"


def _lines(tables: Iterable[Table]) -> Iterator[str]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in tables:
        yield f"table {table.name}"
        for column in table.columns:
            kind = column.type.compile(dialect=dialect)
            yield f"{column.name} {kind} {column.nullable} {column.primary_key}"
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            yield f"index {', '.join(str(column.name) for column in index.columns)}"
