"""Shards that are added after settlement cycles were closed: closed cycles do not change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from exchange.config import SHARDS_MAX, Settings
from exchange.domain import values
from exchange.domain.commands import ClientCommand, CloseSettlementCycle
from exchange.domain.values import Shard
from exchange.log.identity import cycle_command_id
from exchange.log.reader import read_events, read_next_offsets
from exchange.stack import growing
from exchange.stack.growing import add_shards
from exchange.stack.host.errors import StackError
from exchange.stack.services.kafka import add_partitions
from exchange.transport.commands import Delivery
from exchange.transport.messages import encode_command
from projections.projector.projector import run_projector
from projections.projector.snapshotter import SnapshotPace
from tests.gateway.conftest import Venue, gateway_at, matching, order, register, running

pytestmark = pytest.mark.anyio

OLD, NEW = "OLD-USD", "NEW-USD"
SECOND = Shard(1)
WAIT_S = 30.0


@pytest.fixture
async def grown(idle_venue: Venue) -> AsyncIterator[Venue]:
    """A venue whose projector runs; its matchers are the test's."""
    pace = SnapshotPace(events=1_000_000, seconds=3_600)
    projector = run_projector(idle_venue.engine, idle_venue.redis, pace_ms=5, snapshots=pace)
    async with running(projector):
        yield idle_venue


def settings_of(venue: Venue, shards: int) -> Settings:
    return replace(
        Settings.load({}, dotenv=None),
        kafka_bootstrap_servers=venue.services.kafka_bootstrap_servers,
        kafka_topic=venue.topic,
        database_url=venue.database_url,
        shards=shards,
    )


