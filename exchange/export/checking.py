"""Prove a folder: is every file what was written, and every event what the log had?

Read ``check_folder``. SHA-256 shows a file that was changed since. The hash chain shows a file that
was made to fit its manifest: it is computed again from the rows and compared with a chain or root
that was kept elsewhere. What is derived of events is made from them again. It reads a group of rows
at a time.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct

from exchange.export.columns import (
    INSTRUMENTS,
    Unreadable,
    event_rows,
    instrument_rows,
    is_of_events,
    stored_events,
    trade_rows,
)
from exchange.export.exporting import by_instrument
from exchange.export.folder import INSTRUMENTS_PATH, Derive
from exchange.export.layout import DATA_SETS, DERIVED_SETS, EVENTS_SET, SUFFIX, TRADES_SET, Span
from exchange.export.manifests import (
    MANIFEST,
    FileEntry,
    Manifest,
    ShardRange,
    read_manifest,
    sha256_of,
)
from exchange.export.texts import FORMATS, text_path, text_sha256
from exchange.log.audit.kept import KeptCheck, NotKept
from exchange.log.chain import event_text, links_over
from exchange.log.documents.document import Scales
from exchange.ports import StoredEvent

PROBLEMS_MAX: Final = 20  # of files; more would not help
COMPARED_ROWS: Final = 8_192  # at a time

Kept = Mapping[int, Mapping[int, Collection[bytes]]]
"""Chains and roots that were kept elsewhere, by shard and position."""


class Checked(Struct, frozen=True):
    """What a check found; without ``problems`` all is as it was exported.

    ``events`` counts those whose chain was computed again, 0 if the folder has no events: then only
    SHA-256 was compared. ``compared`` counts what was kept elsewhere and is here.
    ``derived`` counts the files that were made again from the events and are the same. ``others``
    are files that no export wrote; they were not looked at.
    """

    files: int
    events: int
    compared: int
    problems: list[str]
    derived: int = 0
    others: list[str] = []


class _Wrong(Exception):
    """A file or event is not what it was; the message says which."""


def check_folder(
    directory: Path,
    expected: Kept,
    on_progress: Callable[[int], None] = lambda _rows: None,
    *,
    derive: Derive | None = None,
) -> Checked:
    """Compare a folder with its manifest, its chain and what was kept elsewhere.

    Args:
        directory: The folder.
        expected: What was kept elsewhere.
        on_progress: Is told how many more events were checked.
        derive: Makes what is derived of events; what it makes is compared with what is here.

    Raises:
        NoManifest: The folder has none that can be read.
    """
    manifest = read_manifest(directory)
    strange, others = _not_listed(directory, manifest)
    problems = [*_changed_files(directory, manifest), *strange][:PROBLEMS_MAX]
    events = compared = derived = 0
    if EVENTS_SET in manifest.data_sets and not problems:
        try:
            for shard in manifest.shards:
                walk = _Walk(directory, manifest, shard, expected.get(shard.shard, {}), on_progress)
                walk.go()
                events += walk.events
                compared += walk.compared
            if derive is not None and {*manifest.data_sets} - {*DATA_SETS}:
                derived = _check_derived(directory, manifest, derive)
        except _Wrong as error:
            problems.append(str(error))
    if not problems:
        problems += [*_other_texts(directory, manifest)][:PROBLEMS_MAX]
    wanted = sum(len(kept) for positions in expected.values() for kept in positions.values())
    if compared < wanted and not problems:
        problems.append(f"{wanted - compared} of {wanted} expected are of no event that is here")
    return Checked(len(manifest.files), events, compared, problems, derived, others[:PROBLEMS_MAX])


def _changed_files(directory: Path, manifest: Manifest) -> Iterator[str]:
    for entry in manifest.files:
        path = directory / entry.path
        if not path.is_file():
            yield f"{entry.path} is missing"
        elif path.stat().st_size != entry.bytes:
            yield f"{entry.path} has {path.stat().st_size:,} bytes, and had {entry.bytes:,}"
        elif sha256_of(path) != entry.sha256:
            yield f"{entry.path} is not what was written: its SHA-256 differs"
        elif entry.path.endswith(SUFFIX) and (rows := _rows_in(path)) != entry.rows:
            yield f"{entry.path} has {rows} rows, and the manifest says {entry.rows}"


def _not_listed(directory: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Return what is wrong with files that are not of the export, and the other ones of them.

    Who reads a data set takes all files of its folder for it, so nobody else may have some there.
    """
    told = {MANIFEST, *(entry.path for entry in manifest.files)}
    strange, others = [], []
    for found in sorted(directory.rglob("*")):
        path = str(found.relative_to(directory))
        if found.is_dir() or path in told:
            continue
        of_set = path.removeprefix(f"{found.suffix.removeprefix('.')}/")
        is_read = found.suffix == SUFFIX or found.suffix.removeprefix(".") in FORMATS
        if is_read and of_set.partition("/")[0] in (*DATA_SETS, *DERIVED_SETS):
            strange.append(
                f"{path} is in no manifest, and who reads its folder takes it for a part of the"
                " export: move it elsewhere"
            )
        else:
            others.append(path)
    return strange, others


