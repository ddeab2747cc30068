"""Following the log: each event is read and decoded once for all projections.

``ShardTail`` keeps a window of a shard's newest events. The log never changes, so the window has
what a query would return. A projection that is further behind reads from the log itself.

``listen`` wakes the tails when the matcher has appended. A notification may be lost, so waiting
followers also look at the log from time to time.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import DecidedEvent, UnknownEvent, load_event
from exchange.log.reader import EVENTS_CHANNEL, read_events, read_traces
from exchange.ports import StoredEvent
from exchange.telemetry import tracing
from exchange.waiting import is_set_within
from projections.stores.failures import is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

WINDOW_EVENTS_MAX: Final = 4_000  # two batches: a projection a batch behind still shares them
TRACES_MAX: Final = 4_000  # one for each event of the window
LISTEN_RETRY_S: Final = 1.0  # until then followers poll
LISTEN_CHECK_S: Final = 15.0  # a query shows whether the connection was cut without notice
LISTEN_CHECK_TIMEOUT_S: Final = 5.0


class Unreadable(Struct, frozen=True):
    """An event that this version of the software cannot decode, or that is missing."""

    type: str
    position: int
    error: str


class Chunk(Struct, frozen=True):
    """The next events of a shard; if there are none, ``unreadable`` may be the reason."""

    events: list[DecidedEvent]
    unreadable: Unreadable | None = None


class ShardTail:
    """One shard's log as all projections of this process read it."""

    def __init__(self, engine: AsyncEngine, shard: int) -> None:
        self.shard = shard
        self._engine = engine
        self._window: list[DecidedEvent] = []
        self._start = 0  # the position before the window's first event
        self._extending = asyncio.Lock()
        self._followers: list[asyncio.Event] = []
        self._traces: dict[int, str] = {}  # by the positions of sampled commands' first events

    def follow(self) -> asyncio.Event:
        """Return an event that is set whenever there may be something new to read."""
        news = asyncio.Event()
        self._followers.append(news)
        return news

    def unfollow(self, news: asyncio.Event) -> None:
        """Stop setting an event that ``follow`` returned."""
        self._followers.remove(news)

    def wake(self) -> None:
        """Let all followers look for new events."""
        for news in self._followers:
            news.set()

    async def read(self, *, after: int, limit: int) -> Chunk:
        """Return the events after a position, at most ``limit``."""
        if after >= self._end:
            async with self._extending:
                if after >= self._end:  # otherwise another follower read it during the wait
                    return await self._extend(after, limit)
        if after < self._start:  # compared last: the window may have moved on during the wait
            return await self._fetch(after, limit)
        first = after - self._start
        return Chunk(self._window[first : first + limit])

    def traces(self, events: Sequence[DecidedEvent]) -> list[str]:
        """Return the trace contexts of the sampled events among those that were read here."""
        if not (self._traces and events):
            return []
        first, last = events[0].position, events[-1].position
        return [text for position, text in self._traces.items() if first <= position <= last]

    @property
    def _end(self) -> int:
        return self._start + len(self._window)

    async def _extend(self, after: int, limit: int) -> Chunk:
        chunk = await self._fetch(after, limit)
        if after > self._end:
            self._window, self._start = [], after
        self._window += chunk.events
        surplus = max(0, len(self._window) - WINDOW_EVENTS_MAX)
        del self._window[:surplus]
        self._start += surplus
        return chunk

    async def _fetch(self, after: int, limit: int) -> Chunk:
        async with driver_connection(self._engine) as driver:
            stored = await read_events(
                driver, self.shard, after=after, up_to=after + limit, limit=limit
            )
            if stored and tracing.is_on():
                found = await read_traces(
                    driver, self.shard, after=after, up_to=stored[-1].position
                )
                self._remember(found)
        return _decode(stored, after)

    def _remember(self, traces: Mapping[int, str]) -> None:
        self._traces |= traces
        for position in list(self._traces)[:-TRACES_MAX]:
            del self._traces[position]


async def listen(engine: AsyncEngine, wake: Callable[[int], None]) -> None:
    """Call ``wake`` with the shard of each notification, for ever, reconnecting when lost."""
    while True:
        try:
            await _listen_until_lost(engine, wake)
        except Exception as error:
            if not is_store_failure(error):
                raise
            logger.debug("Cannot listen for events", extra={"error": repr(error)})
        await asyncio.sleep(LISTEN_RETRY_S)


async def _listen_until_lost(engine: AsyncEngine, wake: Callable[[int], None]) -> None:
    lost = asyncio.Event()

    def on_notification(_connection: object, _pid: int, _channel: str, payload: str) -> None:
        wake(int(payload.partition(":")[0]))

    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        try:
            driver.add_termination_listener(lambda _connection: lost.set())
            await driver.add_listener(EVENTS_CHANNEL, on_notification)
            while not await is_set_within(lost, LISTEN_CHECK_S):
                await driver.execute("select 1", timeout=LISTEN_CHECK_TIMEOUT_S)
        finally:
            # Not returned to the pool: the connection would go on getting notifications there.
            driver.terminate()
            await connection.invalidate()


def _decode(stored: Sequence[StoredEvent], after: int) -> Chunk:
    """Decode events up to the first one that cannot be decoded; the next read begins with it."""
    events: list[DecidedEvent] = []
    for position, one in enumerate(stored, after + 1):
        if one.position != position:
            error = f"the log of shard {one.shard} has no event at position {position}"
            return Chunk(events, Unreadable("", position, error))
        try:
            events.append(load_event(one))
        except UnknownEvent as unknown:
            return Chunk(events, Unreadable(one.type, one.position, str(unknown)))
    return Chunk(events)
