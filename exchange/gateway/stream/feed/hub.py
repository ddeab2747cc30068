"""Subscriptions to instruments, each served by the stream of its shard."""

import asyncio
from collections.abc import Callable, Collection

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.reading import Freshness
from exchange.gateway.stream.feed.history import HistoryTurns
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.gateway.stream.feed.shard_stream import ShardStream
from exchange.gateway.stream.feed.source import Source
from exchange.gateway.stream.feed.subscriptions import Outlet
from exchange.gateway.stream.protocol.messages import Channel


class Hub:
    """All subscriptions of a gateway."""

    def __init__(
        self,
        engine: AsyncEngine,
        freshness: Freshness,
        source: Source,
    ) -> None:
        self._source = source
        self._known = KnownOrders(engine, freshness)
        self._turns = HistoryTurns()
        self._shards: dict[int, ShardStream] = {}
        self._starting = asyncio.Lock()

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
        """Let a connection follow channels of an instrument.

        Args:
            outlet: The connection; what it followed of these channels before ends.
            listing: The instrument.
            channels: What to follow.
            client_id: The client whose orders are followed, None for everybody's.
            from_sequence: The sequence after which messages are wanted, None for "now".
            announce: Is called with the sequence after which messages follow, before the first.

        Raises:
            Problem: 503, a read model or the log cannot be read; 422, the sequence is not reached.
        """
        shard = await self._shard(listing.shard)
        await shard.subscribe(outlet, listing, channels, client_id, from_sequence, announce)

    def unsubscribe(self, outlet: Outlet, listing: Listing, channels: frozenset[Channel]) -> None:
        """End a connection's subscriptions to channels of an instrument."""
        shard = self._shards.get(listing.shard)
        if shard is not None:
            shard.unsubscribe(outlet, listing.instrument, channels)

    def leave(self, outlet: Outlet) -> None:
        """Forget a connection."""
        for shard in self._shards.values():
            shard.leave(outlet)

    async def refresh_book(self, outlet: Outlet, instrument: str) -> None:
        """Offer the book as it is now to a connection that missed changes."""
        for shard in list(self._shards.values()):
            await shard.refresh_book(outlet, instrument)

    def reached(self, outlet: Outlet, names: Collection[str]) -> dict[str, int]:
        """Return up to which sequence a connection was offered everything, by instrument.

        ``names`` are the instruments that it follows, if it does.
        """
        return {
            name: sequence
            for shard in self._shards.values()
            for name, sequence in shard.reached(outlet, names)
        }

    async def settled(self) -> None:
        """Wait until connections were offered all that the feeds had when this was called."""
        for shard in list(self._shards.values()):
            await shard.settled()

    @property
    def is_followed(self) -> bool:
        """Whether a connection follows anything."""
        return any(shard.is_followed for shard in self._shards.values())

    async def stop(self) -> None:
        """End all tasks; the next subscription begins anew."""
        for shard in self._shards.values():
            await shard.stop()
        self._shards.clear()

    async def _shard(self, number: int) -> ShardStream:
        async with self._starting:
            shard = self._shards.get(number)
            if shard is None or shard.has_ended:
                shard = ShardStream(
                    self._source, self._source.feed(number), self._known, self._turns
                )
                await shard.start()
                self._shards[number] = shard
            return shard