def _rows_in(path: Path) -> int | None:
    """Return how many rows a file says that it has, None if it is not of Parquet."""
    try:
        rows: int = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return None
    return rows


def _other_texts(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with files of text: each is made again of its Parquet file."""
    texts = {entry.path: entry for entry in manifest.files if not entry.path.endswith(SUFFIX)}
    for entry in manifest.files:
        if not entry.path.endswith(SUFFIX):
            continue
        for form in manifest.formats:
            text = texts.pop(text_path(entry.path, form), None)
            if text is None:
                yield f"{text_path(entry.path, form)} is missing"
            elif text_sha256(directory, entry, form) != text.sha256:
                yield f"{text.path} is not what {entry.path} gives"
    for path in texts:
        yield f"{path} is of no file that is here"


def _check_derived(directory: Path, manifest: Manifest, derive: Derive) -> int:
    """Make the derived files again, and return how many are the same.

    Other libraries may write the same rows as other bytes, so rows are compared where bytes differ.
    """
    folders = {*manifest.data_sets} - {*DATA_SETS}
    if any(shard.after for shard in manifest.shards):
        raise _Wrong(f"{min(folders)} cannot be of events that do not begin with the first")
    left = {e.path: e.sha256 for e in manifest.files if e.path.partition("/")[0] in folders}
    count = len(left)
    with TemporaryDirectory() as name:
        for entry in derive(directory, manifest, Path(name)):
            again = Path(name) / entry.path
            sha256 = left.pop(entry.path, None)
            if sha256 is None:
                raise _Wrong(f"{entry.path} is missing: the events give it")
            if sha256 != entry.sha256:
                with _readable(entry.path):
                    _compare_files(entry.path, directory / entry.path, again)
            again.unlink()
    if left:
        raise _Wrong(f"{min(left)} is not what the events give: they give no such file")
    return count


def _compare_files(path: str, here: Path, again: Path) -> None:
    was, now = pq.ParquetFile(here), pq.ParquetFile(again)
    if not was.schema_arrow.equals(now.schema_arrow):
        raise _Wrong(f"{path} has other columns than the events give")
    begin = 0
    for rows, wanted in zip_longest(_batches(was), _batches(now)):
        if rows is None or wanted is None or not rows.equals(wanted):
            number = begin + _first_difference(rows, wanted)
            raise _Wrong(f"{path}: row {number + 1:,} is not what the events give")
        begin += rows.num_rows


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, as many at a time whatever groups it has."""
    return file.iter_batches(COMPARED_ROWS)  # type: ignore[no-any-return]


def _first_difference(rows: pa.RecordBatch | None, wanted: pa.RecordBatch | None) -> int:
    if rows is None or wanted is None:
        return 0
    both = zip(rows.to_pylist(), wanted.to_pylist(), strict=False)
    same = min(rows.num_rows, wanted.num_rows)
    return next((index for index, (was, now) in enumerate(both) if was != now), same)


class _Walk:
    """A walk over the exported events of a shard."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        shard: ShardRange,
        expected: Mapping[int, Collection[bytes]],
        on_progress: Callable[[int], None],
    ) -> None:
        self._directory, self._shard = directory, shard
        self._on_progress = on_progress
        self._files = [entry for entry in manifest.files if entry.shard == shard.shard]
        self._with_trades = TRADES_SET in manifest.data_sets
        self._instruments = _instruments(directory, shard)
        self._registered = [INSTRUMENTS.empty_table()]  # by the events
        self._scales = _scales(self._instruments, shard)
        self._kept = KeptCheck(expected, from_start=not shard.after)
        self._position = shard.after
        self._chain = bytes.fromhex(shard.chain_before)
        self.events = 0

    @property
    def compared(self) -> int:
        """How much of what was kept elsewhere was compared."""
        return self._kept.compared

    def go(self) -> None:
        """Walk all events.

        Raises:
            _Wrong: At the first that is not what it was.
        """
        try:
            self._walk()
        except NotKept as error:
            raise _Wrong(
                f"the events up to {self._name(error.position)} give another value than the one"
                f" that was kept: {error.chain.hex()} instead of {error.kept.hex()}. So one of"
                " these events was changed, or --expect is not as it was printed"
            ) from error
        registered = pa.concat_tables(self._registered)
        if self._instruments.filter(pc.field("position") > self._shard.after) != registered:
            raise _Wrong(
                f"{INSTRUMENTS_PATH} does not have the instruments that the events of shard"
                f" {self._shard.shard} register"
            )

    def _walk(self) -> None:
        self._kept.begin(self._position, self._chain)
        for entry in sorted(self._files, key=lambda entry: entry.first or 0):
            if entry.path.startswith("events/"):
                with _readable(entry.path):
                    self._check_file(entry)
        if self._position != self._shard.up_to:
            raise _Wrong(f"{self._name(self._position + 1)} is missing")
        if self._chain.hex() != self._shard.chain:
            raise _Wrong(
                f"the events of shard {self._shard.shard} give the chain {self._chain.hex()}, and"
                f" the manifest has {self._shard.chain}: one of them was changed"
            )

    def _check_file(self, entry: FileEntry) -> None:
        file = pq.ParquetFile(self._directory / entry.path)
        if not is_of_events(file.schema_arrow):
            raise _Wrong(f"{entry.path} has other columns than an export of events")
        told = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
        if told.get("chain_before") != self._chain.hex():
            raise _Wrong(f"{entry.path} does not follow the events before it")
        trades = []
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            self._check_rows(entry, rows)
            trades.append(trade_rows(rows))
        if told.get("chain") != self._chain.hex():
            raise _Wrong(
                f"an event of {entry.path} is not what it was: the hash chain breaks in it"
            )
        if self._with_trades:
            self._check_trades(entry, pa.concat_tables(trades))

    def _check_rows(self, entry: FileEntry, rows: pa.Table) -> None:
        events = stored_events(rows)
        for position, event in enumerate(events, self._position + 1):
            if (event.position, event.shard) != (position, self._shard.shard):
                told = f"{self._name(event.position)} stands"
                raise _Wrong(f"{entry.path}: {told} where {self._name(position)} should")
        texts = [event_text(event) for event in events]
        links = links_over(self._chain, texts)
        self._kept.go_on(self._position + 1, links, texts)
        self._compare_columns(entry, events, rows)
        self._registered.append(instrument_rows(rows))
        self._position, self._chain = events[-1].position, links[-1]
        self.events += len(events)
        self._on_progress(len(events))

    def _compare_columns(
        self, entry: FileEntry, events: Sequence[StoredEvent], rows: pa.Table
    ) -> None:
        """Compare each column with what the event's text gives."""
        try:
            again = event_rows(events, self._scales).select(rows.column_names)
        except Unreadable as error:
            raise _Wrong(f"{entry.path}: {error}") from error
        if again.equals(rows):
            return
        for name in rows.column_names:
            for index, (was, now) in enumerate(zip(rows[name], again[name], strict=True)):
                if not was.equals(now):
                    where = self._name(events[index].position)
                    raise _Wrong(f"{entry.path}: {where} has {name} {was}, and its text says {now}")

    def _check_trades(self, entry: FileEntry, trades: pa.Table) -> None:
        assert entry.first is not None
        assert entry.last is not None
        of_span = {
            other.path
            for other in self._files
            if other.path.startswith("trades/") and other.first == entry.first
        }
        for instrument, rows in by_instrument(trades):
            day = rows["time"][0].as_py().date()
            path = Span(self._shard.shard, day, entry.first, entry.last).trades_path(instrument)
            if path not in of_span:
                raise _Wrong(f"{path} is missing")
            of_span.remove(path)
            with _readable(path):
                trades = pq.read_table(self._directory / path, partitioning=None)
            if not trades.equals(rows):
                raise _Wrong(f"{path} is not what the events of {entry.path} give")
        if of_span:
            raise _Wrong(f"{min(of_span)} has trades that {entry.path} does not")

    def _name(self, position: int) -> str:
        return f"event {position} of shard {self._shard.shard}"


def _instruments(directory: Path, shard: ShardRange) -> pa.Table:
    """Return the instruments of a shard."""
    with _readable(INSTRUMENTS_PATH):
        rows = pq.read_table(directory / INSTRUMENTS_PATH, partitioning=None).cast(INSTRUMENTS)
    return rows.filter(pc.field("shard") == shard.shard)


def _scales(instruments: pa.Table, shard: ShardRange) -> Scales:
    """Return the scales of instruments that were registered before the exported range."""
    return {
        row["instrument"]: (row["price_scale"], row["quantity_scale"])
        for row in instruments.to_pylist()
        if row["position"] <= shard.after
    }


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Name a file that holds no such rows; its hash may fit, since a manifest can be made to."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
        raise _Wrong(f"{path} cannot be read: {error}") from error
