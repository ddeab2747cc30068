"""All generations of all read models at one moment: how far, how fast, and how large they are."""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.table import Table

from exchange.log.reader import read_event_times, read_heads
from exchange.tools.projections.stores import Stores
from projections.builder.estimate import read_pace, seconds_left
from projections.lifecycle.generations import (
    BUILDING,
    FAILED,
    PAUSED,
    RETIRED,
    Generation,
    read_generations,
)
from projections.lifecycle.skips import Skip, read_skips
from projections.stores.checkpoints import ReadModelUnavailable

SAMPLE_S: Final = 1.0  # between two looks at positions, from which a rate is told

READ_BUILD: Final = """
select step, done, wanted, seconds, extract(epoch from clock_timestamp() - told_at)::float as age_s
from builds where projection = $1 and generation = $2
"""

READ_SIZE: Final = """
select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
from pg_class
where relname = any($1::text[]) and relkind = 'r'
"""


class BuildProgress(Struct, frozen=True):
    """How far a build is; ``left_s`` is None if that cannot be told yet."""

    step: str
    done: int
    wanted: int
    rate: float | None
    left_s: float | None
    seconds: dict[str, float]


class GenerationView(Struct, frozen=True):
    """A generation as an operator sees it: positions and lag by shard, sizes in bytes."""

    projection: str
    generation: int
    state: str
    live: bool
    positions: dict[int, int]
    heads: dict[int, int]
    lag_events: int
    lag_seconds: float
    rate: float | None
    left_s: float | None
    fingerprint: str | None
    changed: bool
    fits: bool
    begun_at: datetime | None
    begun_by: str | None
    verified: str | None
    digest: str | None
    failure: str | None
    failed_at: str | None
    size_bytes: int | None
    build: BuildProgress | None = None


class Overview(Struct, frozen=True):
    """All generations that have rows, and the events that definitions pass over."""

    generations: list[GenerationView]
    skips: list[Skip]


async def look(stores: Stores) -> Overview:
    """Look at all generations; at those that are behind twice, to tell their rate."""
    generations = [g for g in await read_generations(stores.connection) if g.state != RETIRED]
    first = await _positions(stores, generations)
    begun_s = time.monotonic()
    heads = await read_heads(stores.connection)
    lags = {key: _lag(at, heads) for key, at in first.items()}
    second = first
    if any(lag and generations_by(generations)[key].state != BUILDING for key, lag in lags.items()):
        await asyncio.sleep(SAMPLE_S)
        second = await _positions(stores, generations)
        heads = await read_heads(stores.connection)
    passed_s = time.monotonic() - begun_s
    views = []
    for generation in generations:
        key = (generation.projection, generation.generation)
        moved = sum(second[key].values()) - sum(first[key].values())
        rate = moved / passed_s if second is not first else None
        views.append(await _view(stores, generation, second[key], heads, rate))
    return Overview(views, await read_skips(stores.connection))


def generations_by(generations: Iterable[Generation]) -> dict[tuple[str, int], Generation]:
    """Return generations by projection and number."""
    return {(one.projection, one.generation): one for one in generations}


async def read_progress(
    connection: asyncpg.Connection, projection: str, generation: int
) -> BuildProgress | None:
    """Return how far a build is, None if no builder has taken it up."""
    row = await connection.fetchrow(READ_BUILD, projection, generation)
    if row is None:
        return None
    seconds: dict[str, float] = json.loads(row["seconds"])
    step, done, wanted = row["step"], row["done"], row["wanted"]
    in_step_s = seconds.get(step)
    pace = await read_pace(connection, projection, besides=generation)
    left_s = seconds_left(pace, step, done, wanted, seconds)
    rate = done / in_step_s if in_step_s and done else None
    return BuildProgress(step, done, wanted, rate, left_s, seconds)


async def read_size(stores: Stores, projection: str, generation: int) -> int | None:
    """Return how many bytes a generation takes; None if its store does not tell."""
    tables = {t.name for d in stores.definitions.of_projection(projection) for t in d.tables}
    if tables:
        names = [f"{table}_g{generation}" for table in tables]
        size: int = await stores.connection.fetchval(READ_SIZE, names)
        return size
    try:
        return await _size_in_redis(stores.redis, projection, generation)
    except RedisError:
        return None


async def _size_in_redis(redis: Redis, projection: str, generation: int) -> int:
    total = 0
    async for key in redis.scan_iter(match=f"{{{projection}:{generation}:*}}:*", count=1_000):
        total += await redis.memory_usage(key) or 0
    return total


