"""How long does a question about a moment wait for its answer, anywhere in the log?

Workload: a log of a million events (``--events``), on PostgreSQL of the benchmark's own: orders
that rest beyond the prices of all others (``--resting``, 100,000), then the load's mix (that of
``bench.made_log``). The read models that are asked are built, and the states of folds are kept, as
the analysts' process keeps them. Each round asks every question at moments of its own, one question
at a time, each begun anew as a request is.

The limit is measured in the same run, in turns: as many events as can be between two kept states
are read and decoded, and nothing is done with them. No fold can be sooner than that, at worst.

Not included: HTTP, making JSON of the answer, questions at once, several shards, a load beside it.
"""

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Final

import asyncpg
from msgspec import Struct

from bench.made_log import SHARD, write_log
from bench.rebuild import (
    TOPIC_ID,
    Taken,
    Venue,
    begin_empty,
    rebuild,
    seconds_of,
)
from bench.runner import Findings, Goal, ask, histogram, p99, rounds_parser, table_of
from bench.venue import on_services, tell
from exchange.config import Settings
from exchange.log.moments import moment_at
from exchange.log.replay import replay_parts
from exchange.processes.pool import engine_of
from exchange.processes.running import GARBAGE_OBJECTS_MAX, redis_client
from exchange.stack.migrations import migrate
from projections import orders, positions, settlement, vwap
from projections.lifecycle.definitions import Definitions
from projections.past.folded import FOLDED, fold_up_to
from projections.past.past import Past
from projections.past.states import STATE_EVENTS
from projections.registry import all_projections

INSTRUMENT: Final = "BTC-USD"
CLIENT: Final = "load-7"
RESTING: Final = 100_000
MOMENTS: Final = 20  # of each question in a round
LEVELS: Final = 100
ORDERS: Final = 100
MINUTES: Final = 100

Question = Callable[[Past], Awaitable[object]]


async def _analytics(past: Past) -> object:
    last = past.moment.now_ms // vwap.MINUTE_MS
    first = last - MINUTES + 1
    return await past.buckets(SHARD, INSTRUMENT, first=first, last=last, interval=1, limit=MINUTES)


async def _settlement(past: Past) -> object:
    return await past.obligations(await past.open_cycle(), limit=ORDERS)


QUESTIONS: Final[dict[str, Question]] = {
    "book": lambda past: past.book(SHARD, INSTRUMENT, LEVELS),
    "orders": lambda past: past.orders(CLIENT, limit=ORDERS),
    "positions": lambda past: past.positions(CLIENT),
    "ticker": lambda past: past.ticker(SHARD, INSTRUMENT),
    "analytics": _analytics,
    "settlement": _settlement,
}


class Measured(Struct):
    """Seconds of each question and of the limit, and the bytes of the largest state of each."""

    events: int
    resting: int
    limit_s: list[float]
    states: dict[str, int]
    answers_s: dict[str, list[float]]


def measure(events: int, rounds: int, resting: int) -> Measured:
    """Write a log on services of its own and ask about it."""
    return on_services(lambda settings: _rounds(settings, events, rounds, resting), kafka=False)


async def _rounds(settings: Settings, events: int, rounds: int, resting: int) -> Measured:
    await migrate(settings.sqlalchemy_url)
    async with AsyncExitStack() as opened:
        connection = await asyncpg.connect(settings.database_url)
        opened.callback(connection.terminate)
        engine = await opened.enter_async_context(engine_of(settings, 8))
        redis = await opened.enter_async_context(redis_client(settings))
        definitions = Definitions(all_projections(engine, redis))
        venue = Venue(settings, connection, engine, redis, definitions)
        await write_log(connection, TOPIC_ID, events, resting=resting)
        await connection.execute("insert into log (id) values ($1)", TOPIC_ID)
        head: int = await connection.fetchval("select position from head")
        for name in (orders.NAME, positions.NAME, settlement.NAME, vwap.NAME):
            await begin_empty(venue, name)
            await rebuild(venue, name, Taken())
            tell(f"{name} is built")
        await fold_up_to(connection, list(FOLDED), SHARD, head)
        await connection.execute("vacuum analyze")
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS_MAX)  # as the process has it
        measured = Measured(head, resting, [], await _states(connection), {})
        chance = Random(2)
        for number in range(rounds):
            await _round(venue, measured, chance)
            tell(f"round {number + 1} of {rounds} is done")
        return measured


async def _round(venue: Venue, measured: Measured, chance: Random) -> None:
    head = measured.events

    async def read_alone() -> None:
        async for _ in replay_parts(
            venue.connection, SHARD, after=max(0, head - STATE_EVENTS), up_to=head
        ):
            pass

    measured.limit_s.append(await seconds_of(read_alone))
    for name, question in QUESTIONS.items():
        taken = measured.answers_s.setdefault(name, [])
        for _ in range(MOMENTS):
            begun_s = time.perf_counter()
            moment = await moment_at(venue.connection, {SHARD: chance.randint(1, head)})
            await question(Past(venue.engine, moment, 1))
            taken.append(time.perf_counter() - begun_s)


async def _states(connection: asyncpg.Connection) -> dict[str, int]:
    rows = await connection.fetch(
        "select projection, max(length(state)) from fold_states group by 1 order by 1"
    )
    return dict(rows)


P99_WANTED_S: Final = 1.0


def findings(measured: Measured) -> Findings:
    """Return the median, 99th percentile and worst of each question, and the limit."""
    table = table_of("", "median ms", "p99 ms", "worst ms", "state kB")
    limit_ms = 1000 * statistics.median(measured.limit_s)
    worst_ms = 1000 * max(measured.limit_s)
    table.add_row("events between two states (limit)", f"{limit_ms:.0f}", "", f"{worst_ms:.0f}", "")
    p99_s = {name: p99(seconds) for name, seconds in measured.answers_s.items()}
    for name, seconds in measured.answers_s.items():
        row = (statistics.median(seconds), p99_s[name], max(seconds))
        size = measured.states.get({"analytics": vwap.NAME}.get(name, name))
        kept = "" if size is None else f"{size / 1000:,.0f}"
        table.add_row(name, *(f"{1000 * s:.0f}" for s in row), kept)
    slowest = max(p99_s, key=lambda name: p99_s[name])
    taken_ms = (1_000 * s for s in measured.answers_s[slowest])
    return Findings(
        f"{measured.events:,} events, {measured.resting:,} resting",
        [table],
        [Goal("the slowest question's p99, s", p99_s[slowest], P99_WANTED_S, at_most=True)],
        [histogram(taken_ms, f"How long answers took: {slowest}")],
    )


def main() -> None:
    """Measure and print."""
    parser = rounds_parser(__doc__, events=1_000_000)
    parser.add_argument("--resting", type=int, default=RESTING)
    ask(parser, lambda o: measure(o.events, o.rounds, o.resting), findings)


if __name__ == "__main__":
    main()
