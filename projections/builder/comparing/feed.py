"""The feed compared with the log: each entry of its streams, up to the checkpoint.

Where a stream begins is not compared: Redis drops its oldest entries while it is read, and a feed
that was begun anew has only the newest. From there on an entry is wanted for every position.
"""

from collections.abc import Set

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis

from exchange.log.events import UnknownEvent
from exchange.log.reader import read_every_event, read_heads
from exchange.log.replay import Undecodable
from exchange.ports import StoredEvent
from projections.builder.comparing.differences import (
    EXAMPLES_MAX,
    Comparison,
    Difference,
    Digest,
    named,
)
from projections.builder.comparing.keys import complete_positions
from projections.builder.comparing.shadow import Progress
from projections.feed import (
    READ_EVENTS_MAX,
    SKIPPED,
    feed_entries,
    feed_entry,
    first_entry,
)
from projections.folding import Row
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.redis import RedisProjection


async def compare_feed(
    log: asyncpg.Connection,
    redis: Redis,
    projection: RedisProjection,
    generation: int,
    skips: Set[tuple[int, int]],
    on_progress: Progress,
) -> Comparison:
    """Compare each entry of the feed, which has the newest events, with the log."""
    work = ComparedFeed(log, redis, projection, generation, skips)
    shards = sorted(await read_heads(log))
    await complete_positions(redis, projection, generation, shards)
    positions: dict[int, int] = {}
    for shard in shards:
        positions[shard] = await work.compare_shard(shard, on_progress)
    return Comparison(
        projection.name,
        generation,
        positions,
        work.compared.rows,
        str(work.compared),
        work.different,
        work.examples,
        sorted(skips),
    )


class Page(Struct, frozen=True):
    """Entries by position, and the positions of which there should be entries."""

    begin: int
    end: int
    entries: dict[int, Row]


class ComparedFeed:
    """What is found of a feed's streams."""

    def __init__(
        self,
        log: asyncpg.Connection,
        redis: Redis,
        projection: RedisProjection,
        generation: int,
        skips: Set[tuple[int, int]],
    ) -> None:
        self.compared = Digest()
        self.different = 0
        self.examples: list[Difference] = []
        self._log = log
        self._redis = redis
        self._projection = projection
        self._generation = generation
        self._skips = skips

    async def compare_shard(self, shard: int, on_progress: Progress) -> int:
        """Compare a shard's stream up to its checkpoint, and return that position.

        Raises:
            ReadModelUnavailable: Redis lost the feed.
        """
        head = await self._complete(shard)
        first = after = None
        while after is None or after < head:
            page = await self._page(shard, after, head)
            first = page.begin if first is None else first
            await self._compare(shard, page)
            after = page.end
            on_progress(f"comparing shard {shard}", after - first + 1, head - first + 1)
        return head

    async def _complete(self, shard: int) -> int:
        found = await complete_positions(self._redis, self._projection, self._generation, [shard])
        return found[shard]

    async def _page(self, shard: int, after: int | None, head: int) -> Page:
        """Return the next entries up to ``head``, and from where to where there should be some."""
        place = (self._redis, self._generation, shard)
        found = await feed_entries(*place, after=after, up_to=head)
        begin = found[0][0] if found else head + 1
        end = found[-1][0] if len(found) == READ_EVENTS_MAX else head
        page = Page(begin, end, dict(found))
        if found if after is None else begin == after + 1:
            return page
        oldest = await first_entry(*place)
        if oldest is None or oldest <= (after or 0):
            await self._complete(shard)  # it raises if Redis has lost the feed meanwhile
            begin = self._newest_kept(head) if after is None else after + 1
            return Page(begin, end, page.entries)
        # Older entries than those that were found are gone: the feed drops them as it grows.
        if after is None:
            raise ReadModelUnavailable("feed: events come faster than it is read")
        return page

    def _newest_kept(self, head: int) -> int:
        """Return where a feed that is at ``head`` begins at the latest."""
        events_max = self._projection.events_max
        return 1 if events_max is None else max(0, head - events_max) + 1

    async def _compare(self, shard: int, page: Page) -> None:
        self.compared.add((shard, at, *entry) for at, entry in page.entries.items())
        for begin in range(page.begin, page.end + 1, READ_EVENTS_MAX):
            end = min(page.end, begin + READ_EVENTS_MAX - 1)
            for event in await read_every_event(self._log, shard, after=begin - 1, up_to=end):
                is_skipped = (shard, event.position) in self._skips
                want = None if is_skipped else _wanted(event)
                have = page.entries.get(event.position)
                if have != (want or SKIPPED):
                    self._note(event, have, want)

    def _note(self, event: StoredEvent, have: Row | None, want: Row | None) -> None:
        self.different += 1
        if len(self.examples) >= EXAMPLES_MAX:
            return
        names = ("data", "command_id", "kafka_offset", "version")
        key = {"shard": event.shard, "position": event.position}
        last = (event.shard, event.position, event.type)
        stored, folded = (named(names, row) for row in (have, want))
        self.examples.append(Difference("feed", key, stored, folded, last))


def _wanted(event: StoredEvent) -> Row:
    try:
        return feed_entry(event)
    except UnknownEvent as error:
        raise Undecodable(event, error) from error
