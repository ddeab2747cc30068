"""One file of an export: written under another name until it is whole."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from exchange.export.columns import REPEATED
from exchange.export.layout import UNFINISHED
from exchange.export.manifests import FileEntry, sha256_of

COMPRESSION_LEVEL: Final = 3


class DataFile:
    """A Parquet file that is being written; ``finish`` gives it its name."""

    def __init__(self, directory: Path, unfinished: str, schema: pa.Schema) -> None:
        self._directory = directory
        self._path = directory / f"{unfinished}{UNFINISHED}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(
            self._path,
            schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=[name for name in schema.names if name in REPEATED],
            write_statistics=True,
        )

    def write(self, rows: pa.Table) -> None:
        """Add rows as a group of their own."""
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))

    def finish(
        self,
        path: str,
        metadata: Mapping[str, str],
        *,
        shard: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> FileEntry:
        """End the file, give it its name and return what the manifest tells of it."""
        self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        target = self._directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.rename(target)
        return entry_of(self._directory, path, shard=shard, first=first, last=last)

    def give_up(self) -> None:
        """Delete what was written."""
        self._writer.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.give_up()


def entry_of(
    directory: Path,
    path: str,
    *,
    shard: int | None = None,
    first: int | None = None,
    last: int | None = None,
) -> FileEntry:
    """Return what the manifest tells of a file that is whole."""
    file = directory / path
    rows, size = pq.read_metadata(file).num_rows, file.stat().st_size
    return FileEntry(path, rows, size, sha256_of(file), shard, first, last)


def metadata_of(path: Path) -> dict[str, str]:
    """Return what a file tells of itself.

    Raises:
        OSError: It cannot be read.
        pyarrow.ArrowInvalid: It is no Parquet file, or its end is missing.
    """
    found = pq.read_metadata(path).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items() if key != b"ARROW:schema"}
