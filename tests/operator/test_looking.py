"""What the desk shows, and what it refuses, on real stores."""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.operator import trends, watching
from exchange.operator.takeovers import TOLD_MAX, TakeOvers
from exchange.operator.trends import SAMPLES_MAX, Trends
from exchange.tools.projections import status
from exchange.tools.projections.overview import Moment
from projections.lifecycle.generations import LIVE, Generation
from tests.operator.conftest import Desk
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio


async def state(desk: httpx.AsyncClient) -> dict[str, Any]:
    answer = await desk.get("/state")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_state_is_that_of_the_status_with_trends_and_what_could_not_be_asked(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trends, "EVERY_S", 0.05)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(42), 30)
        await catch_up(engine, redis, connection)
        async with desk() as client:
            first = await state(client)
            await asyncio.sleep(0.3)
            found = await state(client)

    assert found["allows_changes"] is False
    assert [one["position"] for one in found["logs"]] == [writer.position]
    of = {one["projection"]: one for one in found["generations"]}
    assert (of["book"]["positions"], of["book"]["live"]) == ({"0": writer.position}, True)
    assert {one["action"] for one in found["operations"]} >= {"begin", "switch"}
    assert [(one["epoch"], one["shard"]) for one in found["takeovers"]] == [(1, 0)]
    assert "No exchange answers at http://127.0.0.1:1" in found["problems"][0]
    assert found["trends"]["generations"]["book 1"]["position"][-1] == writer.position
    assert len(found["trends"]["at_ms"]) >= len(first["trends"]["at_ms"]) >= 1


async def test_who_has_the_state_already_gets_none(desk: Desk) -> None:
    async with desk() as client:
        first = await client.get("/state")
        again = await client.get("/state", headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


async def test_an_old_state_is_not_told_as_the_present_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = asyncio.Event()
    look = status.look_inside

    async def looking(*arguments: Any) -> Any:
        if silent.is_set():
            await asyncio.sleep(60)
        return await look(*arguments)

    monkeypatch.setattr(watching, "look_inside", looking)
    monkeypatch.setattr(watching, "FRESH_S", 0.5)
    monkeypatch.setattr(watching, "FIRST_LOOK_S", 1.0)
    async with desk() as client:
        await state(client)
        silent.set()
        await asyncio.sleep(1.0)
        answer = await client.get("/state")

    assert (answer.status_code, answer.json()["code"]) == (503, "read.unavailable")


async def test_while_nobody_watches_nothing_is_looked_at(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = status.look_inside

    async def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(*arguments)

    monkeypatch.setattr(watching, "look_inside", counted)
    monkeypatch.setattr(watching, "WATCHED_S", 0.3)
    async with desk() as client:
        await asyncio.sleep(0.5)
        assert looks == 0
        await state(client)
        await asyncio.sleep(1.5)
        seen = looks
        await asyncio.sleep(1.5)
        assert looks == seen >= 1


async def test_a_size_is_measured_again_when_the_state_of_its_generation_changes(
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    desk: Desk,
) -> None:
    def size_of(found: dict[str, Any]) -> int:
        (book,) = [one for one in found["generations"] if one["projection"] == "book"]
        size: int = book["size_bytes"]
        return size

    async with projector():
        await catch_up(engine, redis, connection)
    await redis.set("{book:1:0}:first", "x")
    async with desk(allows_changes=True) as client:
        first = size_of(await state(client))
        await redis.set("{book:1:0}:second", "y" * 1_000)
        paused = await client.post("/projections/book/pause", json={"expect_live": 1})
        async with asyncio.timeout(5):  # not after a minute
            while size_of(await state(client)) == first:
                await asyncio.sleep(0.1)

    assert first > 0
    assert paused.status_code == 200, paused.text


async def test_a_desk_ends_though_a_store_drops_the_cancellation(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = asyncio.Event()
    look = status.look_inside

    async def dropping(*arguments: Any) -> Any:
        looking.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return await look(*arguments)

    monkeypatch.setattr(watching, "look_inside", dropping)
    async with asyncio.timeout(20), desk() as client:
        asking = asyncio.create_task(client.get("/state"))
        await looking.wait()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "desk.example"}, 421, "request.host"),
        ({"Host": "127.0.0.1.example:3950"}, 421, "request.host"),
        ({"Host": ""}, 421, "request.host"),
        ({"Host": "localhost:3950"}, 200, None),
        ({"Host": "[::1]:3950"}, 200, None),
    ],
)
async def test_only_an_address_names_the_desk(
    desk: Desk, headers: dict[str, str], status: int, code: str | None
) -> None:
    async with desk() as client:
        answer = await client.get("/state", headers=headers)

    assert answer.status_code == status
    assert code is None or answer.json()["code"] == code