async def until(met: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await met():
            await asyncio.sleep(0.05)


async def close(http: httpx.AsyncClient, **body: int) -> httpx.Response:
    return await http.post("/settlement/cycles/close", json=body)


async def close_three(venue: Venue, http: httpx.AsyncClient) -> None:
    """Trade in the first of three cycles, and close them."""
    async with matching(venue):
        assert (await register(http, OLD)).status_code == 201
        await trade(http, OLD)
        for number in (1, 2, 3):
            closed = await close(http)
            assert (closed.status_code, closed.json()["cycle"]["cycle_id"]) == (201, number)


async def trade(http: httpx.AsyncClient, instrument: str) -> None:
    for side, client in (("buy", "ann"), ("sell", "bob")):
        answer = await http.post("/orders", json=order(instrument, client_id=client, side=side))
        assert answer.status_code == 201, answer.text


async def cycles_of(http: httpx.AsyncClient) -> dict[int, Any]:
    answer = (await http.get("/settlement/cycles")).json()
    return {cycle["cycle_id"]: cycle for cycle in answer["cycles"]}


async def send(venue: Venue, shard: int, command: ClientCommand, command_id: UUID) -> None:
    """Put a command into Kafka as a gateway would."""
    producer = venue.producer()
    await producer.start()
    delivered: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
    producer.produce(
        shard,
        key="settlement",
        value=encode_command(command),
        command_id=command_id,
        reply_to=b"",
        on_delivery=delivered.set_result,
        version=1,
    )
    assert (await delivered).error is None
    await producer.stop()


async def ends(venue: Venue, shards: int) -> dict[int, int]:
    producer = venue.producer()
    await producer.start()
    found = await producer.end_offsets(range(shards))
    await producer.stop()
    return found


async def logged(venue: Venue, shard: int) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(venue.database_url)
    events = await read_events(connection, shard, after=0, up_to=1_000, limit=1_000)
    await connection.close()
    return [(event.type, event.data) for event in events]


async def decided(venue: Venue, shard: int) -> int:
    connection = await asyncpg.connect(venue.database_url)
    offsets = await read_next_offsets(connection)
    await connection.close()
    return offsets.get(shard, 0)


async def test_a_shard_that_is_added_takes_part_from_the_open_cycle_on(grown: Venue) -> None:
    async with gateway_at(grown) as old:
        await close_three(grown, old)
        before = await cycles_of(old)
        async with matching(grown):
            await add_shards(settings_of(grown, 2))
            async with matching(grown, SECOND), gateway_at(grown, shards=2) as new:
                await until(lambda: decided(grown, SECOND))
                assert (await register(new, NEW, shard=1)).status_code == 201
                await trade(new, NEW)
                during = [await cycles_of(new), await cycles_of(old)]
                closed = await close(new)
                after = await cycles_of(old)
                owed = (await new.get("/settlement/cycles/4")).json()["clients"]
                repeated = await close(old, cycle=2)

    assert before.keys() == {1, 2, 3, 4}
    for cycles in during:
        assert {n: c for n, c in cycles.items() if n < 4} == {n: before[n] for n in (1, 2, 3)}
        assert cycles[4]["state"] == "open"
    assert (closed.status_code, closed.json()["pending"]) == (201, [])
    assert sorted(cut["shard"] for cut in closed.json()["cuts"]) == [0, 1]
    assert (after[4]["state"], after[4]["trade_count"]) == ("closed", 1)
    assert after[5]["state"] == "open"
    assert [line["instrument"] for client in owed for line in client["obligations"]] == [NEW, NEW]
    assert (repeated.status_code, repeated.json()["pending"]) == (200, [])
    assert repeated.json()["cycle"] == before[2]


async def test_a_close_of_that_very_moment_leaves_its_cycle_closing(
    grown: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    async def close_as_one_who_knows_one_shard() -> None:
        await send(grown, 0, CloseSettlementCycle(4), cycle_command_id(0, 4))

    def close_then_add(*arguments: Any) -> None:
        asyncio.run_coroutine_threadsafe(close_as_one_who_knows_one_shard(), loop).result(WAIT_S)
        add_partitions(*arguments)

    monkeypatch.setattr(growing, "add_partitions", close_then_add)
    async with gateway_at(grown) as old:
        await close_three(grown, old)
        async with matching(grown):
            await add_shards(settings_of(grown, 2))

            async def is_closing() -> bool:
                return 5 in (cycles := await cycles_of(old)) or cycles[4]["state"] != "open"

            await until(is_closing)
            seen = await cycles_of(old)
            async with gateway_at(grown, order_wait_ms=100) as hasty, asyncio.timeout(WAIT_S):
                again = await close(hasty, cycle=4)
                while 0 in again.json()["pending"]:  # which a busy machine may take longer for
                    again = await close(hasty, cycle=4)
            async with matching(grown, SECOND), gateway_at(grown, shards=2) as new:
                await until(lambda: decided(grown, SECOND))
                closed = await close(new, cycle=4)

    assert (max(seen), seen[4]["state"]) == (4, "closing")
    assert (again.status_code, again.json()["pending"]) == (202, [1])
    assert closed.json()["cycle"]["state"] == "closed"
    assert closed.json()["pending"] == []


async def test_whoever_adds_a_shard_decides_what_nobody_else_does(
    grown: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="exchange.stack.growing")
    async with gateway_at(grown) as old:
        await close_three(grown, old)
    await send(grown, 0, CloseSettlementCycle(4), cycle_command_id(0, 4))

    await add_shards(settings_of(grown, 3))
    told = [
        fields["first_cycle"] for line in caplog.records if "first_cycle" in (fields := vars(line))
    ]
    once = await ends(grown, 3)
    await add_shards(settings_of(grown, 3))

    assert told == [5, 5]
    placed = [data for name, data in await logged(grown, 0) if name == "ShardPlaced"]
    assert ['"shard":1,"cycle":5' in placed[0], '"shard":2,"cycle":5' in placed[1]] == [True] * 2
    assert (once[1], once[2], len(placed)) == (1, 1, 2)
    async with matching(grown, SECOND):
        await until(lambda: decided(grown, SECOND))
    ((name, data),) = await logged(grown, SECOND)
    assert (name, '"cycle":4' in data) == ("SettlementCycleClosed", True)
    with pytest.raises(StackError, match="SHARDS=2 is too few: set SHARDS=3"):
        await add_shards(settings_of(grown, 2))


async def test_a_shard_that_was_added_by_hand_is_not_used_before_it_is_placed(grown: Venue) -> None:
    servers, topic = grown.services.kafka_bootstrap_servers, grown.topic
    async with gateway_at(grown) as old:
        await close_three(grown, old)
    async with matching(grown):
        await asyncio.to_thread(add_partitions, servers, topic, 2)
        async with matching(grown, SECOND), gateway_at(grown, shards=2) as new:
            early = await register(new, NEW, shard=1)
            await add_shards(settings_of(grown, 2))
            await until(lambda: decided(grown, SECOND))
            registered = await register(new, NEW, shard=1)
            cycles = await cycles_of(new)

    assert (early.status_code, early.json()["outcome"]) == (503, "none")
    assert registered.status_code == 201
    assert [cycles[n]["state"] for n in (1, 2, 3, 4)] == ["closed"] * 3 + ["open"]


async def test_before_the_first_close_shards_begin_in_the_first_cycle(grown: Venue) -> None:
    async with matching(grown):
        await add_shards(settings_of(grown, 2))
        await add_shards(settings_of(grown, 2))
        async with matching(grown, SECOND), gateway_at(grown, shards=2) as new:
            assert (await register(new, NEW, shard=1)).status_code == 201
            closed = await close(new)

    assert closed.json()["cycle"] | {"closed_at": None} == {
        "cycle_id": 1,
        "state": "closed",
        "trade_count": 0,
        "closed_at": None,
    }
    assert len(closed.json()["cuts"]) == 2


def test_the_log_knows_as_many_shards_as_the_settings() -> None:
    assert values.SHARDS_MAX == SHARDS_MAX


async def test_a_log_that_falls_silent_is_not_waited_for_without_end(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_silence(connection: asyncpg.Connection) -> None:
        await connection.execute("select pg_sleep(5)")

    monkeypatch.setattr(growing, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(growing, "read_placed_shards", read_silence)

    with pytest.raises(StackError, match="PostgreSQL failed while shards were added"):
        await add_shards(settings_of(venue, 2))
