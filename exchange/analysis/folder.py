"""A log in the Parquet files of ``exchange export``: what its manifest tells of, and no other file.

The files are read as they are. ``exchange export --check`` proves that they are what was exported.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exchange.analysis.sources import Span, Unavailable
from exchange.export.columns import TIME, trade_rows, with_later
from exchange.export.folder import INSTRUMENTS_PATH
from exchange.export.layout import EVENTS_SET, TRADES_SET, shard_folder
from exchange.export.manifests import FileEntry, NoManifest, read_manifest


class Folder:
    """An exported log."""

    def __init__(self, directory: Path) -> None:
        """Read the manifest.

        Raises:
            Unavailable: There is none, or the events were not exported.
        """
        self.directory = directory
        try:
            self._manifest = read_manifest(directory)
        except NoManifest as error:
            raise Unavailable(str(error)) from error
        if EVENTS_SET not in self._manifest.data_sets:
            raise Unavailable(
                f"{directory} has no events: exchange export events --to {directory} adds them."
            )

    def spans(self) -> dict[int, Span]:
        return {one.shard: Span(one.after, one.up_to) for one in self._manifest.shards}

    def instruments(self) -> pa.Table:
        return pq.read_table(self.directory / INSTRUMENTS_PATH, partitioning=None)

    def position_at(self, shard: int, time_ms: int, span: Span) -> int:
        moment = pa.scalar(time_ms, pa.int64()).cast(TIME)
        files = self._files(shard, span)
        begins = [self._times(entry)[0] for entry in files]
        index = bisect_right(begins, moment.as_py()) - 1
        if index < 0:
            return span.after
        file = pq.ParquetFile(self.directory / files[index].path)
        rows = _within(file.read(columns=["position", "time"]), span)
        found = pc.max(rows.filter(pc.less_equal(rows["time"], moment))["position"]).as_py()
        return span.after if found is None else int(found)

    def events(self, shard: int, span: Span) -> Iterator[pa.Table]:
        for entry in self._files(shard, span):
            yield from map(with_later, self._groups(entry.path, span))

    def trades(self, shard: int, span: Span, instrument: str | None) -> Iterator[pa.Table]:
        if instrument is None or TRADES_SET not in self._manifest.data_sets:
            for rows in self.events(shard, span):
                trades = trade_rows(rows)
                if instrument is not None:
                    trades = trades.filter(pc.equal(trades["instrument"], instrument))
                yield trades
            return
        for entry in self._files(shard, span, f"trades/instrument={instrument}/"):
            yield from self._groups(entry.path, span)

    def paths(self, data_set: str) -> list[str]:
        """Return the files of a data set; none if it was not exported."""
        return [
            str(self.directory / entry.path)
            for entry in self._manifest.files
            if entry.path.startswith(f"{data_set}/")
        ]

    def close(self) -> None:
        """Do nothing: files are open while they are read."""

    def _files(self, shard: int, span: Span, folder: str = "") -> list[FileEntry]:
        """Return the files with rows of a span, in order; by default those of events."""
        folder = folder or f"{shard_folder(shard)}/"
        found = [
            (entry.first, entry)
            for entry in self._manifest.files
            if entry.path.startswith(folder) and entry.shard == shard
            if entry.first is not None and entry.last is not None
            if entry.last > span.after and entry.first <= span.up_to
        ]
        return [entry for _, entry in sorted(found, key=lambda one: one[0])]

    def _groups(self, path: str, span: Span) -> Iterator[pa.Table]:
        """Yield the groups of rows of a file, without rows outside of a span."""
        file = pq.ParquetFile(self.directory / path)
        for index in range(file.num_row_groups):
            yield _within(file.read_row_group(index), span)

    def _times(self, entry: FileEntry) -> tuple[object, object]:
        """Return the times of the first and the last event of a file."""
        file = pq.ParquetFile(self.directory / entry.path)
        column = file.schema_arrow.get_field_index("time")
        first, last = (
            file.metadata.row_group(index).column(column).statistics
            for index in (0, file.num_row_groups - 1)
        )
        return first.min, last.max


def _within(rows: pa.Table, span: Span) -> pa.Table:
    position = rows["position"]
    wanted = pc.and_(pc.greater(position, span.after), pc.less_equal(position, span.up_to))
    return rows if pc.all(wanted).as_py() else rows.filter(wanted)
