"""The files of an export as text, beside those of Parquet: CSV or JSON lines, made of these.

``DIR/csv/orders/shard=0/date=2026-11-25/1-524288.csv`` has the rows and columns of the file
``DIR/orders/shard=0/date=2026-11-25/1-524288.parquet``. A decimal is a string with all its digits
and without zeros at its end; a time is ISO 8601 in UTC. In CSV a value that is missing is empty.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from exchange.export.layout import SUFFIX, UNFINISHED
from exchange.export.manifests import FileEntry

FORMATS: Final = ("csv", "jsonl")
ROWS_MAX: Final = 8_192  # that are objects of Python at a time


def text_path(path: str, form: str) -> str:
    """Return where the text of a Parquet file stands, below the folder of the export."""
    return f"{form}/{path.removesuffix(SUFFIX)}.{form}"


def write_text(directory: Path, entry: FileEntry, form: str) -> FileEntry:
    """Write the text of a Parquet file; it gets its name when it is whole."""
    path = text_path(entry.path, form)
    unfinished = directory / f"{path}{UNFINISHED}"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    sha256, size = hashlib.sha256(), 0
    with unfinished.open("wb") as file:
        for text in _texts(directory / entry.path, form):
            sha256.update(text)
            size += file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(directory / path)
    return replace(entry, path=path, bytes=size, sha256=sha256.hexdigest())


def text_sha256(directory: Path, entry: FileEntry, form: str) -> str:
    """Return the hash that the text of a Parquet file has."""
    sha256 = hashlib.sha256()
    for text in _texts(directory / entry.path, form):
        sha256.update(text)
    return sha256.hexdigest()


def has_text(directory: Path, entry: FileEntry, form: str, before: Mapping[str, FileEntry]) -> bool:
    """Tell whether an earlier run wrote the text of a file that is as it was then."""
    text = before.get(text_path(entry.path, form))
    if text is None or before.get(entry.path) != entry:
        return False
    path = directory / text.path
    return path.is_file() and path.stat().st_size == text.bytes


def _texts(path: Path, form: str) -> Iterator[bytes]:
    """Yield the text of a Parquet file, some rows at a time."""
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if form == "csv":
        yield _csv([names])
    for batch in file.iter_batches(ROWS_MAX):
        rows = zip(*map(_values, batch.columns), strict=True)
        yield _csv(rows) if form == "csv" else _jsonl(names, rows)


def _csv(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _jsonl(names: Sequence[str], rows: Any) -> bytes:
    lines = [msgspec.json.encode(dict(zip(names, row, strict=True))) for row in rows]
    return b"".join(line + b"\n" for line in lines)


def _values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_decimal(column.type):
        return [None if value is None else _decimal(value) for value in values]
    if pa.types.is_timestamp(column.type):
        return [None if value is None else _time(value) for value in values]
    return values


def _decimal(value: Decimal) -> str:
    # Not ``normalize``, which rounds to the 28 digits of a context.
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _time(value: Any) -> str:
    text: str = value.isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
