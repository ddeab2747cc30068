"""What ``exchange export`` does: write the log and what follows from it, or prove a folder."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
import typer
from rich.console import Console

from exchange import BUILD
from exchange.analysis.derived import derive
from exchange.config import Settings
from exchange.export.checking import Checked, check_folder
from exchange.export.columns import Unreadable
from exchange.export.folder import Derive, OtherExport, Range, export_folder
from exchange.export.layout import BOOK_SET, DATA_SETS, DERIVED_SETS, EVENTS_SET, SUFFIX
from exchange.export.manifests import BookSampling, Manifest, NoManifest, read_manifest
from exchange.export.texts import FORMATS
from exchange.log.moments import check_place, position_at
from exchange.log.reader import read_heads
from exchange.ports import LogCorrupt
from exchange.tools.moments import reached, time_ms_of
from exchange.tools.operators.verification import kept_of
from exchange.tools.telling import EVENTS, Tell, telling
from exchange.tools.terminal import ToolError, connect, sized

PARQUET: Final = "parquet"
LEVELS: Final = 10
EVERY_S: Final = 60


def export_to(
    directory: Path,
    data_sets: Sequence[str],
    shard: int | None,
    begin: str | None,
    until: str | None,
    sampling: tuple[int | None, int | None],
    formats: Sequence[str] = (),
    *,
    follow_s: int | None = None,
    as_json: bool,
) -> None:
    """Export events after one time up to another; tell how far it is, and what was written.

    With ``follow_s`` it looks so often whether the log has grown, and goes on until it is stopped.
    """
    wanted = set(data_sets) or {*DATA_SETS}
    known = (*DATA_SETS, *DERIVED_SETS)
    for name in sorted(wanted - {*known}):
        raise typer.BadParameter(f"{name} is no data set; there are: {', '.join(known)}.")
    if wanted & {*DERIVED_SETS}:
        wanted.add(EVENTS_SET)
        if begin is not None:
            folded = ", ".join(sorted(wanted & {*DERIVED_SETS}))
            raise typer.BadParameter(f"--from: {folded} begin with the first event: leave it out.")
    if sampling != (None, None) and BOOK_SET not in wanted:
        raise typer.BadParameter("--levels and --every belong to the data set book.")
    for name in sorted({*formats} - {*FORMATS, PARQUET}):
        raise typer.BadParameter(
            f"{name} is no format; there are: {PARQUET}, {', '.join(FORMATS)}."
        )
    texts = {*formats} - {PARQUET}
    moments = (
        None if begin is None else time_ms_of(begin, "--from"),
        None if until is None else time_ms_of(until, "--until"),
    )
    console = Console(stderr=True, quiet=as_json)
    book = _sampling(directory, *sampling) if BOOK_SET in wanted else None
    while True:
        manifest = asyncio.run(_export(directory, wanted, book, texts, shard, moments, console))
        if as_json:
            typer.echo(msgspec.json.encode(manifest).decode())
        else:
            _show(Console(highlight=False), directory, manifest)
        if follow_s is None:
            return
        asyncio.run(_growth(manifest, shard, follow_s))


def check(directory: Path, expect: Sequence[str], *, as_json: bool) -> None:
    """Prove a folder; exit 1 if anything in it is not what was exported."""
    kept = kept_of(expect)
    console = Console(stderr=True, quiet=as_json)
    try:
        events = sum(one.up_to - one.after for one in read_manifest(directory).shards)
        with telling(console, EVENTS) as tell:
            done = 0

            def note(rows: int) -> None:
                nonlocal done
                done += rows
                tell("Checking", done, events)

            found = check_folder(directory, kept, note, derive=derive)
    except NoManifest as error:
        raise ToolError(str(error)) from error
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _show_check(Console(highlight=False), directory, found)
    if found.problems:
        raise typer.Exit(1)


async def _export(
    directory: Path,
    data_sets: set[str],
    book: BookSampling | None,
    formats: set[str],
    shard: int | None,
    moments: tuple[int | None, int | None],
    console: Console,
) -> Manifest:
    connection = await connect(Settings.load().analytics_database_url)
    try:
        ranges = await _ranges(connection, shard, *moments, console)
        with telling(console, EVENTS) as tell:
            return await export_folder(
                connection,
                directory,
                ranges,
                data_sets=data_sets,
                build=BUILD,
                derive=_deriving(tell, ranges),
                book=book,
                formats=formats,
                on_progress=_noting(tell, "Exporting", ranges),
            )
    except (LogCorrupt, OtherExport, Unreadable) as error:
        raise ToolError(f"Nothing more was exported: {error}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ToolError(f"The log cannot be read: {error}") from error
    except OSError as error:
        raise ToolError(f"{directory} cannot be written: {error}") from error
    finally:
        await connection.close()


async def _growth(manifest: Manifest, shard: int | None, every_s: int) -> None:
    """Wait until the log has events that were not exported."""
    done = {one.shard: one.up_to for one in manifest.shards}
    connection = await connect(Settings.load().analytics_database_url)
    try:
        while True:
            await asyncio.sleep(every_s)
            heads = await read_heads(connection)
            wanted = heads if shard is None else {shard: heads[shard]}
            if any(head > done.get(one, 0) for one, head in wanted.items()):
                return
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise ToolError(f"The log cannot be read: {error}. Run it again to go on.") from error
    finally:
        await connection.close()


async def _ranges(
    connection: asyncpg.Connection,
    shard: int | None,
    begin_ms: int | None,
    until_ms: int | None,
    console: Console,
) -> list[Range]:
    """Return what is to be exported of each shard: of a time to come, all there is by now.

    Raises:
        ToolError: There is no such shard, or no event to export.
    """
    heads = await read_heads(connection)
    if shard is not None:
        with reached():
            check_place(heads, shard)
    ranges = []
    for one in sorted(heads) if shard is None else [shard]:
        after = 0
        if begin_ms is not None:
            after = await position_at(connection, one, begin_ms, heads[one])
        up_to = heads[one]
        if until_ms is not None:
            up_to = await position_at(connection, one, until_ms, heads[one])
            if up_to == heads[one]:
                told = (
                    f"Shard {one} has no event after --until yet. Events up to that time may still"
                    " come, and are not in this export."
                )
                console.print(told, soft_wrap=True)
        ranges.append(Range(one, after, max(after, up_to)))
    if all(one.after == one.up_to for one in ranges):
        raise ToolError("There is no event to export.")
    return ranges


def _sampling(directory: Path, levels: int | None, every_s: int | None) -> BookSampling | None:
    """Return what is to be exported of books: what was asked, or as in the folder, or the default.

    None leaves it to what the folder has.
    """
    if (levels, every_s) == (None, None):
        try:
            if read_manifest(directory).book is not None:
                return None
        except NoManifest:
            pass
    every_ms = 1_000 * (EVERY_S if every_s is None else every_s)
    return BookSampling(LEVELS if levels is None else levels, every_ms)


def _deriving(tell: Tell, ranges: Sequence[Range]) -> Derive:
    return partial(derive, on_progress=_noting(tell, "Folding", ranges))


def _noting(tell: Tell, what: str, ranges: Sequence[Range]) -> Callable[[int, int], None]:
    sizes = {one.shard: one.up_to - one.after for one in ranges}

    def note(shard: int, done: int) -> None:
        tell(f"{what} shard {shard}", done, sizes[shard])

    return note


def _show(console: Console, directory: Path, manifest: Manifest) -> None:
    for shard in manifest.shards:
        span = f"{shard.after + 1:,} to {shard.up_to:,}"
        console.print(f"shard {shard.shard}: events {span}", soft_wrap=True)
        console.print(f"  --expect {shard.shard}:{shard.up_to}:{shard.chain}", soft_wrap=True)
    rows = sum(entry.rows for entry in manifest.files if entry.path.endswith(SUFFIX))
    size = sized(sum(entry.bytes for entry in manifest.files))
    told = f"{len(manifest.files)} files, {rows:,} rows, {size} in {directory}"
    console.print(told, markup=False, soft_wrap=True)


def _show_check(console: Console, directory: Path, found: Checked) -> None:
    if found.others:
        named = ", ".join(found.others)
        told = f"Not of the export, and not checked: {named}."
        console.print(told, markup=False, soft_wrap=True)
    for problem in found.problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    if found.problems:
        told = f"{directory} is not what was exported, or not what was expected."
    elif not found.events:
        told = (
            f"{found.files} files are as they were written (SHA-256). The folder has no events, so"
            " nothing says that these are what the log had."
        )
    else:
        told = f"{found.files} files and {found.events:,} events are what was exported"
        if found.derived:
            told += f" ({found.derived} files were made again from the events)"
        told += (
            f", and fit each of {found.compared} values that were kept."
            if found.compared
            else ". Give --expect a chain that was kept elsewhere: this one is from the folder."
        )
    console.print(told, markup=False, soft_wrap=True)
