"""What an export has besides the log: orders, books, positions and settlement, made of its events.

Read ``derive``. Each data set is folded from the exported events, from the first one on, by the
rules of its read model; so a check makes it again. No kept state of a fold stands in for events:
nothing would prove it, and it lacks those that an operator had the live model pass over.

A file has what became known within one file of events and never changes after; so where an export
paused changes nothing. What may still change stands apart: in files that end with ``-open``, and in
the positions of the last day.

Held are the open orders, the levels of the books, the positions, the obligations of the open cycle
and one group of rows.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from datetime import date
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from exchange.analysis.models import (
    AS_OF_ROWS,
    LEVEL_ROWS,
    OBLIGATION_ROWS,
    ORDER_ROWS,
    level_rows,
    obligation_rows,
    order_rows,
    position_rows,
)
from exchange.analysis.sources import parts_in, scales_in
from exchange.domain.values import Side
from exchange.export.exporting import told_by
from exchange.export.files import DataFile
from exchange.export.folder import INSTRUMENTS_PATH
from exchange.export.layout import (
    BOOK_SET,
    DERIVED_SETS,
    GROUP_EVENTS,
    ORDERS_SET,
    POSITIONS_SET,
    SETTLEMENT_SET,
    Span,
    shard_folder,
)
from exchange.export.manifests import BookSampling, FileEntry, Manifest
from exchange.log.documents.document import Scales
from projections.book import BookFold, level_change
from projections.folding import LogPart
from projections.orders import ORDERS, OrdersFold
from projections.positions import POSITIONS, PositionsFold
from projections.settlement import CYCLES, OBLIGATIONS, SettlementFold

HELD_TABLES: Final = 1_024  # one for each book of a sample, with at most 2,000 rows


class _Maker(Protocol):
    """Makes one data set of one shard."""

    def add(self, part: LogPart) -> Iterator[pa.Table]:
        """Apply events, and yield the rows that became known."""

    def ended(self, span: Span, *, day: bool, range_: bool) -> Iterator[tuple[str, pa.Table]]:
        """Yield what stands apart after a span, with the file's path.

        Args:
            span: Of the events that were added last.
            day: Whether no later event of the range is of its day.
            range_: Whether it is the last of the range.
        """


def derive(
    directory: Path,
    manifest: Manifest,
    into: Path,
    on_progress: Callable[[int, int], None] = lambda _shard, _done: None,
) -> Iterator[FileEntry]:
    """Make the derived files of an export, and yield what the manifest tells of each.

    Args:
        directory: The export; its events are read, from the first one of each shard.
        manifest: What it has; of ``data_sets`` those that are derived are made.
        into: The folder to write to.
        on_progress: Is told how many events of a shard are done.
    """
    wanted = {*manifest.data_sets} & {*DERIVED_SETS}
    instruments = pq.read_table(directory / INSTRUMENTS_PATH, partitioning=None)
    scales, told = scales_in(instruments), told_by(manifest.build)
    for one in manifest.shards:
        assert not one.after, "a fold begins with the first event"
        makers = _makers(wanted, one.shard, scales, manifest.book)
        spans = _spans(manifest.files, one.shard)
        for index, span in enumerate(spans):
            range_ = index + 1 == len(spans)
            day = range_ or spans[index + 1].day != span.day
            yield from _derive_span(directory, into, span, makers, told, day=day, range_=range_)
            on_progress(one.shard, span.last)


def _derive_span(
    directory: Path,
    into: Path,
    span: Span,
    makers: dict[str, _Maker],
    told: dict[str, str],
    *,
    day: bool,
    range_: bool,
) -> Iterator[FileEntry]:
    files = {name: _LazyFile(into, span.derived_path(name), SCHEMAS[name]) for name in makers}
    try:
        for part in _parts(directory, span):
            for name, maker in makers.items():
                for rows in maker.add(part):
                    files[name].write(rows)
        for file in files.values():
            yield from file.finish(told, span)
    finally:
        for file in files.values():
            file.give_up()
    for name, maker in makers.items():
        for path, rows in maker.ended(span, day=day, range_=range_):
            apart = _LazyFile(into, path, SCHEMAS[name])
            apart.write(rows)
            yield from apart.finish(told, Span(span.shard, span.day, 1, span.last))


def _makers(
    wanted: Set[str], shard: int, scales: Scales, sampling: BookSampling | None
) -> dict[str, _Maker]:
    makers: dict[str, _Maker] = {}
    if ORDERS_SET in wanted:
        makers[ORDERS_SET] = _Orders(scales)
    if BOOK_SET in wanted:
        assert sampling is not None
        makers[BOOK_SET] = _Books(shard, scales, sampling)
    if POSITIONS_SET in wanted:
        makers[POSITIONS_SET] = _Positions(scales)
    if SETTLEMENT_SET in wanted:
        makers[SETTLEMENT_SET] = _Settlement(scales)
    return makers


class _Orders:
    """Orders where they became final, and at the end those that are still open."""

    def __init__(self, scales: Scales) -> None:
        self._scales, self._fold = scales, OrdersFold()

    def add(self, part: LogPart) -> Iterator[pa.Table]:
        self._fold.add(part)
        yield order_rows(self._fold.finished()[ORDERS.name], self._scales)

    def ended(self, span: Span, *, day: bool, range_: bool) -> Iterator[tuple[str, pa.Table]]:
        del day
        if range_:
            yield (
                span.open_path(ORDERS_SET),
                order_rows(self._fold.rows()[ORDERS.name], self._scales),
            )


class _Positions:
    """All positions at the end of each day, and of the range."""

    def __init__(self, scales: Scales) -> None:
        self._scales, self._fold = scales, PositionsFold()

    def add(self, part: LogPart) -> Iterator[pa.Table]:
        self._fold.add(part)
        yield from ()

    def ended(self, span: Span, *, day: bool, range_: bool) -> Iterator[tuple[str, pa.Table]]:
        del range_
        if day:
            rows = position_rows(self._fold.rows()[POSITIONS.name], self._scales)
            yield span.whole_path(POSITIONS_SET), _as_of(rows, span.day, span.last)


class _Settlement:
    """Obligations where their cycle was cut, and at the end those of the open cycle."""

    def __init__(self, scales: Scales) -> None:
        self._scales, self._fold = scales, SettlementFold()

    def add(self, part: LogPart) -> Iterator[pa.Table]:
        self._fold.add(part)
        rows = self._fold.finished()
        yield obligation_rows(rows[OBLIGATIONS.name], rows[CYCLES.name], self._scales)

    def ended(self, span: Span, *, day: bool, range_: bool) -> Iterator[tuple[str, pa.Table]]:
        del day
        if range_:
            rows = self._fold.rows()[OBLIGATIONS.name]
            yield span.open_path(SETTLEMENT_SET), obligation_rows(rows, [], self._scales)


class _Books:
    """The best levels of each book that changed, every so often.

    A sample is known, and stands in the file, when an event after its time has come.
    """

    def __init__(self, shard: int, scales: Scales, sampling: BookSampling) -> None:
        self._shard, self._scales, self._sampling = shard, scales, sampling
        self._fold = BookFold()
        self._changed: set[str] = set()  # since the last sample
        self._due_ms = 0  # of the next sample, if anything changed

    def add(self, part: LogPart) -> Iterator[pa.Table]:
        held: list[pa.Table] = []
        begin = 0
        for index, event in enumerate(part.events):
            if self._changed and event.time_ms > self._due_ms:
                begin = self._apply(part, begin, index)
                held += self._sample(part.first + index - 1)
            change = level_change(event)
            if change is None:
                continue
            if not self._changed:
                self._due_ms = self._sampling.due_ms(event.time_ms)
            self._changed.add(change[0])
            if not self._sampling.every_ms:
                begin = self._apply(part, begin, index + 1)
                held += self._sample(part.first + index)
            if len(held) >= HELD_TABLES:
                yield pa.concat_tables(held)
                held = []
        self._apply(part, begin, len(part.events))
        if held:
            yield pa.concat_tables(held)

    def ended(self, span: Span, *, day: bool, range_: bool) -> Iterator[tuple[str, pa.Table]]:
        del span, day, range_
        yield from ()

    def _apply(self, part: LogPart, begin: int, end: int) -> int:
        self._fold.add(LogPart(part.shard, part.first + begin, part.events[begin:end]))
        return end

    def _sample(self, position: int) -> list[pa.Table]:
        of = {"time": self._due_ms, "shard": self._shard, "position": position}
        made = []
        for instrument in sorted(self._changed):
            bids, asks = (self._best(instrument, side) for side in (Side.BUY, Side.SELL))
            made.append(level_rows(bids, asks, instrument, self._scales, of))
        self._changed.clear()
        return made

    def _best(self, instrument: str, side: Side) -> Sequence[tuple[int | None, int | None]]:
        levels = self._fold.levels(self._shard, instrument, side)[: self._sampling.levels]
        return levels or [(None, None)]  # a row, so that a book's end is seen


class _LazyFile:
    """A file that is there if it has rows; a group of rows is as large as one of events."""

    def __init__(self, directory: Path, path: str, schema: pa.Schema) -> None:
        self._directory, self._path, self._schema = directory, path, schema
        self._held: list[pa.Table] = []
        self._rows = 0
        self._file: DataFile | None = None

    def write(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        self._held.append(rows)
        self._rows += rows.num_rows
        if self._rows >= GROUP_EVENTS:
            self._write_held()

    def finish(self, told: dict[str, str], span: Span) -> Iterator[FileEntry]:
        if self._held:
            self._write_held()
        if self._file is not None:
            place = {"shard": span.shard, "first": span.first, "last": span.last}
            whole = told | {name: str(value) for name, value in place.items()}
            entry = self._file.finish(self._path, whole, **place)
            self._file = None
            yield entry

    def give_up(self) -> None:
        if self._file is not None:
            self._file.give_up()

    def _write_held(self) -> None:
        if self._file is None:
            self._file = DataFile(self._directory, self._path, self._schema)
        self._file.write(pa.concat_tables(self._held))
        self._held, self._rows = [], 0


SCHEMAS: Final[dict[str, pa.Schema]] = {
    ORDERS_SET: ORDER_ROWS,
    BOOK_SET: LEVEL_ROWS,
    POSITIONS_SET: AS_OF_ROWS,
    SETTLEMENT_SET: OBLIGATION_ROWS,
}


def _as_of(rows: pa.Table, day: date, position: int) -> pa.Table:
    count = rows.num_rows
    first = [pa.array([day] * count, pa.date32()), pa.array([position] * count, pa.int64())]
    return pa.table([*first, *rows.columns], schema=AS_OF_ROWS)


def _spans(files: Sequence[FileEntry], shard: int) -> list[Span]:
    found = []
    for entry in files:
        if entry.path.startswith(f"{shard_folder(shard)}/"):
            assert entry.first is not None
            assert entry.last is not None
            day = Path(entry.path).parent.name.removeprefix("date=")
            found.append(Span(shard, date.fromisoformat(day), entry.first, entry.last))
    return sorted(found, key=lambda span: span.first)


def _parts(directory: Path, span: Span) -> Iterator[LogPart]:
    file = pq.ParquetFile(directory / span.events_path)
    for group in range(file.num_row_groups):
        yield from parts_in(span.shard, file.read_row_group(group))