async def _positions(
    stores: Stores, generations: Iterable[Generation]
) -> dict[tuple[str, int], dict[int, int]]:
    shards = sorted(await read_heads(stores.connection))
    found: dict[tuple[str, int], dict[int, int]] = {}
    for generation in generations:
        key = (generation.projection, generation.generation)
        definition = stores.definitions.of(generation) or next(
            iter(stores.definitions.of_projection(generation.projection)), None
        )
        try:
            found[key] = (
                {}
                if definition is None
                else await definition.reached(generation.generation, shards)
            )
        except ReadModelUnavailable:
            found[key] = {}
    return found


async def _view(
    stores: Stores,
    generation: Generation,
    positions: dict[int, int],
    heads: dict[int, int],
    rate: float | None,
) -> GenerationView:
    name, number = generation.projection, generation.generation
    lag = _lag(positions, heads)
    build = None
    if generation.is_unfinished:
        build = await read_progress(stores.connection, name, number)
    goes_on = generation.state not in (FAILED, PAUSED)
    if build is not None:
        rate, left_s = build.rate, build.left_s
    else:
        left_s = lag / rate if lag and rate else None
    current = stores.definitions.of_projection(name)
    made_by = stores.definitions.of(generation)
    failed_at = None
    if generation.failed_position is not None:
        failed_at = f"{generation.failed_shard}:{generation.failed_position}"
    return GenerationView(
        projection=name,
        generation=number,
        state=generation.state,
        live=generation.live,
        positions=positions,
        heads=heads,
        lag_events=lag,
        lag_seconds=await _lag_seconds(stores.connection, positions, heads),
        rate=rate if goes_on else None,
        left_s=left_s if goes_on else None,
        fingerprint=generation.fingerprint,
        changed=bool(current) and made_by is not current[0],
        fits=made_by is not None,
        begun_at=generation.created_at,
        begun_by=generation.begun_by,
        verified=generation.verified,
        digest=generation.digest,
        failure=generation.failure,
        failed_at=failed_at,
        size_bytes=await read_size(stores, name, number),
        build=build,
    )


async def _lag_seconds(
    connection: asyncpg.Connection, positions: Mapping[int, int], heads: Mapping[int, int]
) -> float:
    """Return the age of the oldest event that a generation has not seen."""
    next_ones = [
        (shard, positions.get(shard, 0) + 1)
        for shard, head in heads.items()
        if positions.get(shard, 0) < head
    ]
    if not next_ones:
        return 0.0
    times_ms = await read_event_times(connection, next_ones)
    now_ms = datetime.now(UTC).timestamp() * 1000
    return max(0.0, max((now_ms - at for at in times_ms.values()), default=0.0)) / 1000


def _lag(positions: Mapping[int, int], heads: Mapping[int, int]) -> int:
    return sum(max(0, head - positions.get(shard, 0)) for shard, head in heads.items())


def generations_table(overview: Overview) -> Table:
    """Return a row for each generation."""
    table = Table(show_edge=False, box=None)
    for heading in (
        "projection",
        "gen",
        "state",
        "position",
        "lag",
        "rate",
        "left",
        "size",
    ):
        left = heading in ("projection", "state")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for one in overview.generations:
        lag = "" if not one.lag_events else f"{one.lag_events:,} / {one.lag_seconds:.0f} s"
        table.add_row(
            one.projection,
            str(one.generation),
            _state(one),
            f"{sum(one.positions.values()):,}",
            lag or "0",
            "" if one.rate is None else f"{one.rate:,.0f}/s",
            "" if one.left_s is None else f"{one.left_s:.0f} s",
            "" if one.size_bytes is None else sized(one.size_bytes),
        )
    return table


def notes(overview: Overview) -> list[str]:
    """Return a line on each generation of which there is more to say."""
    return [
        f"{one.projection} {one.generation}: {'; '.join(told)}"
        for one in overview.generations
        if (told := list(_notes(one, overview.skips)))
    ]


def sized(size: int) -> str:
    """Return a size as a person reads it."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def _state(one: GenerationView) -> str:
    state = one.state if one.state == "live" or not one.live else f"live, {one.state}"
    colors = {"live": "green", "kept": "dim", "failed": "red", "paused": "yellow"}
    color = colors.get(one.state, "cyan")
    return f"[{color}]{state}[/{color}]"


def _notes(one: GenerationView, skips: Iterable[Skip]) -> Iterable[str]:
    if one.build is not None:
        yield f"{one.build.step}, begun by {one.begun_by}"
    if one.failure is not None:
        yield one.failure
    if not one.fits:
        yield f"built by another definition ({one.fingerprint}): it stands as it is"
    elif one.changed:
        yield "the code has changed since: rebuild"
    passed_over = [s for s in skips if s.projection == one.projection]
    for skip in passed_over:
        if one.fingerprint in (None, skip.fingerprint):
            yield f"without event {skip.shard}:{skip.position} ({skip.reason})"