async def test_a_desk_that_only_shows_takes_no_change(desk: Desk) -> None:
    async with desk() as client:
        for path in ("/projections/book/pause", "/state", "/nothing"):
            answer = await client.post(path, json={"expect_live": 1})
            assert (answer.status_code, answer.json()["code"]) == (403, "operator.read_only")


async def test_a_part_of_the_log_is_compared_with_the_chain_that_was_written(
    database_url: str, connection: asyncpg.Connection, desk: Desk
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        for seed in range(3):
            await writer.append_random(random.Random(seed), 10)
        head = writer.position
        async with desk() as client:
            ends = await connection.fetchval("select array_agg(position order by 1) from batches")
            around = [
                (await client.get(f"/batches?position={at}")).json() for at in (1, 2, 3, head)
            ]
            whole = (await client.get(f"/chain?after=3&up_to={head - 1}")).json()
            beyond = await client.get(f"/chain?after=3&up_to={head + 1}")
            # Somebody with all rights: the trigger would refuse it.
            await connection.execute("alter table events disable trigger user")
            await connection.execute(
                "update events set kafka_offset = kafka_offset + 1 where position = 6"
            )
            changed = (await client.get(f"/chain?after=3&up_to={head - 1}")).json()
            await connection.execute("delete from events where position = 6")
            missing = (await client.get(f"/chain?after=3&up_to={head - 1}")).json()

    assert [(one["before"], one["after"], one["ends"]) for one in around] == [
        (0, 2, 2),
        (0, ends[1], 2),
        (2, ends[1], ends[1]),
        (ends[-2], None, head),
    ]
    assert around[1]["epoch"] == 1
    assert (whole["failure"], len(whole["chain"])) == (None, 64)
    assert whole["checked_after"] <= 3
    assert whole["checked_up_to"] >= head - 1
    assert (beyond.status_code, beyond.json()["field"]) == (422, "up_to")
    assert "is not as it was written" in changed["failure"]
    assert missing["failure"] is not None


async def test_without_a_place_to_see_traces_there_are_their_ids(
    connection: asyncpg.Connection, desk: Desk
) -> None:
    await connection.execute("insert into traces values (0, 1, '00-ab-cd-01')")
    async with desk() as client:
        found = await client.get("/traces?after=0&up_to=5")
        beyond = await client.get("/traces?after=0&up_to=1001")

    assert found.json() == {"shard": 0, "traces": {"1": {"trace_id": "ab", "url": None}}}
    assert beyond.status_code == 422


async def test_the_past_is_asked_of_the_analysts_process(desk: Desk) -> None:
    async with desk() as client:
        answer = await client.get("/events?after=0:1")

    assert (answer.status_code, answer.json()["code"]) == (503, "past.unavailable")


async def test_take_overs_are_found_wherever_epochs_begin(connection: asyncpg.Connection) -> None:
    rng = random.Random(7)
    expected, position = [], 0
    for epoch in sorted(rng.sample(range(1, 100), TOLD_MAX + 5)):
        for batch in range(rng.choice([1, 2, 30])):
            position += rng.choice([1, 2, 500])
            await connection.execute(
                "insert into batches (shard, position, epoch, next_offset, chain, state_digest)"
                " values (0, $1, $2, $1, '', '')",
                *(position, epoch),
            )
            if batch == 0:
                expected.append((epoch, position))
    found, heads = TakeOvers(), {0: position}

    first = await found.read(connection, heads)
    await connection.execute(
        "insert into batches (shard, position, epoch, next_offset, chain, state_digest)"
        " values (0, $1, 200, $1, '', '')",
        position + 1,
    )
    later = await found.read(connection, {0: position + 1})

    newest = expected[::-1][:TOLD_MAX]
    assert [(one.epoch, one.position) for one in first] == newest
    assert [(one.epoch, one.position) for one in later] == [(200, position + 1), *newest[:-1]]


def test_trends_keep_a_quarter_of_an_hour_and_know_what_was_not_known() -> None:
    kept, book = Trends(), Generation("book", 1, LIVE, live=True, created_at=datetime.now(UTC))
    for at in range(SAMPLES_MAX + 20):
        kept.add([(book, Moment(0.0, {0: at, 1: 1}, {}, {0: at + 5, 1: 1}))], {0: 2 * at}, {})
    kept.add([(book, Moment(0.0, {}, {}, {0: 900}, is_known=False))], {0: 99, 1: 3}, {1: 2.5})

    told = kept.told()

    assert len(told.at_ms) == SAMPLES_MAX
    assert told.head[-1] == 900
    assert told.generations["book 1"].position[-2:] == [SAMPLES_MAX + 20, None]
    assert told.generations["book 1"].lag[0] == 5
    assert (told.offsets[0][0], told.offsets[0][-1]) == (42, 99)
    assert told.offsets[1][-2:] == [None, 3]
    assert told.commit_ms[1][-2:] == [None, 2.5]
