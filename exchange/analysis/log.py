"""A log as an analyst asks it: trades, orders, events, books over time, positions, own folds.

Read ``Log``. What is asked of a moment is folded from the log's first event, by the rules of the
read models themselves. Answers of both sources are the same, row for row.

A moment is a time with its zone (or ISO 8601 text with one), or positions of shards; None is now. A
shard that no position is named of begins with its first event and ends with its last. The events of
a time are those at or before it. What is folded up to a time needs a later event of each shard that
it reads: before that, one of this time may still come.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from exchange.analysis.answers import Rows, answered, connected, hold
from exchange.analysis.database import Database
from exchange.analysis.folder import Folder
from exchange.analysis.models import (
    LEVEL_ROWS,
    ORDER_ROWS,
    POSITION_ROWS,
    level_rows,
    order_rows,
    position_rows,
)
from exchange.analysis.sources import Source, Span, Unavailable, parts_in, scales_in
from exchange.domain.values import Side
from exchange.export.columns import EVENTS, INSTRUMENTS, TRADES
from projections.book import BookFold
from projections.folding import LogPart
from projections.orders import ORDERS, OrdersFold
from projections.positions import POSITIONS, PositionsFold

Moment = datetime | str | Mapping[int, int] | None

EPOCH: Final = datetime.fromtimestamp(0, UTC)
LEVELS: Final = 10
FILES: Final = ("events", "trades")  # of an export, that have a row where ``sql`` has one
NAMES: Final = ("events", "trades", "orders", "positions", "instruments")


class Folding(Protocol):
    """What can be folded: a read model's fold, or anything with an ``add`` of its own."""

    def add(self, part: LogPart) -> None:
        """Apply consecutive events of a shard."""


Fold = TypeVar("Fold", bound=Folding)


