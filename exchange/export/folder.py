"""A whole export: the ranges of some shards, what is derived of them, and the manifest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

import asyncpg
import pyarrow as pa
from msgspec import Struct

from exchange.export.columns import INSTRUMENTS
from exchange.export.exporting import ShardExport, library_versions
from exchange.export.files import DataFile
from exchange.export.layout import (
    BOOK_SET,
    DATA_SETS,
    DERIVED_SETS,
    EVENTS_SET,
    SUFFIX,
    is_written,
)
from exchange.export.manifests import (
    FORMAT_VERSION,
    MANIFEST,
    BookSampling,
    FileEntry,
    Manifest,
    NoManifest,
    read_manifest,
    write_manifest,
)
from exchange.export.texts import FORMATS, has_text, text_path, write_text
from exchange.log.reader import read_log_id

INSTRUMENTS_PATH: Final = "instruments.parquet"


class Range(Struct, frozen=True):
    """The events of a shard after ``after`` up to ``up_to``."""

    shard: int
    after: int
    up_to: int


Derive = Callable[[Path, Manifest, Path], Iterator[FileEntry]]
"""Makes the derived files of an export, which has its events by then, into a folder."""


class OtherExport(Exception):
    """A folder has an export that this one cannot go on with; the message says why."""


async def export_folder(
    connection: asyncpg.Connection,
    directory: Path,
    ranges: Sequence[Range],
    *,
    data_sets: Set[str],
    build: str,
    derive: Derive | None = None,
    book: BookSampling | None = None,
    formats: Set[str] = frozenset(),
    on_progress: Callable[[int, int], None] = lambda _shard, _done: None,
) -> Manifest:
    """Export ranges into a folder, or go on with what an earlier run left there.

    It has the data sets that were there too, also those that a killed run had begun. What an export
    wrote there and the present manifest does not tell of is deleted at the end: the last files of a
    range that was shorter, and what a killed run left of books. Other files stay.

    Args:
        connection: To the log, which is only read; the exchange may run meanwhile.
        directory: The folder; it is made if it is not there.
        ranges: One for each shard.
        data_sets: Some of ``layout.DATA_SETS``, and of those that ``derive`` makes; these need the
            events, from the first one on.
        build: The version of this software.
        derive: Makes the other data sets.
        book: Of the data set of books, what it has; by default as in the run before.
        formats: Some of ``texts.FORMATS``: each file is written as text too.
        on_progress: Is told how many events of a shard are done.

    Raises:
        OtherExport: The folder has the export of another log, or one that begins elsewhere.
        LogCorrupt: The log is not as it was recorded.
        Unreadable: An event was written by another version of the software.
    """
    log_id = await read_log_id(connection)
    assert log_id is not None, "whoever wrote events has given the log an id"
    before = _before(directory, log_id, ranges)
    book = _sampling(directory, book, before)
    from_first = derive is not None and not any(one.after for one in ranges)
    begun = before.data_sets if before else _begun(directory, derived=from_first)
    data_sets = {*data_sets, *begun}
    files_before = {entry.path: entry for entry in before.files} if before else {}
    directory.mkdir(parents=True, exist_ok=True)
    shards, files, instruments = [], [], [INSTRUMENTS.empty_table()]
    for one in ranges:
        export = ShardExport(
            connection,
            directory,
            one.shard,
            data_sets=data_sets,
            build=build,
            before=files_before,
            on_progress=lambda done, shard=one.shard: on_progress(shard, done),  # type: ignore[misc]
        )
        shard, written = await export.run(one.after, one.up_to)
        shards.append(shard)
        files += written
        instruments.append(export.instruments)
    files.append(_write_instruments(directory, instruments))
    manifest = Manifest(
        FORMAT_VERSION,
        log_id,
        build,
        library_versions(),
        sorted(data_sets),
        shards,
        files,
        book,
        sorted({*formats, *(before.formats if before else ())}),
    )
    derived = data_sets - {*DATA_SETS}
    if derived:
        assert derive is not None
        for entry in derive(directory, manifest, directory):
            files.append(entry)
            await asyncio.sleep(0)  # so that Ctrl-C is heard
    # The list is the manifest's.
    files += [entry async for entry in _texts(directory, manifest, files_before)]
    write_manifest(directory, manifest)
    _delete_others(directory, {entry.path for entry in files})
    return manifest


def _before(directory: Path, log_id: str, ranges: Sequence[Range]) -> Manifest | None:
    if not (directory / MANIFEST).exists():
        return None
    try:
        before = read_manifest(directory)
    except NoManifest as error:
        raise OtherExport(str(error)) from error
    if before.log_id != log_id:
        raise OtherExport(f"{directory} has an export of another log: choose another folder.")
    begun = {shard.shard: shard for shard in before.shards}
    for one in ranges:
        shard = begun.pop(one.shard, None)
        if shard is not None and (shard.after != one.after or shard.up_to > one.up_to):
            raise OtherExport(
                f"{directory} has the events {shard.after + 1} to {shard.up_to} of shard"
                f" {one.shard}, and {one.after + 1} to {one.up_to} are wanted: choose another"
                " folder."
            )
    if begun:
        raise OtherExport(f"{directory} has shard {min(begun)} too: choose another folder.")
    return before


def _begun(directory: Path, *, derived: bool) -> list[str]:
    """Return the data sets of which a first export that was killed left whole files.

    Of books it is not known how often they were taken: they are begun again if they are asked for.
    """
    known = (*DATA_SETS, *(one for one in DERIVED_SETS if derived and one != BOOK_SET))
    found = [name for name in known if _has_written(directory, name)]
    return [*found, *([EVENTS_SET] if {*found} & {*DERIVED_SETS} else [])]


def _has_written(directory: Path, data_set: str) -> bool:
    files = (directory / data_set).rglob(f"*{SUFFIX}")
    return any(is_written(str(path.relative_to(directory))) for path in files)


async def _texts(
    directory: Path, manifest: Manifest, old: Mapping[str, FileEntry]
) -> AsyncIterator[FileEntry]:
    """Write each file as text, but for those that an earlier run wrote and that are the same."""
    for entry in list(manifest.files):
        for form in manifest.formats:
            if has_text(directory, entry, form, old):
                yield old[text_path(entry.path, form)]
            else:
                yield await asyncio.to_thread(write_text, directory, entry, form)


def _sampling(
    directory: Path, book: BookSampling | None, before: Manifest | None
) -> BookSampling | None:
    was = before.book if before else None
    if was is not None and book not in (None, was):
        raise OtherExport(
            f"{directory} has books of {was.levels} levels every {was.every_ms} ms: say the same,"
            " or choose another folder."
        )
    return book or was


def _write_instruments(directory: Path, instruments: Sequence[pa.Table]) -> FileEntry:
    with DataFile(directory, INSTRUMENTS_PATH, INSTRUMENTS) as file:
        file.write(pa.concat_tables(instruments))
        return file.finish(INSTRUMENTS_PATH, {"format_version": str(FORMAT_VERSION)})


def _delete_others(directory: Path, kept: Set[str]) -> None:
    """Delete what exports wrote and is not kept."""
    sets = (*DATA_SETS, *DERIVED_SETS)
    for above in ("", *FORMATS):
        for name in sets:
            for found in (directory / above / name).rglob("*"):
                path = str(found.relative_to(directory))
                written = is_written(path.removeprefix(f"{above}/"))
                if written and path not in kept and found.is_file():
                    found.unlink()
