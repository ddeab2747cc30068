"""A model in Redis compared with the log: its keys, as of one moment for each shard.

The fold holds all rows of the model; beside them are the stored ones of one shard at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from heapq import nsmallest
from typing import Final

import asyncpg
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from projections.builder.comparing.differences import (
    EXAMPLES_MAX,
    Comparison,
    Difference,
    Digest,
    named,
    only_in_one,
)
from projections.builder.comparing.shadow import GiveWay, Progress, Shadow
from projections.builder.reading import read_parts
from projections.folding import Fold, Row
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.redis import KeptRows, RedisProjection, being_filled, reached_model

TRIES_MAX: Final = 5  # to look at keys of which all are known

Wrong = tuple[Row, Row | None, Row | None]
"""The key of a row that differs, and what is stored and folded of it."""


async def compare_keys(
    log: asyncpg.Connection,
    session: asyncpg.Connection,
    redis: Redis,
    projection: RedisProjection,
    made_by: RedisProjection,
    generation: int,
    skips: Set[tuple[int, int]],
    on_progress: Progress,
    give_way: GiveWay,
) -> Comparison:
    """Compare a model in Redis, one shard after the other, each as of one moment."""
    kept, found = projection.rows, made_by.rows
    assert kept is not None
    assert found is not None
    common = [name for name in kept.columns if name in found.columns]
    shards = sorted(await read_heads(log))
    shadow = Shadow(log, session, projection, skips, on_progress)
    about = await complete_positions(redis, projection, generation, shards)
    await shadow.fold_up_to(about, give_way=give_way)
    compared, different = Digest(), 0
    examples: list[Wrong] = []
    for shard in shards:
        rows = await _read_shard(redis, found, shadow, projection.name, generation, shard)
        on_progress(f"comparing shard {shard}", 0, 0)
        compared.add(rows)
        stored = dict(_keyed(found, common, rows))
        rows.clear()
        wrong = list(_wrong(stored, _keyed(kept, common, _rows(shadow.fold, shard))))
        different += len(wrong)
        examples += nsmallest(EXAMPLES_MAX - len(examples), wrong, key=lambda one: str(one[0]))
    return Comparison(
        projection.name,
        generation,
        shadow.positions,
        compared.rows,
        str(compared),
        different,
        [
            Difference(
                projection.name,
                dict(zip(kept.columns, key, strict=False)),
                named(common, have),
                named(common, want),
                await _last_event(log, projection, kept, skips, key, shadow.positions)
                if number == 0
                else None,
            )
            for number, (key, have, want) in enumerate(examples)
        ],
        sorted(skips),
        only_in_one(projection.name, kept.columns, found.columns),
    )


async def _read_shard(
    redis: Redis, found: KeptRows, shadow: Shadow, name: str, generation: int, shard: int
) -> list[Row]:
    """Return a shard's rows as of one moment, and fold the log up to it."""
    for _ in range(TRIES_MAX):
        known = _instruments(shadow.fold, shard)
        position, rows = await found.read(redis, generation, shard, sorted(known))
        await shadow.fold_up_to({shard: position})
        if _instruments(shadow.fold, shard) <= known:
            return rows
    raise ReadModelUnavailable(f"{name}: instruments come faster than it is read")


def _wrong(stored: dict[Row, Row], folded: Iterator[tuple[Row, Row]]) -> Iterator[Wrong]:
    """Yield what differs; what is stored is taken out as it is compared."""
    for key, want in folded:
        have = stored.pop(key, None)
        if have != want:
            yield key, have, want
    for key, have in stored.items():
        yield key, have, None


async def _last_event(
    log: asyncpg.Connection,
    projection: RedisProjection,
    kept: KeptRows,
    skips: Set[tuple[int, int]],
    key: Row,
    positions: Mapping[int, int],
) -> tuple[int, int, str] | None:
    """Return the last event that the fold applied to a row: the log is read again for it."""
    shard, last = int(str(key[0])), None
    async for part in read_parts(log, projection, skips, shard, 0, positions[shard]):
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
    return {str(row[1]) for row in _rows(fold, shard)}


def _rows(fold: Fold, shard: int) -> Iterator[Row]:
    return (row for rows in fold.rows().values() for row in rows if row[0] == shard)


def _keyed(kept: KeptRows, names: Sequence[str], rows: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield the key of each row, and these columns of it."""
    wanted = [kept.columns.index(name) for name in names]
    return ((row[: kept.key_columns], tuple(row[at] for at in wanted)) for row in rows)
