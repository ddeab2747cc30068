"""The feed compared with the log: each entry that its streams have."""

from collections.abc import Set

import asyncpg
from redis.asyncio import Redis

from exchange.log.reader import read_events, read_heads
from projections.builder.comparing.differences import (
    EXAMPLES_MAX,
    Comparison,
    Difference,
    digest_of,
    named,
)
from projections.builder.comparing.keys import complete_positions
from projections.builder.comparing.shadow import Progress
from projections.feed import SKIPPED, feed_entries, feed_entry
from projections.folding import Row
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
    shards = sorted(await read_heads(log))
    positions = await complete_positions(redis, projection, generation, shards)
    rows, different = 0, 0
    examples: list[Difference] = []
    texts: list[Row] = []
    for shard, head in sorted(positions.items()):
        after: int | None = None
        while True:
            entries = await feed_entries(redis, generation, shard, after=after, up_to=head)
            if not entries:
                break
            first, last = entries[0][0], entries[-1][0]
            stored = await read_events(
                log, shard, after=first - 1, up_to=last, limit=last - first + 1
            )
            wanted = [None if (shard, e.position) in skips else feed_entry(e) for e in stored]
            begin = first if after is None else after + 1
            have = dict(entries)
            for position, want in zip(range(first, last + 1), wanted, strict=True):
                found = have.get(position)
                if found != (SKIPPED if want is None else want):
                    different += 1
                    if len(examples) < EXAMPLES_MAX:
                        event = stored[position - first]
                        examples.append(_feed_difference(shard, position, found, want, event.type))
            if begin < first:
                different += first - begin
            rows += len(entries)
            texts += [(shard, position, *entry) for position, entry in entries]
            texts = [(digest_of(texts),)]
            on_progress(rows, rows)
            after = last
    return Comparison(
        projection.name,
        generation,
        positions,
        rows,
        digest_of(texts),
        different,
        examples,
        sorted(skips),
    )


def _feed_difference(
    shard: int, position: int, found: Row | None, wanted: Row | None, kind: str
) -> Difference:
    names = ("data", "command_id", "kafka_offset", "version")
    key = {"shard": shard, "position": position}
    stored, folded = (named(names, row) for row in (found, wanted))
    return Difference("feed", key, stored, folded, (shard, position, kind))
