"""When which event of the log is told: one time line for all who are connected.

Read ``Timeline.run``. The events of all shards are told by time, at the same time by shard. They
are due as the engine's time says, at ``speed`` times its pace; or, at ``max``, as soon as everybody
has room for them. Nothing goes on unless somebody follows an instrument, so a replay begins with
its first subscriber and waits for one that connects again.

There is one time line, not one for each connection: a strategy with two connections, and the person
who watches it, see the same moment. After each chunk of events it waits until all connections have
room. So nobody is too slow for a replay: the slowest sets the pace.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.gateway.stream.feed.shard_feed import events_after
from exchange.gateway.stream.protocol.frames import ReplayView
from exchange.log.documents.text import timestamp
from exchange.log.events import DecidedEvent
from exchange.ports import LogCorrupt
from exchange.waiting import is_set_within
from projections.feed import READ_EVENTS_MAX

# Events told between two looks at everybody's room; their messages fit into a queue with room.
CHUNK_EVENTS: Final = 500
GRACE_S: Final = 0.5  # from the first subscription on: most clients make several

Told = Callable[[], Awaitable[None]]
MaxSpeed = Literal["max"]


class Timeline:
    """Where a replay is.

    Args:
        engine: Connections to the log, which is only read.
        begins: After which position of each shard it begins.
        ends: Up to which position of each shard it goes.
        speed: How much faster than the engine's time, or ``max``.
        paused: Whether it begins paused.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        begins: Mapping[int, int],
        ends: Mapping[int, int],
        *,
        speed: int | MaxSpeed,
        paused: bool,
    ) -> None:
        self._engine = engine
        self.begins, self.ends = dict(begins), dict(ends)
        self.positions = dict(begins)  # up to where each shard's events were told
        self.time_ms: int | None = None  # of the last event that was told
        self.recent: dict[int, list[DecidedEvent]] = {}  # the last that were told
        self.news = asyncio.Event()  # is set, and replaced, when events are told
        self.speed, self._paused = speed, paused
        self.turn = asyncio.Lock()  # who has it finds nothing half told
        self._ahead: dict[int, deque[tuple[int, DecidedEvent]]] = {s: deque() for s in begins}
        self._changed = asyncio.Event()
        self._anchor: tuple[int, int] | None = None  # our time in ns, and the engine's in ms
        self._followed_since_s: float | None = None
        self._has_ended = False
        self._is_followed: Callable[[], bool] = lambda: False
        self._settled: Told
        self._on_end: Callable[[], None]

    def connect(
        self, is_followed: Callable[[], bool], settled: Told, on_end: Callable[[], None]
    ) -> None:
        """Say whether anybody follows, what waits until all have room, and who is told the end."""
        self._is_followed, self._settled, self._on_end = is_followed, settled, on_end

    @property
    def told(self) -> int:
        """How many events were told; less again after going back."""
        return sum(self.positions[shard] - begin for shard, begin in self.begins.items())

    @property
    def whole(self) -> int:
        return sum(self.ends[shard] - begin for shard, begin in self.begins.items())

    @property
    def state(self) -> Literal["waiting", "playing", "paused", "ended"]:
        if self._has_ended:
            return "ended"
        if self._paused:
            return "paused"
        return "playing" if self._is_followed() else "waiting"

    def view(self) -> ReplayView:
        """Return what clients see."""
        return ReplayView(
            self.state,
            self.speed,
            _named(self.begins),
            _named(self.ends),
            _named(self.positions),
            None if self.time_ms is None else timestamp(self.time_ms),
        )

    async def run(self) -> None:
        """Tell events for ever, as they are due.

        Raises:
            Problem: 503, the log cannot be read.
            LogCorrupt: An event is missing.
        """
        while True:
            self._changed.clear()
            async with self.turn:
                wait_s = await self._step()
            if wait_s is None:
                await self._changed.wait()
            else:
                await is_set_within(self._changed, wait_s)

    def look(self) -> None:
        """Note that somebody may have begun or ceased to follow."""
        self._changed.set()

    def halt(self) -> None:
        """Pause; the caller has ``turn``."""
        self._paused = True

    def go_on(self) -> None:
        """Resume; the caller has ``turn``."""
        self._paused, self._anchor = False, None
        self.look()

    def pace(self, speed: int | MaxSpeed) -> None:
        """Set the speed; the caller has ``turn``."""
        self.speed, self._anchor = speed, None
        self.look()

    async def tell_next(self, count: int) -> None:
        """Pause, and tell the next ``count`` events at once; the caller has ``turn``."""
        self.halt()
        while count and not self._has_ended:
            await self._look_ahead()
            events = self._take(min(count, CHUNK_EVENTS), None)
            await self._tell(events)
            count -= len(events)

    def move(self, positions: Mapping[int, int], time_ms: int | None) -> None:
        """Go to other positions; the caller has ``turn``, and lets everybody begin again."""
        self.positions, self.time_ms = dict(positions), time_ms
        self.recent.clear()
        for ahead in self._ahead.values():
            ahead.clear()
        self._anchor, self._has_ended = None, False
        self.look()

    async def _step(self) -> float | None:
        """Tell what is due; return how long until more is, None if only ``look`` brings more."""
        if not self._is_followed():
            self._followed_since_s = self._anchor = None
            return None
        if self._paused or self._has_ended:
            self._anchor = None
            return None
        grace_s = self._grace_s()
        if grace_s > 0:
            return grace_s
        await self._look_ahead()
        events = self._take(CHUNK_EVENTS, self._horizon_ms())
        if not events and self._first() is not None:
            return self._wait_s()
        await self._tell(events)
        return 0.0

    def _grace_s(self) -> float:
        now_s = time.monotonic()
        if self._followed_since_s is None:
            self._followed_since_s = now_s
        return self._followed_since_s + GRACE_S - now_s

    async def _look_ahead(self) -> None:
        """Read the next events of every shard of which none are at hand."""
        for shard, ahead in self._ahead.items():
            after, end = self.positions[shard], self.ends[shard]
            if ahead or after == end:
                continue
            up_to = min(end, after + READ_EVENTS_MAX)
            events = await events_after(self._engine, shard, after, up_to=up_to)
            if len(events) != up_to - after:
                raise LogCorrupt(f"shard {shard}: an event soon after position {after} is missing")
            time_ms = 0
            for decided in events:
                # One of a later version has no time here; it comes with the one before it.
                time_ms = getattr(decided.event, "time_ms", time_ms)
                ahead.append((time_ms, decided))

    def _first(self) -> tuple[int, int] | None:
        """Return time and shard of the next event, None if there is none."""
        return min(
            ((ahead[0][0], shard) for shard, ahead in self._ahead.items() if ahead), default=None
        )

    def _take(self, count: int, horizon_ms: int | None) -> list[DecidedEvent]:
        """Return the next events, none after the horizon, and forget them here.

        A shard that has no more at hand ends them: its next may be earlier than another's.
        """
        found: list[DecidedEvent] = []
        while len(found) < count and (first := self._first()) is not None:
            time_ms, shard = first
            if horizon_ms is not None and time_ms > horizon_ms:
                break
            found.append(self._ahead[shard].popleft()[1])
            self.time_ms = max(time_ms, self.time_ms or 0)
            if not self._ahead[shard] and found[-1].position < self.ends[shard]:
                break
        return found

    def _horizon_ms(self) -> int | None:
        """Return up to which time of the engine events are due; None if all are."""
        if self.speed == "max":
            return None
        now_ns = time.monotonic_ns()
        if self._anchor is None:
            first = self._first()
            begin_ms = self.time_ms if self.time_ms is not None else first and first[0]
            self._anchor = (now_ns, begin_ms or 0)
        since_ns, since_ms = self._anchor
        return since_ms + (now_ns - since_ns) * self.speed // 1_000_000

    def _wait_s(self) -> float:
        first, horizon_ms = self._first(), self._horizon_ms()
        assert first is not None, self.positions
        assert horizon_ms is not None, self.speed
        assert self.speed != "max", horizon_ms
        return max(1, first[0] - horizon_ms) / 1000 / self.speed

    async def _tell(self, events: Sequence[DecidedEvent]) -> None:
        """Let the feeds have events; wait until everybody was offered them and has room again."""
        self.recent = {}
        for decided in events:
            self.recent.setdefault(decided.shard, []).append(decided)
            self.positions[decided.shard] = decided.position
        news, self.news = self.news, asyncio.Event()
        news.set()
        await self._settled()
        if self.positions == self.ends:
            self._has_ended = True
            self._on_end()


def _named(positions: Mapping[int, int]) -> dict[str, int]:
    return {str(shard): position for shard, position in sorted(positions.items())}
