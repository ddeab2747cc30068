"""The history of an instrument for subscribers that resume, in slices of messages.

Read ``History.slice``. A subscriber that reads all history makes more work than any other. So a
gateway reads two slices at a time, its readers take turns, and a turn is given back after as much
pause as the slice took processor time, which leaves half of the gateway to trading. History does
not change, so slices are kept: hundreds of readers of the same history cost little more than one.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Struct

from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.listings import Listing
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.gateway.stream.feed.renderer import Clients, Renderer
from exchange.gateway.stream.feed.shard_feed import ShardFeed, of_instrument
from exchange.gateway.stream.protocol.frames import Frame
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.events import DecidedEvent

SLICE_EVENTS: Final = 200  # events; reading and writing them takes some 10 ms
SLICES_AT_ONCE_MAX: Final = 2  # each takes one of some ten connections to the database
KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
READERS_MAX: Final = 1_000  # each may queue a megabyte


class Chapter(Struct, frozen=True):
    """What a reader reads: a channel of an instrument, of one client or of everybody."""

    listing: Listing
    channel: Channel
    clients: Clients


class Slice(Struct, frozen=True):
    """The messages up to ``position``; ``sequence`` is that of the last message so far."""

    frames: Sequence[Frame]
    position: int
    sequence: int

    @property
    def size_bytes(self) -> int:
        return sum(len(frame.text) for frame in self.frames)


_Key = tuple[str, Channel, Clients, int, int]


class HistoryTurns:
    """Counts the readers of a gateway and gives them turns."""

    def __init__(self) -> None:
        self._readers = 0
        self._turns = asyncio.Semaphore(SLICES_AT_ONCE_MAX)

    def begin(self, readers: int) -> None:
        """Count more readers, each of which must call ``end``.

        Raises:
            Problem: 503, there are too many readers.
        """
        if readers and self._readers + readers > READERS_MAX:
            raise Problem(Code.BUSY, "Too many subscribers read history here; try again later.")
        self._readers += readers

    def end(self) -> None:
        """Note that one reader has ended."""
        self._readers -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; give it back after a pause as long as the processor time it took."""
        async with self._turns:
            began_s = time.thread_time()
            yield
            await asyncio.sleep(time.thread_time() - began_s)


class History:
    """The history of one shard."""

    def __init__(self, feed: ShardFeed, known: KnownOrders, turns: HistoryTurns) -> None:
        self.turns = turns
        self._feed = feed
        self._known = known
        self._kept: OrderedDict[_Key, Slice] = OrderedDict()
        self._kept_bytes = 0

    async def slice(self, chapter: Chapter, after: int, sequence: int) -> Slice:
        """Return the next messages after a position; none beyond the feed's position.

        Args:
            chapter: What is read.
            after: The reader has had everything up to this position.
            sequence: The sequence of the last message before.

        Raises:
            Problem: 503, the log or the orders cannot be read.
        """
        key = (chapter.listing.instrument, chapter.channel, chapter.clients, after, sequence)
        if key in self._kept:
            await asyncio.sleep(0)  # lets other coroutines run
            return self._recalled(key)
        async with self.turns.turn():
            if key in self._kept:  # another reader made it while this one waited
                return self._recalled(key)
            made = await self._made(chapter, after, sequence)
            if made.position - after == SLICE_EVENTS:
                self._keep(key, made)
            return made

    async def _made(self, chapter: Chapter, after: int, sequence: int) -> Slice:
        events = await self._events(after)
        mine = of_instrument(events, chapter.listing.instrument)
        renderer = Renderer(chapter.listing, after=sequence)
        if chapter.channel is Channel.ORDERS:
            known = await self._known.learn(mine)
            frames = renderer.orders(mine, known, (chapter.clients,)).get(chapter.clients, [])
        else:
            frames = renderer.trades(mine)
        position = events[-1].position if events else after
        return Slice(frames, position, frames[-1].sequence if frames else sequence)

    async def _events(self, after: int) -> Sequence[DecidedEvent]:
        newest = self._feed.newest(after)
        if newest is not None:
            return newest[:SLICE_EVENTS]
        # The log may be ahead of the feed. Events beyond the feed's position come from the feed
        # later, so they are not read here.
        up_to = min(after + SLICE_EVENTS, self._feed.position)
        return await self._feed.history(after, up_to=up_to)

    def _recalled(self, key: _Key) -> Slice:
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: _Key, made: Slice) -> None:
        self._kept[key] = made
        self._kept_bytes += made.size_bytes
        while self._kept_bytes > KEPT_BYTES_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.size_bytes
