"""A model in Redis compared with the log: its keys, as of one moment for each shard."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

import asyncpg
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from exchange.log.replay import replay_parts
from projections.builder.comparing.differences import (
    EXAMPLES_MAX,
    Comparison,
    Difference,
    digest_of,
    named,
    only_in_one,
)
from projections.builder.comparing.shadow import Progress, Shadow
from projections.folding import Fold, Row
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.redis import KeptRows, RedisProjection, being_filled, reached_model

TRIES_MAX: Final = 5  # to look at keys of which all are known


async def compare_keys(
    log: asyncpg.Connection,
    redis: Redis,
    projection: RedisProjection,
    made_by: RedisProjection,
    generation: int,
    skips: Set[tuple[int, int]],
    on_progress: Progress,
) -> Comparison:
    """Compare a model in Redis, one shard after the other, each as of one moment."""
    kept, found = projection.rows, made_by.rows
    assert kept is not None
    assert found is not None
    common = [name for name in kept.columns if name in found.columns]
    shards = sorted(await read_heads(log))
    about = await complete_positions(redis, projection, generation, shards)
    shadow = Shadow(log, projection, skips, on_progress)
    await shadow.fold_up_to(about, None, sum(about.values()))
    stored: dict[Row, Row] = {}
    every: list[Row] = []
    for shard in shards:
        for _ in range(TRIES_MAX):
            known = _instruments(shadow.fold, shard)
            position, rows = await found.read(redis, generation, shard, sorted(known))
            await shadow.fold_up_to({shard: position})
            if _instruments(shadow.fold, shard) <= known:
                break
        else:
            raise ReadModelUnavailable(
                f"{projection.name}: instruments come faster than it is read"
            )
        every += rows
        stored |= _by_key(found, common, rows)
    folded = _by_key(kept, common, _rows(shadow.fold))
    different = sorted(
        (key for key in stored.keys() | folded.keys() if stored.get(key) != folded.get(key)),
        key=str,
    )
    examples = [
        Difference(
            projection.name,
            dict(zip(kept.columns, key, strict=False)),
            named(common, stored.get(key)),
            named(common, folded.get(key)),
            await _last_event(log, kept, key, shadow.positions) if number == 0 else None,
        )
        for number, key in enumerate(different[:EXAMPLES_MAX])
    ]
    return Comparison(
        projection.name,
        generation,
        shadow.positions,
        len(every),
        digest_of(every),
        len(different),
        examples,
        sorted(skips),
        only_in_one(projection.name, kept.columns, found.columns),
    )


async def _last_event(
    log: asyncpg.Connection, kept: KeptRows, key: Row, positions: Mapping[int, int]
) -> tuple[int, int, str] | None:
    """Return the last event that changed a row: the log is read again for it."""
    shard, last = int(str(key[0])), None
    async for part in replay_parts(log, shard, after=0, up_to=positions[shard]):
        for position, event in enumerate(part.events, part.first):
            if kept.key_of(event) == key[1:]:
                last = (shard, position, type(event).__name__)
    return last


async def complete_positions(
    redis: Redis, projection: RedisProjection, generation: int, shards: Sequence[int]
) -> dict[int, int]:
    """Return the positions of a model in Redis.

    Raises:
        ReadModelUnavailable: It is not complete on one of the shards.
    """
    positions = await reached_model(redis, projection.name, generation, shards)
    for shard in shards:
        if shard not in positions:
            raise being_filled(projection.name, shard)
    return positions


def _instruments(fold: Fold, shard: int) -> set[str]:
    return {str(row[1]) for row in _rows(fold) if row[0] == shard}


def _rows(fold: Fold) -> list[Row]:
    return [row for rows in fold.rows().values() for row in rows]


def _by_key(kept: KeptRows, names: Sequence[str], rows: Iterable[Row]) -> dict[Row, Row]:
    """Return these columns of rows, by the rows' keys."""
    wanted = [kept.columns.index(name) for name in names]
    return {row[: kept.key_columns]: tuple(row[at] for at in wanted) for row in rows}
