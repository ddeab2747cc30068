"""Telling rows that cannot be stored from a store that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from exchange.ports import UnstorableRows

# SQLSTATE classes of errors that the rows cause: data exceptions, and limits that rows exceed.
ROW_CLASSES: Final = frozenset({"22", "54"})


@contextmanager
def telling_rows() -> Iterator[None]:
    """Raise ``UnstorableRows`` where the store refuses rows for what they are."""
    try:
        yield
    except (asyncpg.PostgresError, ValueError) as error:  # the driver's, of a value it cannot send
        if isinstance(error, asyncpg.PostgresError) and not _is_of_rows(error):
            raise
        raise UnstorableRows(f"PostgreSQL cannot store the rows: {error}") from error


def _is_of_rows(error: asyncpg.PostgresError) -> bool:
    return (error.sqlstate or "")[:2] in ROW_CLASSES
