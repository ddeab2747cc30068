"""A log in PostgreSQL, read through the views of the schema ``analytics`` alone.

So a role of ``exchange analytics-role`` can do it. Pages are bounded by positions. The driver runs
in a thread of its own, so that a notebook, whose thread has a loop already, can ask too.
"""

import asyncio
import threading
from bisect import bisect_right
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, Final, TypeVar

import asyncpg
import pyarrow as pa

from exchange.analysis.sources import Span, Unavailable, scales_in
from exchange.export.columns import INSTRUMENTS, event_rows, trade_rows
from exchange.log.reader import READ_EVENTS_MAX
from exchange.ports import StoredEvent

T = TypeVar("T")

CONNECT_S: Final = 10.0
NO_CONNECTION: Final = (OSError, ValueError, TypeError)  # nobody is there, or the address is none

# Amounts need the instrument, and trades are found by their read model.
READ_SPANS: Final = """
select shard, min(position) as up_to from analytics.progress
where projection in ('instruments', 'trades')
group by shard
having count(*) = 2
order by shard
"""

READ_INSTRUMENTS: Final = """
select instrument, base, quote, price_scale, quantity_scale, tick_size, lot_size, shard, position
from analytics.instruments
order by shard, position
"""

READ_TIME: Final = """
select (extract(epoch from time) * 1000)::bigint from analytics.events
where shard = $1 and position = $2
"""

READ_EVENTS: Final = """
select shard, position, instrument, type, version, data, command_id, kafka_offset
from analytics.events
where shard = $1 and position > $2 and position <= $3
order by position
"""

READ_TRADES: Final = """
select e.shard, e.position, e.instrument, e.type, e.version, e.data, e.command_id, e.kafka_offset
from (
    select position from analytics.trades
    where shard = $1 and position > $2 and position <= $3 and ($4::text is null or instrument = $4)
    order by position
    limit $5
) as t
join analytics.events as e on e.shard = $1 and e.position = t.position
order by e.position
"""


class Database:
    """The log of a running exchange, or of a replica of its database."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            Unavailable: The database does not answer, or refuses.
        """
        self._held = ExitStack()
        self._thread = _Thread()
        self._held.callback(self._thread.stop)
        try:
            self._connection = self._thread.call(_connect(url))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, *NO_CONNECTION) as error:
            self._held.close()
            raise Unavailable(f"PostgreSQL does not answer: {error}") from error
        self._held.callback(lambda: self._thread.call(self._connection.close()))

    def spans(self) -> dict[int, Span]:
        return {shard: Span(0, up_to) for shard, up_to in self._fetch(READ_SPANS)}

    def instruments(self) -> pa.Table:
        rows = [dict(row) for row in self._fetch(READ_INSTRUMENTS)]
        return pa.Table.from_pylist(rows, schema=INSTRUMENTS)

    def position_at(self, shard: int, time_ms: int, span: Span) -> int:
        def time_ms_at(position: int) -> int:
            [(at_ms,)] = self._fetch(READ_TIME, shard, position)
            return int(at_ms)

        positions = range(span.after + 1, span.up_to + 1)
        return span.after + bisect_right(positions, time_ms, key=time_ms_at)

    def events(self, shard: int, span: Span) -> Iterator[pa.Table]:
        scales = scales_in(self.instruments())
        for begin in range(span.after, span.up_to, READ_EVENTS_MAX):
            end = min(begin + READ_EVENTS_MAX, span.up_to)
            events = [StoredEvent(*row) for row in self._fetch(READ_EVENTS, shard, begin, end)]
            if len(events) != end - begin:
                raise Unavailable(
                    f"shard {shard}: of the events {begin + 1} to {end} only {len(events)} are"
                    " there; exchange verify names what is missing"
                )
            yield event_rows(events, scales)

    def trades(self, shard: int, span: Span, instrument: str | None) -> Iterator[pa.Table]:
        scales, begin = scales_in(self.instruments()), span.after
        while True:
            page = (shard, begin, span.up_to, instrument, READ_EVENTS_MAX)
            events = [StoredEvent(*row) for row in self._fetch(READ_TRADES, *page)]
            if not events:
                return
            begin = events[-1].position
            yield trade_rows(event_rows(events, scales))

    def close(self) -> None:
        self._held.close()

    def _fetch(self, query: str, *arguments: object) -> list[Any]:
        try:
            rows: list[Any] = self._thread.call(self._connection.fetch(query, *arguments))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise Unavailable(f"PostgreSQL refuses, or is away: {error}") from error
        return rows


class _Thread:
    """A thread with an event loop. One that nobody stops does not hold up the end of Python."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="exchange-analysis", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the thread, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()


async def _connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url, timeout=CONNECT_S)
