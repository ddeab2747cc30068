"""Walk a shard's log and write it out: chain, rows, files.

Read ``ShardExport.run``. The walk computes the hash chain as ``exchange verify`` does and compares
it with what a batch recorded, so that a changed log is not exported. What an earlier run has
written whole is used again, if the same build wrote it of the same log and it is as it was written.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from datetime import date
from pathlib import Path

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exchange.export.columns import (
    EVENTS,
    INSTRUMENTS,
    TRADES,
    event_rows,
    instrument_rows,
    trade_rows,
)
from exchange.export.files import DataFile, entry_of, metadata_of
from exchange.export.layout import (
    EVENTS_SET,
    TRADES_SET,
    Span,
    ends_file,
    group_end,
    shard_folder,
    spans_on_disk,
)
from exchange.export.manifests import FORMAT_VERSION, FileEntry, ShardRange
from exchange.log.chain import event_text, links_over
from exchange.log.documents.document import Scales
from exchange.log.reader import (
    READ_EVENTS_MAX,
    read_chain,
    read_every_event,
    read_recorded_chain,
    read_registrations,
)
from exchange.ports import EMPTY_CHAIN, LogCorrupt, StoredEvent
from exchange.waiting import retrieve_error


class ShardExport:
    """Writes a range of one shard's events, and what is derived of them, into a folder."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        directory: Path,
        shard: int,
        *,
        data_sets: Set[str],
        build: str,
        before: Mapping[str, FileEntry],
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> None:
        """Prepare an export.

        Args:
            connection: To the log, which is only read; the exchange may run meanwhile.
            directory: The folder of the export.
            shard: Whose log.
            data_sets: Some of ``DATA_SETS``.
            build: The version of this software, which files tell.
            before: What the folder's manifest tells of files, by path.
            on_progress: Is told how many events are done.
        """
        self._connection = connection
        self._directory = directory
        self._shard = shard
        self._data_sets = data_sets
        self._told, self._before = told_by(build), before
        self._on_progress = on_progress
        self.instruments = INSTRUMENTS.empty_table()  # that are registered up to the range's end
        self._files: list[FileEntry] = []
        self._scales: Scales = {}
        self._position = 0
        self._chain = EMPTY_CHAIN
        self._recorded: tuple[int, bytes] = (0, EMPTY_CHAIN)
        self._open: _OpenSpan | None = None

    async def run(self, after: int, up_to: int) -> tuple[ShardRange, list[FileEntry]]:
        """Export the events after a position up to another one.

        Returns:
            What the manifest tells of the range, and of the files, also of those that were here.

        Raises:
            LogCorrupt: The log is not as it was recorded.
            Unreadable: An event was written by another version of the software.
        """
        await self._begin(after, up_to)
        before = self._chain
        try:
            for span, chain in self._reusable(up_to):
                entries = await asyncio.to_thread(self._entries, span)
                if any(self._before.get(entry.path, entry) != entry for entry in entries):
                    break  # one was changed since: it and those after it are written again
                self._files += entries
                self._position, self._chain = span.last, chain
                self._on_progress(self._position - after)
            async for events in self._groups(up_to):
                chain, links = self._chain, self._linked(events)
                await asyncio.to_thread(self._write_events, events, chain, links)
                self._on_progress(self._position - after)
            self._finish("range")
        finally:
            if self._open is not None:
                self._open.give_up()
        ends = before.hex(), self._chain.hex()
        return ShardRange(self._shard, after, up_to, *ends), self._files

    async def _begin(self, after: int, up_to: int) -> None:
        """Compute the chain at ``after``, and learn what an instrument's amounts are."""
        self._recorded = await read_recorded_chain(self._connection, self._shard, up_to)
        self._position = after
        self._chain = await read_chain(self._connection, self._shard, after)
        registrations = await read_registrations(self._connection, self._shard, up_to=up_to)
        if registrations:
            rows = event_rows(registrations, self._scales)
            self.instruments = instrument_rows(rows)

    async def _groups(self, up_to: int) -> AsyncIterator[list[StoredEvent]]:
        """Yield the events of one group of rows after the other; the next is read meanwhile."""

        def ask(begin: int) -> asyncio.Task[list[StoredEvent]]:
            asked = asyncio.create_task(self._read(begin, min(group_end(begin + 1), up_to)))
            asked.add_done_callback(retrieve_error)
            return asked

        if self._position >= up_to:
            return
        ahead = ask(self._position)
        try:
            while (events := await ahead)[-1].position < up_to:
                ahead = ask(events[-1].position)
                yield events
            yield events
        finally:
            ahead.cancel()

    async def _read(self, after: int, up_to: int) -> list[StoredEvent]:
        events: list[StoredEvent] = []
        while after < up_to:
            end = min(up_to, after + READ_EVENTS_MAX)
            events += await read_every_event(self._connection, self._shard, after=after, up_to=end)
            after = end
        return events

    def _linked(self, events: Sequence[StoredEvent]) -> list[bytes]:
        """Go on over events and return the chain after each.

        Raises:
            LogCorrupt: It is not the one that a batch recorded.
        """
        links = links_over(self._chain, [event_text(event) for event in events])
        at, chain = self._recorded
        index = at - self._position - 1
        if 0 <= index < len(links) and links[index] != chain:
            raise LogCorrupt(
                f"shard {self._shard}: the chain up to {at} is not the one that its batch recorded;"
                " exchange verify names the event"
            )
        self._position, self._chain = events[-1].position, links[-1]
        return links

    def _write_events(
        self, events: Sequence[StoredEvent], before: bytes, links: Sequence[bytes]
    ) -> None:
        """Write a group of rows, to a file for each day that it has events of."""
        rows = event_rows(events, self._scales)
        first = events[0].position
        for day, begin, end in days_of(rows):
            if self._open is not None and self._open.day != day:
                self._finish("day")
            if self._open is None:
                chain = links[begin - 1] if begin else before
                place = (self._directory, self._shard, day, first + begin)
                self._open = _OpenSpan(*place, self._data_sets, chain)
            self._open.add(rows.slice(begin, end - begin), links[end - 1])
            if ends_file(first + end - 1):
                self._finish("size")

    def _finish(self, ended_by: str) -> None:
        if self._open is not None:
            told = {**self._told, "ended_by": ended_by}
            self._files += self._open.finish(told)
            self._open = None

    def _reusable(self, up_to: int) -> Iterator[tuple[Span, bytes]]:
        """Yield the spans from here on that were written whole before, and the chain after each."""
        if EVENTS_SET not in self._data_sets:
            return
        position, chain = self._position, self._chain
        for span in spans_on_disk(self._directory, self._shard):
            if span.first != position + 1 or span.last > up_to:
                continue
            told = self._told_of(span)
            ends = told.get("ended_by") in ("day", "size") or span.last == up_to
            if not ends or told.get("chain_before") != chain.hex() or not self._has_trades(span):
                continue
            position, chain = span.last, bytes.fromhex(told["chain"])
            yield span, chain

    def _told_of(self, span: Span) -> dict[str, str]:
        """Return what a file tells of itself; nothing if another build wrote it, or half of it."""
        try:
            told = metadata_of(self._directory / span.events_path)
        except (OSError, pa.ArrowInvalid):
            return {}
        return told if self._told.items() <= told.items() else {}

    def _has_trades(self, span: Span) -> bool:
        if TRADES_SET not in self._data_sets:
            return True
        types = pq.read_table(self._directory / span.events_path, columns=["type"])["type"]
        wanted = pc.sum(pc.equal(types, "TradeExecuted")).as_py() or 0
        found = (pq.read_metadata(path).num_rows for path in self._trade_files(span))
        try:
            return bool(sum(found) == wanted)
        except (OSError, pa.ArrowInvalid):
            return False

    def _trade_files(self, span: Span) -> list[Path]:
        return sorted(self._directory.glob(span.trades_path("*")))

    def _entries(self, span: Span) -> list[FileEntry]:
        """Return what the manifest tells of a span's files that are here."""
        paths = self._trade_files(span) if TRADES_SET in self._data_sets else []
        place = {"shard": self._shard, "first": span.first, "last": span.last}
        return [
            entry_of(self._directory, str(path.relative_to(self._directory)), **place)
            for path in [*paths, self._directory / span.events_path]
        ]


