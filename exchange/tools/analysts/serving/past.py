"""What a hub is given of history: the events that the time line has told, and books there."""

import asyncio
from typing import Final

import asyncpg
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.reading import answering
from exchange.gateway.stream.feed.shard_feed import ShardFeed
from exchange.gateway.stream.feed.source import Opened
from exchange.log.events import DecidedEvent, UnknownEvent
from exchange.log.moments import Place, moment_at
from exchange.ports import LogCorrupt
from exchange.tools.analysts.serving.timeline import Timeline
from exchange.waiting import is_set_within
from projections import book, ticker
from projections.book import ALL_LEVELS
from projections.past.folded import fold_up_to
from projections.stores.postgres import driver_connection

BLOCK_S: Final = 0.5  # a stream that nobody follows any more ends between two reads
FOLDS_AT_ONCE_MAX: Final = 1  # one has all books of a shard in memory
NEVER: Final = 2**62  # a replay only reads, so it keeps no states of folds


class PastFeed(ShardFeed):
    """The events of a shard up to where the time line is."""

    def __init__(self, engine: AsyncEngine, shard: int, timeline: Timeline) -> None:
        super().__init__(engine, shard)
        self._timeline = timeline

    async def head(self) -> int:
        return self._timeline.positions[self.shard]

    async def read(self) -> list[DecidedEvent]:
        timeline = self._timeline
        if self.position == timeline.positions[self.shard]:
            await is_set_within(timeline.news, BLOCK_S)
        head = timeline.positions[self.shard]
        if self.position == head:
            return []
        recent = timeline.recent.get(self.shard)
        if recent and recent[0].position <= self.position + 1:
            return recent[self.position + 1 - recent[0].position :]
        return await self.history(self.position, up_to=head)


class Past:
    """The source of a hub that replays: books are folded from the log up to the time line.

    The last folds of a shard are kept: after a seek, everybody begins again at the same place.
    """

    def __init__(self, engine: AsyncEngine, timeline: Timeline) -> None:
        self.engine = engine
        self._timeline = timeline
        self._folding = asyncio.Semaphore(FOLDS_AT_ONCE_MAX)
        self._folded: dict[int, _Folded] = {}

    def told(self, shard: int) -> int:
        """Return up to which position of a shard everything was told.

        Raises:
            Problem: 422, the replay is of other shards.
        """
        if shard not in self._timeline.positions:
            shards = ", ".join(map(str, sorted(self._timeline.positions)))
            raise invalid("instrument", f"is of shard {shard}; the replay is of {shards}")
        return self._timeline.positions[shard]

    def feed(self, shard: int) -> ShardFeed:
        """Return the events of a shard.

        Raises:
            Problem: 422, the replay is of other shards.
        """
        self.told(shard)
        return PastFeed(self.engine, shard, self._timeline)

    async def opened(self, listing: Listing) -> Opened:
        """Return the book where the time line is now.

        Raises:
            Problem: 503, the log cannot be read.
        """
        shard = listing.shard
        with answering():
            async with self._folding, driver_connection(self.engine) as connection:
                position = self._timeline.positions[shard]
                try:
                    folded = await self._folded_at(connection, shard, position)
                except (LogCorrupt, UnknownEvent) as error:
                    raise Problem(
                        Code.READ_UNAVAILABLE, f"The replay ends here: {error}"
                    ) from error
        last = folded.trades.last_trade(listing.instrument)
        return Opened(
            book.book_as_of(folded.books, folded.at, listing.instrument, ALL_LEVELS),
            None if last is None else (last.price, last.quantity),
        )

    async def _folded_at(
        self, connection: asyncpg.Connection, shard: int, position: int
    ) -> "_Folded":
        kept = self._folded.get(shard)
        if kept is not None and kept.at.position == position:
            return kept
        self._folded.pop(shard, None)  # one at a time in memory
        at = (await moment_at(connection, {shard: position})).at(shard)
        names = (book.NAME, ticker.NAME)
        folds = await fold_up_to(connection, names, shard, position, every=NEVER)
        books, trades = folds[book.NAME], folds[ticker.NAME]
        assert isinstance(books, book.BookFold)
        assert isinstance(trades, ticker.TickerFold)
        self._folded[shard] = _Folded(at, books, trades)
        return self._folded[shard]


class _Folded(Struct, frozen=True):
    """The books and last trades of a shard at a place."""

    at: Place
    books: book.BookFold
    trades: ticker.TickerFold
