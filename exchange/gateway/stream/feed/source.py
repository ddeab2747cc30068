"""Where subscribers' events and books come from: the exchange as it is, or its history.

A hub asks a ``Source``. ``Live`` is the running exchange; a replay has one of its own.
"""

from typing import Protocol

from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.reading import Freshness, answering, model_connection, moment_connection
from exchange.gateway.stream.feed.shard_feed import LiveFeed, ShardFeed
from projections import book as books
from projections import trades
from projections.book import ALL_LEVELS, StoredBook, read_book
from projections.stores.checkpoints import read_live


class Opened(Struct, frozen=True):
    """A book, and the price and quantity of the last trade at it, or of a later one."""

    book: StoredBook
    last_trade: tuple[int, int] | None


class Source(Protocol):
    """What a hub asks."""

    def feed(self, shard: int) -> ShardFeed:
        """Return the events of a shard, not started yet."""
        ...

    async def opened(self, listing: Listing) -> Opened:
        """Return the book of an instrument as it is now.

        Raises:
            Problem: 503, it cannot be read.
        """
        ...


class Live:
    """The exchange as it is: the feed and the books in Redis, trades in Postgres.

    A feed holds a connection while it waits, which is one of ``feed_redis``.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        redis: Redis,
        freshness: Freshness,
        feed_redis: Redis | None = None,
    ) -> None:
        self._engine = engine
        self._redis = redis
        self._feed_redis = feed_redis or redis
        self._freshness = freshness

    def feed(self, shard: int) -> ShardFeed:
        return LiveFeed(self._engine, self._feed_redis, shard)

    async def opened(self, listing: Listing) -> Opened:
        async with model_connection(self._engine) as connection:
            live = await read_live(connection, books.NAME)
        with answering():
            view = await read_book(self._redis, live, listing.shard, listing.instrument, ALL_LEVELS)
        await self._freshness.reach(trades.NAME, {listing.shard: view.position})
        async with moment_connection(self._engine) as connection:
            live = await read_live(connection, trades.NAME)
            last = await trades.list_trades(connection, live, listing.instrument, limit=1)
        return Opened(view, (last[0].price, last[0].quantity) if last else None)
