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
FIRST: Final = "1-"  # how the fingerprints of every first version begin


def fingerprint(version: int, tables: Sequence[Table]) -> str:
    """Return the fingerprint of rules and tables, such as ``1-0a1b2c3d``.

    The keys of a model in Redis are declared nowhere, so those of each version are a shape of their
    own.
    """
    shape = "\n".join(_lines(tables)) or f"keys {version}"
    return f"{version}-{sha256(shape.encode()).hexdigest()[:SHAPE_DIGITS]}"


def is_made_by(made_by: str | None, fingerprint: str) -> bool:
    """Tell whether a generation was made by the definition with ``fingerprint``.

    A generation without a fingerprint is older than fingerprints: it is of the first version.
    """
    return fingerprint.startswith(FIRST) if made_by is None else made_by == fingerprint


def has_shape_of(made_by: str | None, fingerprint: str) -> bool:
    """Tell whether a generation has the tables of the definition with ``fingerprint``."""
    if made_by is None:
        return is_made_by(made_by, fingerprint)
    return made_by.partition("-")[2] == fingerprint.partition("-")[2]


def _lines(tables: Iterable[Table]) -> Iterator[str]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in tables:
        yield f"table {table.name}"
        for column in table.columns:
            kind = column.type.compile(dialect=dialect)
            yield f"{column.name} {kind} {column.nullable} {column.primary_key}"
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            yield f"index {', '.join(str(column.name) for column in index.columns)}"