class _OpenSpan:
    """The files of a span that is being written: its events, and its trades by instrument.

    The events' file gets its name last, so that the trades of a whole one are here too.
    """

    def __init__(
        self,
        directory: Path,
        shard: int,
        day: date,
        first: int,
        data_sets: Set[str],
        chain_before: bytes,
    ) -> None:
        self.day = day
        self._directory, self._shard, self._first = directory, shard, first
        self._chain_before, self._chain = chain_before, chain_before
        self._last = first - 1
        self._trades: list[pa.Table] | None = [] if TRADES_SET in data_sets else None
        self._events: DataFile | None = None
        if EVENTS_SET in data_sets:
            self._events = DataFile(directory, f"{shard_folder(shard)}/{day}-{first}", EVENTS)

    def add(self, rows: pa.Table, chain: bytes) -> None:
        """Write rows; ``chain`` is the one after the last."""
        if self._events is not None:
            self._events.write(rows)
        if self._trades is not None:
            self._trades.append(trade_rows(rows))
        self._last, self._chain = rows["position"][-1].as_py(), chain

    def finish(self, told: dict[str, str]) -> list[FileEntry]:
        """End the files and return what the manifest tells of them."""
        span = Span(self._shard, self.day, self._first, self._last)
        place = {"shard": span.shard, "first": span.first, "last": span.last}
        told = told | {name: str(value) for name, value in place.items()}
        files: list[FileEntry] = []
        if self._trades is not None:
            for instrument, rows in by_instrument(pa.concat_tables(self._trades)):
                path = span.trades_path(instrument)
                with DataFile(self._directory, path, TRADES) as file:
                    file.write(rows)
                    files.append(file.finish(path, told, **place))
        if self._events is not None:
            chains = {"chain_before": self._chain_before.hex(), "chain": self._chain.hex()}
            files.append(self._events.finish(span.events_path, told | chains, **place))
        return files

    def give_up(self) -> None:
        """Delete what is not whole."""
        if self._events is not None:
            self._events.give_up()


def by_instrument(trades: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the trades of each instrument, by its name."""
    for instrument in sorted(pc.unique(trades["instrument"]).to_pylist()):
        yield instrument, trades.filter(pc.equal(trades["instrument"], instrument))


def days_of(rows: pa.Table) -> Iterator[tuple[date, int, int]]:
    """Yield each day (UTC) of events in order, and where its rows begin and end."""
    days = pc.cast(rows["time"], pa.date32()).combine_chunks()
    runs = pc.run_end_encode(days)
    begin = 0
    for day, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield day, begin, end
        begin = end


def told_by(build: str) -> dict[str, str]:
    """Return what each file tells of what wrote it."""
    return {"format_version": str(FORMAT_VERSION), "build": build, **library_versions()}


def library_versions() -> dict[str, str]:
    """Return the versions on which the bytes of a file depend."""
    return {"pyarrow": pa.__version__}
