"""How soon does a matcher have its books again, with an engine snapshot and without?

Workload: a log of a million events of the load's mix (30 % at the market, uniform prices, 100
clients), decided by the engine and copied into PostgreSQL with its batches, chain and digests; a
snapshot that leaves a tail of 100,000 events, as many as the default settings let come between
two. Measured is ``Matcher.restore`` whole, on real Kafka and PostgreSQL: the lock, the take-over,
the snapshot, the events, the digest compared, the invariants checked, the seek in Kafka.

The floor is measured in the same run, in turns: the same events are read, and nothing is done.

Not included: starting Python and its imports (about half a second), and a book that is large: a
resting order costs some microseconds more.
"""

import gc
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from bench.made_log import SHARD, write_log
from bench.runner import Findings, Goal, ask, rates_table, rounds_parser
from bench.venue import on_services
from exchange.config import Settings
from exchange.log.replay import PART_EVENTS, READ_LINES
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import Matcher
from exchange.processes.running import GARBAGE_OBJECTS_MAX
from exchange.stack.migrations import migrate
from exchange.stack.services.kafka import ensure_topic
from exchange.transport.commands import KafkaCommandLog


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each round."""

    events: int
    floor_s: list[float] = field(default_factory=list)
    whole_log_s: list[float] = field(default_factory=list)
    snapshot_s: list[float] = field(default_factory=list)


class SilentOutcomes:
    """Fails if anything is published: a restore has no outcomes."""

    async def publish(self, gateway: str, message: bytes) -> None:
        raise AssertionError(f"{gateway} was sent {message!r}")


@asynccontextmanager
async def matcher_on(settings: Settings) -> AsyncIterator[Matcher]:
    """Lend a matcher that has not restored yet."""
    async with AsyncExitStack() as opened:
        commands = await opened.enter_async_context(
            KafkaCommandLog(settings.kafka_bootstrap_servers, settings.kafka_topic, SHARD)
        )
        events = await opened.enter_async_context(PostgresEventStore(settings.database_url, SHARD))
        yield Matcher(SHARD, commands, events, SilentOutcomes())


async def restore_s(settings: Settings) -> float:
    """Restore once."""
    async with matcher_on(settings) as matcher:
        begun_s = time.perf_counter()
        await matcher.restore()
        return time.perf_counter() - begun_s


async def read_s(settings: Settings) -> float:
    """Read all events once, in the parts of a replay, and do nothing with them."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        up_to = await connection.fetchval("select position from head")
        begun_s, after = time.perf_counter(), 0
        while after < up_to:
            part = await connection.fetchrow(READ_LINES, SHARD, after, up_to, PART_EVENTS, [])
            after = part["position"]
        return time.perf_counter() - begun_s
    finally:
        await connection.close()


def measure(events: int, rounds: int) -> Measured:
    """Write a log on services of its own and restore from it."""
    return on_services(lambda settings: _rounds(settings, events, rounds))


async def _rounds(settings: Settings, events: int, rounds: int) -> Measured:
    await migrate(settings.sqlalchemy_url)
    await ensure_topic(settings.kafka_bootstrap_servers, settings.kafka_topic, 1)
    connection = await asyncpg.connect(settings.database_url)
    async with matcher_on(settings) as matcher:
        topic_id = await matcher._commands.topic_id()
    await write_log(connection, topic_id, events)
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX)  # as the process has it
    measured = Measured(await connection.fetchval("select position from head"))
    for _ in range(rounds):
        measured.floor_s.append(await read_s(settings))
        measured.snapshot_s.append(await restore_s(settings))
    await connection.execute("delete from snapshots")
    for _ in range(rounds):
        measured.floor_s.append(await read_s(settings))
        measured.whole_log_s.append(await restore_s(settings))
    await connection.close()
    return measured


def findings(measured: Measured) -> Findings:
    """Return the medians, and how the rates are to reading alone."""
    whole_s = statistics.median(measured.whole_log_s)
    snapshot_s = statistics.median(measured.snapshot_s)
    table = rates_table(
        measured.events,
        {
            "reading alone (floor)": measured.floor_s,
            "restore from the whole log": measured.whole_log_s,
            "restore from a snapshot": measured.snapshot_s,
        },
    )
    return Findings(
        f"{measured.events:,} events",
        [table],
        [
            Goal("restore from the whole log, s", whole_s, 5, at_most=True),
            Goal("restore from a snapshot, s", snapshot_s, 1, at_most=True),
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = rounds_parser(__doc__, events=1_000_000)
    ask(parser, lambda o: measure(o.events, o.rounds), findings)


if __name__ == "__main__":
    main()
