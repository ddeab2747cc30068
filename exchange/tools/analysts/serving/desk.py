"""What clients may do to a replay, and what it refuses.

A seek moves the time line for everybody. Nobody can mistake what follows for what came before:
every subscription begins again with ``subscribed``, which has the new sequence, and books and
tickers with a fresh snapshot.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import assert_never

import typer
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.parts.admission import Origin
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.reading import Freshness, log_connection
from exchange.gateway.stream.desk import EnteredAnswer, greeting
from exchange.gateway.stream.feed.hub import Hub
from exchange.gateway.stream.feed.subscriptions import Outlet
from exchange.gateway.stream.protocol.frames import Connected, ReplayChanged, Replayed
from exchange.gateway.stream.protocol.messages import (
    BatchMessage,
    CancelAllMessage,
    CancelMessage,
    Channel,
    Control,
    Message,
    Pause,
    PlaceOrderMessage,
    Resume,
    Seek,
    Speed,
    Step,
    decode_message,
)
from exchange.gateway.stream.session import Session
from exchange.log.moments import Moment
from exchange.tools.analysts.serving.past import Past
from exchange.tools.analysts.serving.timeline import Timeline
from exchange.tools.moments import moment_of
from exchange.tools.terminal import ToolError


class ReplayHub(Hub):
    """The subscriptions to a replay.

    ``joining`` keeps a seek, which ends all streams, away from subscriptions that are under way.
    """

    def __init__(
        self, engine: AsyncEngine, freshness: Freshness, past: Past, timeline: Timeline
    ) -> None:
        super().__init__(engine, freshness, past)
        self.joining = asyncio.Lock()
        self._timeline = timeline

    async def subscribe(
        self,
        outlet: Outlet,
        listing: Listing,
        channels: frozenset[Channel],
        *,
        client_id: str | None,
        from_sequence: int | None,
        announce: Callable[[int], None],
    ) -> None:
        async with self.joining:
            await super().subscribe(
                outlet,
                listing,
                channels,
                client_id=client_id,
                from_sequence=from_sequence,
                announce=announce,
            )
        self._timeline.look()

    async def refresh_book(self, outlet: Outlet, instrument: str) -> None:
        async with self.joining:
            await super().refresh_book(outlet, instrument)


class ReplayDesk:
    """The desk of a replay; ``sessions`` is everybody who is connected."""

    def __init__(
        self,
        engine: AsyncEngine,
        timeline: Timeline,
        hub: ReplayHub,
        sessions: Callable[[], Iterable[Session]],
    ) -> None:
        self._engine = engine
        self._timeline = timeline
        self._hub = hub
        self._sessions = sessions

    def connected(self, timestamp: str) -> Connected:
        return replace(greeting(timestamp), replay=self._timeline.view())

    def decode(self, text: bytes) -> Message:
        return decode_message(text, of_replay=True)

    async def charge(self, client_id: str | None, origin: Origin) -> None:
        """Spend nothing: who replays reads a log of their own."""

    async def place(self, message: PlaceOrderMessage, origin: Origin) -> EnteredAnswer:
        del message, origin
        raise read_only()

    async def cancel(self, message: CancelMessage, origin: Origin) -> EnteredAnswer:
        del message, origin
        raise read_only()

    async def cancel_all(self, message: CancelAllMessage, origin: Origin) -> EnteredAnswer:
        del message, origin
        raise read_only()

    async def batch(self, message: BatchMessage, origin: Origin) -> EnteredAnswer:
        del message, origin
        raise read_only()

    async def steer(self, message: Control) -> Struct:
        """Steer the time line of all who are connected, and return where it is."""
        moment = await self._moment(message.to) if isinstance(message, Seek) else None
        async with self._timeline.turn:
            match message:
                case Pause():
                    self._timeline.halt()
                case Resume():
                    self._timeline.go_on()
                case Step():
                    await self._timeline.tell_next(message.events)
                case Speed():
                    self._timeline.pace(message.speed)
                case Seek():
                    assert moment is not None
                    await self._seek(moment)
                case _:
                    assert_never(message)
            return ReplayChanged(self._timeline.view())

    def end(self) -> None:
        """Tell everybody that the replay has ended."""
        for session in self._sessions():
            session.tell(Replayed(self._timeline.view()))

    async def settled(self) -> None:
        """Wait until everybody was offered what was told, and has room for more."""
        await self._hub.settled()
        for session in list(self._sessions()):
            await session.room()

    async def _moment(self, text: str) -> Moment:
        """Return the moment that a text names, within the replay.

        A shard that it puts before or after the replay's part of it goes to the nearer end.

        Raises:
            Problem: 422, it is none, or no shard is within; 503, the log cannot be read.
        """
        try:
            async with log_connection(self._engine) as connection:
                moment = await moment_of(connection, text, "")
        except (ToolError, typer.BadParameter) as error:
            raise invalid("to", str(error)) from error
        begins, ends = self._timeline.begins, self._timeline.ends
        places = {shard: moment.at(shard) for shard in begins}
        if not any(begins[one.shard] <= one.position <= ends[one.shard] for one in places.values()):
            raise invalid("to", "is outside of what is replayed")
        for shard, place in places.items():
            within = min(max(place.position, begins[shard]), ends[shard])
            places[shard] = replace(place, position=within)
        return Moment(places, moment.now_ms)

    async def _seek(self, moment: Moment) -> None:
        sessions = list(self._sessions())
        async with self._hub.joining:
            for session in sessions:
                self._hub.leave(session)
            await self._hub.stop()
            self._timeline.move(moment.positions, moment.now_ms or None)
        for session in sessions:
            try:
                await session.begin_again()
            except Problem as problem:
                session.failed(problem)


def read_only() -> Problem:
    """Return the answer to whatever would change something."""
    return Problem(
        Code.REPLAY_READ_ONLY,
        "This is a replay of the log: nothing was done. Orders go to the exchange.",
        outcome="none",
    )
