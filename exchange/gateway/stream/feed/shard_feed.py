"""One shard's events in order, without a gap, while somebody subscribes.

Read ``LiveFeed.read``. It takes the next events from the feed in Redis. If the feed does not have
the next position (trimmed, emptied, away, or its projector behind), it takes them from the log. The
newest events are kept in a window. So a subscriber that has caught up gets the last of them and
joins the others in one turn of the event loop, in which nothing can come between.

An event of a later version of the software is ``Unreadable``: it keeps its position, and
subscribers of its instrument cannot go on.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, cast

from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import (
    CancelRejected,
    CommandQuarantined,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
)
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.reading import (
    CATCH_UP_WAIT_MS,
    answering,
    log_connection,
    model_connection,
)
from exchange.log.events import DecidedEvent, UnknownEvent, load_event
from exchange.log.reader import read_events, read_heads
from exchange.log.reader import read_traces as log_traces
from exchange.ports import StoredEvent
from exchange.telemetry import tracing
from exchange.waiting import is_set_within
from projections.feed import NAME, READ_EVENTS_MAX, read_feed, read_traces
from projections.stores.checkpoints import Live, ReadModelUnavailable, read_live

logger = logging.getLogger(__name__)

BLOCK_MS: Final = 500  # a longer silence is checked in the log: the feed's projector may be away
MOVES_S: Final = 0.5  # then whoever waits looks whether the stream still goes on
WITHOUT_REDIS_S: Final = 0.1  # between two reads of the log while the feed is away
WINDOW_EVENTS_MAX: Final = 4 * READ_EVENTS_MAX  # so a subscriber one read behind can still join


# No channel shows these, whatever their version.
UNSHOWN: Final = frozenset(
    kind.__name__
    for kind in (
        InstrumentRegistered,
        InstrumentRejected,
        CancelRejected,
        SettlementCycleClosed,
        SettlementCycleRejected,
        RecordRejected,
        CommandQuarantined,
    )
)


class Unreadable(Struct, frozen=True, gc=False):
    """Stands for an event of a later version; ``instrument`` is None if no channel shows it."""

    instrument: str | None


class ShardFeed(ABC):
    """The events of a shard after ``position``."""

    def __init__(self, engine: AsyncEngine, shard: int) -> None:
        self.shard = shard
        self.position = 0
        self._engine = engine
        self._window: deque[DecidedEvent] = deque(maxlen=WINDOW_EVENTS_MAX)
        self._moved = asyncio.Event()

    async def start(self) -> None:
        """Begin after the last event there is.

        Raises:
            Problem: 503, the log cannot be read.
        """
        self.position = await self.head()

    @abstractmethod
    async def head(self) -> int:
        """Return the position of the last event there is.

        Raises:
            Problem: 503, the log cannot be read.
        """

    @abstractmethod
    async def read(self) -> list[DecidedEvent]:
        """Return the next events, none if there were none for a while.

        Raises:
            Problem: 503, the events cannot be read.
        """

    async def traces(self, events: Sequence[DecidedEvent]) -> list[str]:
        """Return the trace contexts of the next events that were sampled."""
        del events
        return []

    def advance(self, events: Sequence[DecidedEvent]) -> None:
        """Move ``position`` on: these events, the next after it, are now offered to subscribers."""
        self._window.extend(events)
        self.position = events[-1].position
        self._moved.set()

    async def until(self, position: int) -> None:
        """Wait until everything up to a position is offered to subscribers.

        Raises:
            Problem: 503, it was not in time.
        """
        with answering():
            async with asyncio.timeout(CATCH_UP_WAIT_MS / 1000):
                while self.position < position:
                    self._moved.clear()
                    await self._moved.wait()

    async def moves(self) -> None:
        """Wait until ``position`` moves on, ``MOVES_S`` at most."""
        self._moved.clear()
        await is_set_within(self._moved, MOVES_S)

    def newest(self, after: int) -> list[DecidedEvent] | None:
        """Return the events after a position up to ``position``, None if the window lacks some."""
        missing = self.position - after
        if missing > len(self._window):
            return None
        return list(islice(self._window, len(self._window) - max(0, missing), None))

    async def history(self, after: int, *, up_to: int | None = None) -> list[DecidedEvent]:
        """Return the next events after a position from the log, which may be ahead of the feed.

        Raises:
            Problem: 503, the log cannot be read.
        """
        end = after + READ_EVENTS_MAX if up_to is None else up_to
        return await events_after(self._engine, self.shard, after, up_to=end)


class LiveFeed(ShardFeed):
    """The events of a shard as they happen."""

    def __init__(self, engine: AsyncEngine, redis: Redis, shard: int) -> None:
        super().__init__(engine, shard)
        self._redis = redis
        self._live: Live | None = None

    async def head(self) -> int:
        async with log_connection(self._engine) as connection:
            return (await read_heads(connection)).get(self.shard, 0)

    async def read(self) -> list[DecidedEvent]:
        events = await self._from_feed()
        if not events or events[0].position != self.position + 1:
            events = await self.history(self.position)
        return events

    async def traces(self, events: Sequence[DecidedEvent]) -> list[str]:
        """Return those of the feed's projector, or the matcher's while the feed is behind."""
        if not tracing.is_on():
            return []
        after, up_to = self.position, events[-1].position
        with suppress(ReadModelUnavailable, Problem):
            found = await self._traces_of_feed(after, up_to)
            if found:
                return found
            async with log_connection(self._engine) as connection:
                noted = await log_traces(connection, self.shard, after=after, up_to=up_to)
            return list(noted.values())
        return []

    async def _traces_of_feed(self, after: int, up_to: int) -> list[str]:
        if self._live is None:
            return []
        model = (self._redis, self._live, self.shard)
        return await read_traces(*model, after=after, up_to=up_to)

    async def _from_feed(self) -> list[DecidedEvent]:
        try:
            live = await self._live_generation()
            events = await read_feed(
                self._redis, live, self.shard, self.position, block_ms=BLOCK_MS
            )
        except (ReadModelUnavailable, Problem) as error:
            logger.debug("The feed is away", extra={"shard": self.shard, "error": str(error)})
            self._live = None
            await asyncio.sleep(WITHOUT_REDIS_S)
            return []
        if not events:
            self._live = None
        return events

    async def _live_generation(self) -> Live:
        # Read again after each failure and each silence: a retired generation gets no more events.
        if self._live is None:
            async with model_connection(self._engine) as connection:
                self._live = await read_live(connection, NAME)
        return self._live


async def events_after(
    engine: AsyncEngine, shard: int, after: int, *, up_to: int
) -> list[DecidedEvent]:
    """Return the next events of the log after a position, at most ``READ_EVENTS_MAX``.

    Raises:
        Problem: 503, the log cannot be read.
    """
    async with log_connection(engine) as connection:
        stored = await read_events(
            connection, shard, after=after, up_to=up_to, limit=READ_EVENTS_MAX
        )
    return [_loaded(event) for event in stored]


def of_instrument(events: Sequence[DecidedEvent], instrument: str) -> list[DecidedEvent]:
    """Return the events of one instrument.

    Raises:
        Problem: 503, one of them cannot be read here.
    """
    found = [d for d in events if getattr(d.event, "instrument", None) == instrument]
    check_readable(found)
    return found


def check_readable(events: Sequence[DecidedEvent]) -> None:
    """Refuse to go on if one of the events cannot be read.

    Raises:
        Problem: 503, one of them is of a later version.
    """
    for decided in events:
        if isinstance(decided.event, Unreadable):
            raise Problem(
                Code.READ_UNAVAILABLE,
                f"The event at {decided.position} is of a later version than this gateway.",
            )


def _loaded(stored: StoredEvent) -> DecidedEvent:
    try:
        return load_event(stored)
    except UnknownEvent as error:
        logger.warning("The stream passes over an event", extra={"error": str(error)})
        instrument = None if stored.type in UNSHOWN else stored.instrument
        event = cast("Event", Unreadable(instrument))
        at = (stored.shard, stored.position)
        return DecidedEvent(*at, event, stored.command_id, stored.kafka_offset)
