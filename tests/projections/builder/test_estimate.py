"""How long a rebuild takes is told in time: once a tenth is read, and with all of its steps.

The rebuild is slowed on real stores by a pause in each part of the log that is read, or compared,
and by one before the indexes. So its length is known well, and other work on the machine hardly
matters. The rebuild before it was twice as fast: what the last one took has to be scaled.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.replay import replay_parts
from exchange.tools.projections.overview import BuildProgress, read_progress
from projections.builder import build as building
from projections.builder.estimate import STEPS, Pace, first_pace, read_pace, seconds_left
from projections.builder.rows import Tables
from projections.builder.steps import READING
from projections.builder.working import Connect
from tests.projections.builder.test_builder import begin, building_in, until
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

NAME = "trades"
COMMANDS = 400
PART_EVENTS = 7
SAMPLE_S = 0.05
END_S = 120.0


class Sample(Struct, frozen=True):
    """What an operator was told, when."""

    at_s: float
    progress: BuildProgress


class Slowness:
    """Pauses in the steps of a build."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.part_s = self.index_s = 0.0
        index = Tables.index

        async def slow_parts(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for part in replay_parts(*args, **kwargs):
                await asyncio.sleep(self.part_s)
                yield part

        async def slow_index(tables: Tables, *connections: asyncpg.Connection) -> None:
            await asyncio.sleep(self.index_s)
            await index(tables, *connections)

        monkeypatch.setattr("projections.builder.reading.replay_parts", slow_parts)
        monkeypatch.setattr(Tables, "index", slow_index)

    def take(self, total_s: float, events: int) -> None:
        """Let a build take about this long: two fifths for each pass, one for the indexes."""
        self.part_s = total_s * 2 / 5 / (events / PART_EVENTS)
        self.index_s = total_s / 5


@pytest.mark.parametrize(
    ("total_s", "share", "factor"),
    [
        # Beginning, waiting for followers, and whatever stops the machine for a second, is a larger
        # part of it.
        pytest.param(5.0, 1 / 2, 2.0, id="of seconds"),
        pytest.param(40.0, 1 / 10, 1.2, id="of half a minute", marks=pytest.mark.long),
    ],
)
async def test_soon_the_estimate_is_right_to_the_end(
    total_s: float,
    share: float,
    factor: float,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exchange.log.replay.PART_EVENTS", PART_EVENTS)
    monkeypatch.setattr(building, "TELL_S", 0.1)
    slowness = Slowness(monkeypatch)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(31), COMMANDS)
        await catch_up(engine, redis, connection)
        events = await connection.fetchval("select position from head")
        async with building_in(connect, engine, redis):
            slowness.take(total_s / 2, events)
            first = await begin(connection, engine, redis, NAME)
            await watched(connection, first)
            await until(connection, NAME, first, lambda g: g.live)
            slowness.take(total_s, events)
            samples = await watched(connection, await begin(connection, engine, redis, NAME))

    took_s = samples[-1].at_s
    due = [one for one in samples if is_due(one.progress, share)]
    told_s = [(one, one.at_s + (one.progress.left_s or 0.0)) for one in due]
    wrong = [(one, all_s) for one, all_s in told_s if not 1 / factor < all_s / took_s < factor]
    assert took_s > total_s * 0.9
    assert {one.progress.step for one in due} == {*STEPS}
    assert wrong == [], f"it took {took_s:.1f} s"


def is_due(progress: BuildProgress, share: float) -> bool:
    """Tell whether the estimate has to be right by then."""
    if progress.step == READING:
        return progress.done >= progress.wanted * share
    return progress.step in STEPS


async def watched(connection: asyncpg.Connection, generation: int) -> list[Sample]:
    """Return what is told of a build until it is verified; the first sample is at its beginning."""
    samples: list[Sample] = []
    begun_s = None
    async with asyncio.timeout(END_S):
        while True:
            progress = await read_progress(connection, NAME, generation)
            if progress is not None:
                begun_s = begun_s or time.monotonic()
                samples.append(Sample(time.monotonic() - begun_s, progress))
                if progress.step in ("switching", "done"):
                    return samples
            await asyncio.sleep(SAMPLE_S)


async def test_a_build_that_was_too_short_or_ended_early_shows_no_pace(
    connection: asyncpg.Connection,
) -> None:
    long, short = (
        {"reading": 8.0, "indexing": 1.0, "verifying": 6.0},
        {"reading": 0.2, "indexing": 0.1, "verifying": 0.3},
    )
    built = ((2, "done", 2_000_000, long), (3, "done", 10, short), (4, "verifying", 50_000, long))
    for generation, step, done, seconds in built:
        await connection.execute(
            "insert into builds (projection, generation, step, done, wanted, seconds, positions)"
            " values ($1, $2, $3, $4, $4, $5, '{}')",
            NAME,
            generation,
            step,
            done,
            json.dumps(seconds),
        )

    pace = await read_pace(connection, NAME)
    first = await read_pace(connection, NAME, besides=2)

    assert pace == Pace({step: taken / 2 for step, taken in long.items()}, measured=True)
    assert first == first_pace(NAME)


def test_comparing_the_rows_is_told_after_the_log_is_folded_for_it() -> None:
    pace = Pace({"reading": 10.0, "indexing": 2.0, "verifying": 20.0}, measured=True)

    left = seconds_left(
        pace, "verifying", 500, 500, {"reading": 20.0, "indexing": 4.0, "verifying": 30.0}
    )

    assert left == 10.0


def test_a_step_that_takes_longer_than_it_did_is_told_by_what_it_shows() -> None:
    pace = Pace({"reading": 10.0, "indexing": 2.0, "verifying": 10.0}, measured=True)

    left = seconds_left(
        pace, "verifying", 250, 500, {"reading": 10.0, "indexing": 2.0, "verifying": 30.0}
    )

    assert left == 30.0


def test_the_first_moments_of_a_step_tell_nothing_of_the_rest() -> None:
    pace = Pace({"reading": 10.0, "indexing": 2.0, "verifying": 10.0}, measured=True)

    left = seconds_left(
        pace, "verifying", 10, 500, {"reading": 10.0, "indexing": 2.0, "verifying": 1.0}
    )

    assert left == 9.0
