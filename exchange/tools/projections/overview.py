"""All generations of all read models at one moment: how far, how fast, and how large they are."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg
from msgspec import Struct, structs
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.table import Table

from exchange.log.reader import read_event_times, read_heads
from exchange.tools.projections.stores import Stores
from exchange.tools.terminal import compact_table, printable, sized
from projections.builder.estimate import STEPS, read_pace, seconds_left
from projections.builder.steps import VERIFYING
from projections.lifecycle.generations import (
    BUILDING,
    FAILED,
    KEPT,
    LIVE,
    PAUSED,
    RETIRED,
    Generation,
    read_generations,
)
from projections.lifecycle.operations import DIFFERS, PAUSE, OperationRow, read_holding
from projections.lifecycle.skips import Skip, read_skips
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.redis import RedisProjection, read_filling

SAMPLE_S: Final = 1.0  # between two looks at positions, from which a rate is told
SILENT_S: Final = 10.0  # a builder tells of a build twice a second, but not while it builds others
BEHIND_EVENTS_MIN: Final = 2_000  # one batch of a follower; what is less may come with the next

READ_BUILD: Final = """
select step, done, wanted, seconds,
    extract(epoch from clock_timestamp() - told_at)::float as silent_s
from builds where projection = $1 and generation = $2
"""

READ_SIZE: Final = """
select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
from pg_class
where relname = any($1::text[]) and relkind = 'r'
"""


SizeOf = Callable[[Stores, str, int], Awaitable[int | None]]
"""Tells how many bytes a generation of a projection takes."""


class BuildProgress(Struct, frozen=True):
    """How far a build is; ``left_s`` is None if that cannot be told yet.

    ``silent_s`` is for how long no builder has told of it.
    """

    step: str
    done: int
    wanted: int
    rate: float | None
    left_s: float | None
    seconds: dict[str, float]
    silent_s: float = 0.0

    @property
    def is_comparing(self) -> bool:
        """Whether all events are folded, and only rows are still compared with what they gave."""
        return self.step == VERIFYING and bool(self.wanted) and self.done >= self.wanted

    @property
    def doing(self) -> str:
        """What is done now, in words."""
        return "comparing rows" if self.is_comparing else self.step


class GenerationView(Struct, frozen=True):
    """A generation as an operator sees it: positions and heads by shard, sizes in bytes.

    ``replaces`` is the live generation from which it takes over by itself when it is verified.
    ``filling`` has the positions from which on a model in Redis is complete again, by shard. The
    lag is None if its store does not tell where it is.
    """

    projection: str
    generation: int
    state: str
    live: bool
    positions: dict[int, int]
    filling: dict[int, int]
    heads: dict[int, int]
    lag_events: int | None
    lag_seconds: float | None
    rate: float | None
    left_s: float | None
    falls_behind: bool
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
    replaces: int | None = None


class Overview(Struct, frozen=True):
    """All generations that have rows, the events that definitions pass over, and what holds them.

    ``holding`` has the pauses that have not ended, and comparisons that found wrong rows.
    """

    generations: list[GenerationView]
    skips: list[Skip]
    holding: list[OperationRow] = []


class Moment(Struct, frozen=True):
    """Where a generation and the log are, by shard, and up to where it is being filled.

    It ``is_known`` unless the store of the generation does not tell.
    """

    at_s: float
    positions: dict[int, int]
    filling: dict[int, int]
    heads: dict[int, int]
    is_known: bool = True

    @property
    def lag(self) -> int:
        """How many events it has not seen."""
        return sum(max(0, head - self.positions.get(s, 0)) for s, head in self.heads.items())


class Headway(Struct, frozen=True):
    """How fast a generation follows the log, from two looks at it.

    ``rate`` counts the events that it applies in a second. ``left_s`` is how long it takes until
    it has caught up with the log, which grows meanwhile; None if its lag does not shrink.
    """

    rate: float | None = None
    left_s: float | None = None
    falls_behind: bool = False


def headway_between(first: Moment, second: Moment) -> Headway:
    """Return how fast a generation follows, from what was seen of it twice."""
    passed_s = second.at_s - first.at_s
    if passed_s <= 0 or not (first.is_known and second.is_known):
        return Headway()
    rate = (sum(second.positions.values()) - sum(first.positions.values())) / passed_s
    shrunk = first.lag - second.lag
    left_s = second.lag / (shrunk / passed_s) if second.lag and shrunk > 0 else None
    return Headway(rate, left_s, falls_behind=shrunk < 0 and second.lag > BEHIND_EVENTS_MIN)


async def look(stores: Stores, size_of: SizeOf | None = None) -> Overview:
    """Look at all generations; at those that are behind twice, to tell their rate.

    ``size_of`` tells how many bytes one takes, for who looks often; by default it is measured.
    """
    first = await read_moments(stores)
    second = first
    if any(at.lag and generation.state != BUILDING for generation, at in first):
        await asyncio.sleep(SAMPLE_S)
        second = await _moments(stores, [generation for generation, _ in first])
    views = [
        await _view(stores, generation, now, headway_between(before, now), size_of or read_size)
        for (generation, before), (_, now) in zip(first, second, strict=True)
    ]
    skips = await read_skips(stores.connection)
    return Overview(views, skips, await read_holding(stores.connection))


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
    progress = BuildProgress(step, done, wanted, rate, left_s, seconds, row["silent_s"])
    # How long rows are compared was guessed from the last build: nothing left of that says nothing.
    is_overdue = progress.is_comparing and not left_s
    return structs.replace(progress, left_s=None) if is_overdue else progress


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


async def read_moments(stores: Stores) -> list[tuple[Generation, Moment]]:
    """Return all generations that have rows, and where each is."""
    generations = [g for g in await read_generations(stores.connection) if g.state != RETIRED]
    return await _moments(stores, generations)


async def _moments(
    stores: Stores, generations: Iterable[Generation]
) -> list[tuple[Generation, Moment]]:
    """Return where each generation is; the log is read after them, so their lag is no less."""
    shards = sorted(await read_heads(stores.connection))
    found = [(one, time.monotonic(), await _places(stores, one, shards)) for one in generations]
    heads = await read_heads(stores.connection)
    return [
        (one, Moment(at_s, {}, {}, heads, is_known=False))
        if places is None
        else (one, Moment(at_s, *places, heads))
        for one, at_s, places in found
    ]


async def _places(
    stores: Stores, generation: Generation, shards: Sequence[int]
) -> tuple[dict[int, int], dict[int, int]] | None:
    """Return a generation's positions by shard, and the targets of those that are being filled.

    None if its store does not tell.
    """
    of_projection = stores.definitions.of_projection(generation.projection)
    definition = stores.definitions.of(generation) or next(iter(of_projection), None)
    if definition is None:
        return None
    try:
        positions = await definition.reached(generation.generation, shards)
        if not isinstance(definition, RedisProjection):
            return positions, {}
        place = (generation.projection, generation.generation, shards)
        filling = await read_filling(stores.redis, *place)
    except ReadModelUnavailable:
        return None
    targets = {shard: target for shard, (_, target) in filling.items()}
    return {**positions, **{shard: at for shard, (at, _) in filling.items()}}, targets


async def _view(
    stores: Stores, generation: Generation, now: Moment, headway: Headway, size_of: SizeOf
) -> GenerationView:
    name, number = generation.projection, generation.generation
    build = None
    if generation.is_unfinished:
        build = await read_progress(stores.connection, name, number)
    if build is not None and build.step in STEPS:
        headway = Headway(build.rate, build.left_s)
    elif generation.state in (BUILDING, FAILED, PAUSED):
        headway = Headway()
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
        positions=now.positions,
        filling=now.filling,
        heads=now.heads,
        lag_events=now.lag if now.is_known else None,
        lag_seconds=await _lag_seconds(stores.connection, now) if now.is_known else None,
        rate=headway.rate,
        left_s=headway.left_s,
        falls_behind=headway.falls_behind,
        fingerprint=generation.fingerprint,
        changed=bool(current) and made_by is not current[0],
        fits=made_by is not None,
        begun_at=generation.created_at,
        begun_by=generation.begun_by,
        verified=generation.verified,
        digest=generation.digest,
        failure=generation.failure,
        failed_at=failed_at,
        size_bytes=await size_of(stores, name, number),
        build=build,
        replaces=generation.replaces,
    )


async def _lag_seconds(connection: asyncpg.Connection, now: Moment) -> float:
    """Return the age of the oldest event that a generation has not seen."""
    next_ones = [
        (shard, now.positions.get(shard, 0) + 1)
        for shard, head in now.heads.items()
        if now.positions.get(shard, 0) < head
    ]
    if not next_ones:
        return 0.0
    times_ms = await read_event_times(connection, next_ones)
    now_ms = datetime.now(UTC).timestamp() * 1000
    return max(0.0, max((now_ms - at for at in times_ms.values()), default=0.0)) / 1000


def generations_table(overview: Overview) -> Table:
    """Return a row for each generation."""
    table = compact_table()
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
        table.add_column(
            heading,
            justify="left" if heading in ("projection", "state") else "right",
            no_wrap=heading not in ("lag", "rate", "left"),  # these may take two lines
            overflow="fold",
        )
    for one in overview.generations:
        table.add_row(
            one.projection,
            str(one.generation),
            _state(one),
            "?" if one.lag_events is None else f"{sum(one.positions.values()):,}",
            _lag(one),
            _rate(one),
            _left(one),
            "" if one.size_bytes is None else sized(one.size_bytes),
        )
    return table


def notes(overview: Overview) -> list[str]:
    """Return a line on each generation of which there is more to say."""
    return [
        f"{one.projection} {one.generation}: {'; '.join(told)}"
        for one in overview.generations
        if (told := list(_notes(one, overview)))
    ]


def _made(one: GenerationView) -> str:
    """Return how far a build is and who asked for it; and if its builder may be gone."""
    by = f"begun by {printable(one.begun_by or '')}"
    if one.build is None:
        since = "" if one.begun_at is None else f" since {one.begun_at:%Y-%m-%d %H:%M:%SZ}"
        return f"waits for a builder{since}, {by}"
    told = f"{one.build.doing}, {by}"
    if one.state != BUILDING or one.build.silent_s < SILENT_S:
        return told
    return f"{told}, nothing heard of it for {one.build.silent_s:,.0f} s"


def _made_otherwise(one: GenerationView) -> str:
    """Return what this build does with a generation that its present definition did not make."""
    if not one.fits:
        return f"built by another definition ({one.fingerprint}): it stands as it is"
    if one.state == KEPT:
        return f"by the definition before ({one.fingerprint})"
    return "the code has changed since: rebuild"


def _held(held: OperationRow) -> str:
    told = {PAUSE: "paused by", DIFFERS: "differs from the log, as was found by"}[held.action]
    why = f": {printable(held.reason)}" if held.reason else ""
    return f"{told} {printable(held.operator)} at {held.at:%Y-%m-%d %H:%M:%SZ}{why}"


def _state(one: GenerationView) -> str:
    state = one.state if one.state == LIVE or not one.live else f"{LIVE}, {one.state}"
    if one.filling:
        state = f"{state}, filling"
    colors = {LIVE: "green", KEPT: "dim", FAILED: "red", PAUSED: "yellow"}
    color = "yellow" if one.filling else colors.get(one.state, "cyan")
    return f"[{color}]{state}[/{color}]"


def _lag(one: GenerationView) -> str:
    if one.lag_events is None or one.lag_seconds is None:
        return "?"
    return f"{one.lag_events:,} / {one.lag_seconds:.0f} s" if one.lag_events else "0"


def _rate(one: GenerationView) -> str:
    """Return how fast events are applied, and by whom: a builder reads many times as fast."""
    if one.rate is None:
        return ""
    who = "builder" if one.build is not None and one.build.step in STEPS else "follower"
    return f"{who} {one.rate:,.0f}/s"


def _left(one: GenerationView) -> str:
    if one.falls_behind:
        return "[red]falls behind[/red]"
    return "" if one.left_s is None else f"{one.left_s:.0f} s"


def _notes(one: GenerationView, overview: Overview) -> Iterable[str]:
    if one.state == BUILDING or (one.build is not None and one.failure is None):
        yield _made(one)
    for held in overview.holding:
        if (held.projection, held.to_generation) == (one.projection, one.generation):
            yield _held(held)
    for shard, target in sorted(one.filling.items()):
        yield f"filling shard {shard}: at {one.positions[shard]:,} of {target:,}"
    if one.failure is not None:
        again = f"exchange retry {one.projection} --generation {one.generation}"
        yield f"{one.failure} (once it is mended: {again})"
    if one.changed or not one.fits:
        yield _made_otherwise(one)
    passed_over = [s for s in overview.skips if s.projection == one.projection]
    for skip in passed_over:
        if one.fingerprint in (None, skip.fingerprint):
            yield f"without event {skip.shard}:{skip.position} ({skip.reason})"
