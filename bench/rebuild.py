"""How fast is each read model rebuilt, beside reading and decoding the log alone?

Workload: a log of a million events of the load's mix (``bench.made_log``), on PostgreSQL and
Valkey of the benchmark's own, with nothing else to do. Each read model has a live generation. Each
round builds another one, compares it with the log and switches to it, as the builder's process
does. What the feed keeps is written by a projector: it is measured from the wish to the last event.

The limit is measured in the same run, before each build: the same events are read and decoded, and
nothing is done with them. A build's time is from its first read of the log to attached tables with
their indexes, or to the keys in Valkey; the comparison and the switch are apart. A switch keeps
followers from writing to the former generation; readers are not held up by it at all.

Not included: a load beside it (``bench.rebuild_beside``), several shards, the start of Python.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.made_log import SHARD, write_log
from bench.runner import Findings, Goal, ask, rounds_parser, spread, table_of
from bench.venue import on_services, tell
from exchange.config import Settings
from exchange.log.replay import replay_parts
from exchange.processes.builder import GARBAGE, SESSION
from exchange.processes.pool import engine_of
from exchange.processes.running import redis_client
from exchange.stack.migrations import migrate
from projections.builder.build import Build
from projections.builder.comparing.compare import compare
from projections.builder.giving_way import GivingWay
from projections.feed import NAME as FEED
from projections.lifecycle.changes import (
    By,
    begin_rebuild,
    ensure_generation,
    mark_verified,
    retire,
)
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import Generation, generations_of
from projections.lifecycle.retiring import drop
from projections.lifecycle.switching import switch as switch_to
from projections.projector.projector import run_projector
from projections.registry import READ_MODELS, Projection, all_projections

TOPIC_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # of a topic that nobody reads here
OPERATOR: Final = By("bench", "to see how long it takes")
FEED_POLL_S: Final = 0.01
FEED_TIMEOUT_S: Final = 60.0


@dataclass(slots=True)
class Taken:
    """Seconds of each round of one read model."""

    limit_s: list[float] = field(default_factory=list)
    build_s: list[float] = field(default_factory=list)
    steps_s: list[dict[str, float]] = field(default_factory=list)
    compare_s: list[float] = field(default_factory=list)
    switch_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The build's rate as a part of the limit, the median of the rounds' own."""
        pairs = zip(self.limit_s, self.build_s, strict=True)
        return statistics.median(limit / build for limit, build in pairs)


@dataclass(slots=True)
class Measured:
    """What was measured of how many events."""

    events: int
    models: dict[str, Taken]


@dataclass(frozen=True, slots=True)
class Venue:
    """The stores, and what the builder's process has."""

    settings: Settings
    connection: asyncpg.Connection
    engine: AsyncEngine
    redis: Redis
    definitions: Definitions[Projection]

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.settings.database_url, server_settings=SESSION)

    def of(self, name: str) -> Projection:
        return self.definitions.of_projection(name)[0]

    def build_of(self, definition: Projection, generation: Generation) -> Build:
        giving_way = GivingWay(self.definitions)
        return Build(self.connect, self.redis, definition, generation, giving_way)


async def read_alone(venue: Venue, up_to: int) -> None:
    """Read and decode the log, and do nothing with it."""
    connection = await venue.connect()
    try:
        async for _ in replay_parts(connection, SHARD, after=0, up_to=up_to):
            pass
    finally:
        connection.terminate()


async def begin_empty(venue: Venue, name: str) -> None:
    """Make a live generation that has seen nothing; nobody follows it."""
    definition = venue.of(name)
    tables = [table.name for table in definition.tables]
    await ensure_generation(venue.connection, name, definition.fingerprint, tables)
    await switch_to(venue.connection, venue.definitions.all, name, 1, OPERATOR, unverified=True)


async def rebuild(venue: Venue, name: str, taken: Taken) -> None:
    """Build, compare and switch a generation, and delete the former one."""
    definition, connection = venue.of(name), venue.connection
    number = await begin_rebuild(connection, name, definition.fingerprint, OPERATOR)
    generation = (await generations_of(connection, name))[-1]
    build = venue.build_of(definition, generation)
    taken.build_s.append(await seconds_of(build.run))
    taken.steps_s.append(dict(build.seconds))
    log, session = await venue.connect(), await venue.connect()
    begun_s = time.perf_counter()
    found = await compare(log, session, venue.redis, definition, number)
    taken.compare_s.append(time.perf_counter() - begun_s)
    log.terminate()
    session.terminate()
    assert found.different == 0, f"{name} differs from the log: {found.examples}"
    await mark_verified(connection, name, number, found.at, found.digest)

    async def switch() -> None:
        await switch_to(connection, venue.definitions.all, name, number, OPERATOR)

    taken.switch_s.append(await seconds_of(switch))
    await retire(connection, name, number - 1, OPERATOR)
    tables = [table.name for table in definition.tables]
    await drop(connection, venue.redis, tables, name, number - 1)