class Log:
    """The log of an exchange; close it, or use it in ``with``."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def events(
        self, instrument: str | None = None, start: Moment = None, end: Moment = None
    ) -> Rows:
        """Return events after ``start`` up to ``end``, shard by shard, each in order."""
        _check_moments(start, end)

        def make() -> Iterator[pa.Table]:
            for shard, span in self._spans(start, end).items():
                for rows in self._source.events(shard, span):
                    yield _of(rows, instrument)

        return Rows(EVENTS, make)

    def trades(
        self, instrument: str | None = None, start: Moment = None, end: Moment = None
    ) -> Rows:
        """Return trades after ``start`` up to ``end``, shard by shard, each in order."""
        _check_moments(start, end)

        def make() -> Iterator[pa.Table]:
            for shard, span in self._spans(start, end).items():
                yield from self._source.trades(shard, span, instrument)

        return Rows(TRADES, make)

    def orders(self, instrument: str | None = None, at: Moment = None) -> Rows:
        """Return every order as it was at a moment: as they became final, then the open ones."""
        _check_moments(at)

        def make() -> Iterator[pa.Table]:
            scales = scales_in(self._source.instruments())
            fold = OrdersFold()
            for part in self._parts(at):
                fold.add(part)
                yield _of(order_rows(fold.finished()[ORDERS.name], scales), instrument)
            yield _of(order_rows(fold.rows()[ORDERS.name], scales), instrument)

        return Rows(ORDER_ROWS, make)

    def positions(self, instrument: str | None = None, at: Moment = None) -> Rows:
        """Return what each client held of each instrument at a moment."""
        _check_moments(at)

        def make() -> Iterator[pa.Table]:
            rows = self.fold(PositionsFold(), at).rows()[POSITIONS.name]
            yield _of(position_rows(rows, scales_in(self._source.instruments())), instrument)

        return Rows(POSITION_ROWS, make)

    def book(self, instrument: str, at: Moment = None, *, levels: int = LEVELS) -> Rows:
        """Return the best levels of each side of a book at a moment."""
        _check_moments(at)

        def make() -> Iterator[pa.Table]:
            shard = self._shard_of(instrument)
            span = self._whole(at)[shard]
            self._check_passed(shard, at, span)
            book = _Book(instrument, shard, levels, scales_in(self._source.instruments()))
            for part in self._parts_of(shard, span):
                book.add(part)
            yield book.rows(book.time_ms)

        return Rows(LEVEL_ROWS, make)

    def books(
        self,
        instrument: str,
        start: datetime | str,
        end: datetime | str,
        every: timedelta,
        *,
        levels: int = LEVELS,
    ) -> Rows:
        """Return the best levels of each side at ``start``, and then ``every`` so often.

        Times after the last event that the source has of the shard have no book: others may
        still come.
        """
        if not isinstance(every, timedelta):
            raise TypeError(f"every is {every!r}: say datetime.timedelta(seconds=60), for example")
        first_ms, last_ms, every_ms = _ms(start), _ms(end), every // timedelta(milliseconds=1)
        if every_ms < 1:
            raise ValueError(f"every is {every}: it has to be a millisecond at least")

        def make() -> Iterator[pa.Table]:
            shard = self._shard_of(instrument)
            whole, span = self._whole(None)[shard], self._whole(end)[shard]
            has_passed = span.up_to < whole.up_to
            book = _Book(instrument, shard, levels, scales_in(self._source.instruments()))
            next_ms = first_ms
            for part in self._parts_of(shard, span):
                begin = 0
                for index, event in enumerate(part.events):
                    while event.time_ms > next_ms:
                        book.add(_slice(part, begin, index))
                        begin = index
                        yield book.rows(next_ms)
                        next_ms += every_ms
                book.add(_slice(part, begin, len(part.events)))
            while next_ms <= (last_ms if has_passed else min(last_ms, book.time_ms)):
                yield book.rows(next_ms)
                next_ms += every_ms

        return Rows(LEVEL_ROWS, make)

    def instruments(self) -> Rows:
        """Return the instruments."""
        return Rows(INSTRUMENTS, lambda: [self._source.instruments()])

    def fold(self, fold: Fold, at: Moment = None) -> Fold:
        """Fold the log up to a moment, and return the fold.

        A fold is any read model's (``projections.positions.PositionsFold``, say), or an object of
        your own with an ``add`` that takes a ``projections.folding.LogPart``.
        """
        for part in self._parts(at):
            fold.add(part)
        return fold

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Return what DuckDB answers of the log as of now.

        It has ``events``, ``trades``, ``orders``, ``positions`` and ``instruments``. Of a folder,
        events and trades are read from its files. All else that the query names is held by DuckDB
        first, which may use the disk.
        """
        connection = connected()
        for name in NAMES:
            if not re.search(rf"\b{name}\b", query, re.IGNORECASE):
                continue
            source = self._source
            paths = source.paths(name) if isinstance(source, Folder) and name in FILES else []
            if paths:
                listed = ", ".join("'{}'".format(path.replace("'", "''")) for path in paths)
                read = f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true)"
                connection.execute(f"create view {name} as select * from {read}")
            else:
                make: Callable[[], Rows] = getattr(self, name)
                hold(connection, name, make())
        return answered(connection, query, NAMES)

    def close(self) -> None:
        """Give back the connection."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _spans(self, start: Moment, end: Moment) -> dict[int, Span]:
        spans, found = self._source.spans(), {}
        for moment in (start, end):
            _check_shards(moment, spans)
        for shard, span in spans.items():
            after = self._position(shard, start, span, span.after)
            up_to = self._position(shard, end, span, span.up_to)
            found[shard] = Span(after, max(after, up_to))
        return found

    def _whole(self, at: Moment) -> dict[int, Span]:
        """Return the spans from the first event on, which is where a fold begins.

        Raises:
            Unavailable: The source has not all of them.
        """
        spans = self._spans(None, at)
        for shard, span in spans.items():
            if span.after:
                raise Unavailable(
                    f"The events of shard {shard} begin at {span.after + 1}, and a fold begins at"
                    " 1: export without --from."
                )
        return spans

    def _position(self, shard: int, moment: Moment, span: Span, default: int) -> int:
        if moment is None:
            return default
        if not isinstance(moment, Mapping):
            return self._source.position_at(shard, _ms(moment), span)
        position = moment.get(shard, default)
        if not span.after <= position <= span.up_to:
            raise Unavailable(
                f"Shard {shard} has the events {span.after + 1} to {span.up_to}, not yet"
                f" {position}."
            )
        return position

    def _check_passed(self, shard: int, at: Moment, span: Span) -> None:
        """Check that a span up to a time is all that the shard will ever have of it.

        Raises:
            Unavailable: An event of the time may still come.
        """
        if at is None or isinstance(at, Mapping):
            return
        last = self._whole(None)[shard].up_to
        if span.up_to >= last > 0:
            raise Unavailable(
                f"Shard {shard} has no event after {at}, so another one may come before it. Its"
                f" last one is {last}: name an earlier time, or positions, such as"
                f" {{{shard}: {last}}}."
            )

    def _parts(self, at: Moment) -> Iterator[LogPart]:
        spans = self._whole(at)
        for shard, span in spans.items():
            self._check_passed(shard, at, span)
        for shard, span in spans.items():
            yield from self._parts_of(shard, span)

    def _parts_of(self, shard: int, span: Span) -> Iterator[LogPart]:
        for rows in self._source.events(shard, span):
            yield from parts_in(shard, rows)

    def _shard_of(self, instrument: str) -> int:
        rows = self._source.instruments()
        shards = dict(zip(*(rows[n].to_pylist() for n in ("instrument", "shard")), strict=True))
        if instrument not in shards:
            known = ", ".join(sorted(shards)) or "none"
            raise Unavailable(f"There is no instrument {instrument}; there are: {known}.")
        return int(shards[instrument])


class _Book:
    """The book of one instrument, and of which event it is."""

    def __init__(self, instrument: str, shard: int, levels: int, scales: dict[str, Any]) -> None:
        self._instrument, self._shard, self._levels = instrument, shard, levels
        self._scales = scales
        self._fold = BookFold()
        self._position = 0
        self.time_ms = 0

    def add(self, part: LogPart) -> None:
        if not part.events:
            return
        mine = [e for e in part.events if getattr(e, "instrument", None) == self._instrument]
        self._fold.add(LogPart(part.shard, part.first, mine))
        self._position = part.first + len(part.events) - 1
        self.time_ms = part.events[-1].time_ms

    def rows(self, time_ms: int) -> pa.Table:
        bids, asks = (
            self._fold.levels(self._shard, self._instrument, side)[: self._levels]
            for side in (Side.BUY, Side.SELL)
        )
        of = {"time": time_ms, "shard": self._shard, "position": self._position}
        return level_rows(bids, asks, self._instrument, self._scales, of)


def open_log(source: str | Path) -> Log:
    """Open a log: the address of a database (``postgresql://…``), or an exported folder.

    Of a database the schema ``analytics`` is read, so that a role of ``exchange analytics-role``
    can do it.

    Raises:
        Unavailable: There is no log.
    """
    if isinstance(source, str) and re.match(r"postgres(ql)?://", source):
        return Log(Database(source))
    return Log(Folder(Path(source)))


def _check_moments(*moments: Moment) -> None:
    """Refuse a time that cannot be read, where it is said and not where rows are read.

    Raises:
        ValueError: It is no time, or has no zone.
    """
    for moment in moments:
        if isinstance(moment, datetime | str):
            _ms(moment)


def _check_shards(moment: Moment, spans: Mapping[int, Span]) -> None:
    unknown = sorted(moment.keys() - spans.keys()) if isinstance(moment, Mapping) else []
    if unknown:
        known = ", ".join(map(str, sorted(spans))) or "none"
        raise Unavailable(f"There is no shard {unknown[0]}; there are: {known}.")


def _of(rows: pa.Table, instrument: str | None) -> pa.Table:
    return rows if instrument is None else rows.filter(pc.equal(rows["instrument"], instrument))


def _slice(part: LogPart, begin: int, end: int) -> LogPart:
    return LogPart(part.shard, part.first + begin, part.events[begin:end])


def _ms(moment: datetime | str) -> int:
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            text = f"{moment!r} is no ISO 8601 time with a date, such as 2026-11-27T02:11:30Z"
            raise ValueError(text) from None
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no zone: say {moment.isoformat()}Z if it is in UTC")
    return (moment - EPOCH) // timedelta(milliseconds=1)
