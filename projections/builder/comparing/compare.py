"""Comparing a generation with the log, row by row, at one position.

Read ``compare``. The log is folded into a shadow up to about where the generation is. Then the
generation is looked at as of one moment, the few events since are folded too, and every row is
compared. So the moment is held for the comparison, not for the fold.

The same comparison with another definition than the one that built the generation is a dry run: it
counts what would change.
"""

from collections.abc import Set

import asyncpg
from redis.asyncio import Redis

from projections.builder.comparing.differences import Comparison
from projections.builder.comparing.feed import compare_feed
from projections.builder.comparing.keys import compare_keys
from projections.builder.comparing.shadow import GiveWay, Progress, never_pause
from projections.builder.comparing.tables import ComparedTables
from projections.registry import Projection
from projections.stores.postgres import PostgresProjection
from projections.stores.redis import RedisProjection


async def compare(
    log: asyncpg.Connection,
    session: asyncpg.Connection,
    redis: Redis,
    projection: Projection,
    generation: int,
    *,
    made_by: Projection | None = None,
    skips: Set[tuple[int, int]] = frozenset(),
    on_progress: Progress = lambda _what, _done, _of: None,
    give_way: GiveWay = never_pause,
) -> Comparison:
    """Compare every row of a generation with the fold of the log.

    Args:
        log: A connection that reads the log.
        session: Another one: for the shadow, and for the moment that is looked at.
        redis: The store of some of the models.
        projection: The definition whose fold is compared.
        generation: The generation.
        made_by: The definition that built the generation, if it is another one.
        skips: The events that the fold passes over, by shard and position.
        on_progress: Told how far it is.
        give_way: Called after each part of the log, but not while the moment is held.

    Raises:
        CannotFold: The definition cannot apply an event.
        LogCorrupt: An event is missing.
        ReadModelUnavailable: The generation is not complete.
        TooManyRows: The fold outgrows its memory.
        Undecodable: An event was written by another version of the software.
    """
    if isinstance(projection, PostgresProjection):
        assert made_by is None or isinstance(made_by, PostgresProjection)
        work = ComparedTables(log, session, projection, made_by or projection, generation)
        return await work.compare(skips, on_progress, give_way)
    assert made_by is None or isinstance(made_by, RedisProjection)
    if projection.fold is None:
        return await compare_feed(log, redis, projection, generation, skips, on_progress)
    made = made_by or projection
    return await compare_keys(
        log, session, redis, projection, made, generation, skips, on_progress, give_way
    )