async def rebuild_feed(venue: Venue, taken: Taken) -> None:
    """Let a projector fill a generation of the feed with the newest events that it keeps."""
    definition, connection = venue.of(FEED), venue.connection

    async def filled() -> None:
        number = await begin_rebuild(connection, FEED, definition.fingerprint, OPERATOR)
        generation = (await generations_of(connection, FEED))[-1]
        await venue.build_of(definition, generation).run()
        await _until_filled(venue, number)

    taken.build_s.append(await seconds_of(filled))
    number = (await generations_of(connection, FEED))[-1].generation
    log, session = await venue.connect(), await venue.connect()
    begun_s = time.perf_counter()
    found = await compare(log, session, venue.redis, definition, number)
    taken.compare_s.append(time.perf_counter() - begun_s)
    log.terminate()
    session.terminate()
    assert found.different == 0, f"the feed differs from the log: {found.examples}"
    await mark_verified(connection, FEED, number, found.at, found.digest)

    async def switch() -> None:
        await switch_to(connection, venue.definitions.all, FEED, number, OPERATOR)

    taken.switch_s.append(await seconds_of(switch))


async def seconds_of(work: Callable[[], Awaitable[None]]) -> float:
    """Return how long something took."""
    begun_s = time.perf_counter()
    await work()
    return time.perf_counter() - begun_s


def measure(events: int, rounds: int, names: list[str]) -> Measured:
    """Write a log on services of its own and rebuild from it."""
    return on_services(lambda settings: _rounds(settings, events, rounds, names), kafka=False)


async def _rounds(settings: Settings, events: int, rounds: int, names: list[str]) -> Measured:
    await migrate(settings.sqlalchemy_url)
    async with AsyncExitStack() as opened:
        connection = await asyncpg.connect(settings.database_url)
        opened.callback(connection.terminate)
        engine = await opened.enter_async_context(engine_of(settings, 8))
        redis = await opened.enter_async_context(redis_client(settings))
        definitions = Definitions(all_projections(engine, redis))
        venue = Venue(settings, connection, engine, redis, definitions)
        await write_log(connection, TOPIC_ID, events)
        await connection.execute("insert into log (id) values ($1)", TOPIC_ID)
        await connection.execute("checkpoint")
        gc.freeze()
        gc.set_threshold(*GARBAGE)  # as the process has it
        up_to = await connection.fetchval("select position from head")
        measured = Measured(up_to, {name: Taken() for name in names})
        for name in names:
            await begin_empty(venue, name)
        for _ in range(rounds):
            for name in names:
                taken = measured.models[name]
                taken.limit_s.append(await seconds_of(lambda: read_alone(venue, up_to)))
                if name != FEED:
                    await rebuild(venue, name, taken)
                    tell(f"{name}: {taken.build_s[-1]:.2f} s, limit {taken.limit_s[-1]:.2f} s")
        if FEED in names:
            await _feed_rounds(venue, rounds, measured.models[FEED])
        return measured


async def _until_filled(venue: Venue, generation: int) -> None:
    head = await venue.connection.fetchval("select position from head")
    async with asyncio.timeout(FEED_TIMEOUT_S):
        while True:
            reached = await venue.of(FEED).reached(generation, [SHARD])
            if reached.get(SHARD) == head:
                return
            await asyncio.sleep(FEED_POLL_S)


async def _feed_rounds(venue: Venue, rounds: int, taken: Taken) -> None:
    projector = asyncio.create_task(run_projector(venue.engine, venue.redis))
    try:
        await _until_filled(venue, 1)
        for _ in range(rounds):
            await rebuild_feed(venue, taken)
    finally:
        projector.cancel()
        await asyncio.wait([projector])


WANTED: Final = {"orders": 0.2, "trades": 0.2}  # of the limit's rate; of all others a half
FEED_WANTED_S: Final = 2.0
SWITCH_WANTED_MS: Final = 10.0


def findings(measured: Measured) -> Findings:
    """Return the medians, and which part of the limit's rate each build has."""
    table = table_of(
        "", "events/s", "of the limit", "build s", "indexes s", "compare s", "switch ms, worst"
    )
    limits = [s for taken in measured.models.values() for s in taken.limit_s]
    limit_s = statistics.median(limits)
    row = (f"{measured.events / limit_s:,.0f}", "1.00", spread(limits, 2), "", "", "")
    table.add_row("limit", *row)
    goals = []
    for name, taken in measured.models.items():
        build_s = statistics.median(taken.build_s)
        indexing = [steps.get("indexing", 0.0) for steps in taken.steps_s]
        is_whole = name != FEED
        table.add_row(
            name,
            f"{measured.events / build_s:,.0f}" if is_whole else "",
            f"{taken.ratio:.2f}" if is_whole else "",
            spread(taken.build_s, 2),
            f"{statistics.median(indexing):.2f}" if is_whole else "",
            f"{statistics.median(taken.compare_s):.2f}",
            f"{max(taken.switch_s) * 1000:.1f}",
        )
        if is_whole:
            goals.append(Goal(f"{name}, of the limit", taken.ratio, WANTED.get(name, 0.5)))
        else:
            goals.append(Goal(f"{name}, s", build_s, FEED_WANTED_S, at_most=True))
    worst_ms = 1000 * max(s for taken in measured.models.values() for s in taken.switch_s)
    goals.append(Goal("the worst switch, ms", worst_ms, SWITCH_WANTED_MS, at_most=True))
    return Findings(f"{measured.events:,} events", [table], goals)


def main() -> None:
    """Measure and print."""
    parser = rounds_parser(__doc__, events=1_000_000)
    parser.add_argument("--only", nargs="+", choices=READ_MODELS, default=list(READ_MODELS))
    ask(parser, lambda o: measure(o.events, o.rounds, o.only), findings)


if __name__ == "__main__":
    main()
