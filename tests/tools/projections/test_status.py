"""What the status says of generations and stores, from the stores alone."""

import json
import random

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import load_event
from exchange.tools.projections import overview
from exchange.tools.projections.overview import Headway, Moment, headway_between
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import batch_of, projection_of
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import read_log
from tests.tools.projections.conftest import NOBODY, Command

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("applied", "came", "expected"),
    [
        pytest.param(4_000, 5_000, Headway(4_000.0, None, falls_behind=True), id="falls behind"),
        pytest.param(5_000, 5_000, Headway(5_000.0, None), id="keeps its distance"),
        pytest.param(6_000, 5_000, Headway(6_000.0, 99.0), id="comes nearer"),
        pytest.param(105_000, 5_000, Headway(105_000.0, None), id="is there"),
    ],
)
def test_what_is_left_is_told_by_how_the_lag_shrinks(
    applied: int, came: int, expected: Headway
) -> None:
    first = Moment(10.0, {0: 50_000, 1: 0}, {}, {0: 100_000, 1: 50_000})
    second = Moment(11.0, {0: 50_000 + applied, 1: 0}, {}, {0: 100_000 + came, 1: 50_000})
    if applied > 100_000:
        second = Moment(11.0, {0: 105_000, 1: 50_000}, {}, {0: 105_000, 1: 50_000})

    assert headway_between(first, second) == expected


def test_the_events_of_a_moment_are_no_falling_behind() -> None:
    first = Moment(10.0, {0: 1_000}, {}, {0: 1_100})
    second = Moment(11.0, {0: 6_000}, {}, {0: 6_400})

    assert headway_between(first, second) == Headway(5_000.0, None)


async def test_a_model_that_is_being_filled_is_told_from_one_that_nobody_fills(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "SAMPLE_S", 0.1)
    async with LogWriter.open(database_url) as writer:
        async with projector():
            await writer.append(registrations(0))
            await writer.append_random(random.Random(42), 50)
            await catch_up(engine, redis, connection)
        head = writer.position
    await redis.flushdb()
    book = projection_of(engine, redis, "book")
    events = [load_event(stored) for stored in await read_log(connection)]
    await book.resume(1, 0)
    await book.apply(1, batch_of(events[:20]))

    text = await command("status")
    document = json.loads((await command("status", "--json")).out)

    found = {one["projection"]: one for one in document["generations"]}
    assert (found["book"]["positions"], found["book"]["filling"]) == ({"0": 20}, {"0": head})
    assert found["book"]["lag_events"] == head - 20
    assert (found["ticker"]["positions"], found["ticker"]["filling"]) == ({}, {})
    assert (found["orders"]["positions"], found["orders"]["filling"]) == ({"0": head}, {})
    assert f"book 1: filling shard 0: at 20 of {head}" in text.out
    assert "live, filling" in text.out
    assert document["memory"]["used_bytes"] > 0
    assert "\nRedis " in text.out


async def test_a_model_whose_store_is_away_is_not_said_to_lag(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    command: Command,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)

    nowhere = NOBODY.replace("http", "redis")
    text = await command("status", REDIS_URL=nowhere)
    document = await command("status", "--json", REDIS_URL=nowhere)

    found = {one["projection"]: one for one in json.loads(document.out)["generations"]}
    assert (found["book"]["lag_events"], found["book"]["lag_seconds"]) == (None, None)
    assert found["orders"]["lag_events"] == 0
    (book,) = (line for line in text.out.splitlines() if line.startswith("book "))
    assert book.split() == ["book", "1", "live", "?", "?"]
    assert "Redis does not answer: where its models are is not known" in text.out
