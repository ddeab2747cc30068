"""Commands that Kafka acknowledged and lost: after the adoption their clients are told so.

``adopt`` does to the log what ``exchange adopt-topic`` does: it begins a new life of the topic.
Kafka itself is left alone: its commands from before the new life count as lost.
"""

import asyncio
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from exchange.domain.commands import CancelOrder
from exchange.gateway.http.problems import Problem
from exchange.gateway.parts import backlog as backlog_module
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.decisions import Pending
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.submission import Submitter
from exchange.log.identity import keyed_command_id, uuid7
from tests.gateway.conftest import (
    PATIENCE_MS,
    PATIENCE_S,
    Venue,
    gateway_at,
    matching,
    order,
    register,
)
from tests.gateway.orders.test_placing import follow
from tests.gateway.parts.test_submission import unanswered, until_told
from tests.gateway.stream.test_stream import connected

pytestmark = pytest.mark.anyio

BASE: Final = 10**12
LATER: Final = {"Prefer": "respond-async"}
ADOPT_HEAD: Final = "update head set offset_base = :base, next_offset = :first"
BEGIN_LIFE: Final = """
insert into topic_lives (shard, first_offset, topic_id, offset_base)
select shard, next_offset, topic_id, offset_base from head
"""


@pytest.fixture
async def deserted(idle_venue: Venue) -> Venue:
    """A venue with BTC-USD, and with nobody who decides any more."""
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        assert (await register(http, "BTC-USD")).status_code == 201
    return idle_venue


async def adopt(venue: Venue, *, first: int) -> None:
    """Begin a new life of the topic with the record at ``first`` in Kafka."""
    async with venue.engine.begin() as connection:
        await connection.execute(text(ADOPT_HEAD), {"base": BASE, "first": BASE + first})
        await connection.execute(text(BEGIN_LIFE))


def offset_in(response: httpx.Response) -> int:
    return int(httpx.URL(response.headers["Location"]).params["at"].partition(":")[2])


async def test_what_kafka_lost_is_told_to_who_asks_for_its_place_and_its_key_is_free(
    deserted: Venue,
) -> None:
    body = order("BTC-USD", client_id="lost", idempotency_key="k")
    async with gateway_at(deserted) as http:
        gone = await http.post("/orders", json=body, headers=LATER)
        await adopt(deserted, first=offset_in(gone) + 1)
        command_id = gone.json()["command_id"]
        told, unplaced, ahead, unknown = await asyncio.gather(
            http.get(gone.headers["Location"]),
            http.get(f"/commands/{command_id}"),
            http.get(f"/commands/{command_id}?at=0:{BASE + 999_999}"),
            http.get(f"/commands/{keyed_command_id('nobody', 'k')}?at=0:{offset_in(gone)}"),
        )
        async with matching(deserted):
            again = await http.post("/orders", json=body)
            found = await follow(http, gone.headers["Location"])

    lost = told.json()
    assert (told.status_code, lost["status"], lost["outcome"]) == (200, "lost", "none")
    assert lost["command_id"] == lost["problem"]["command_id"] == command_id
    assert (lost["problem"]["code"], lost["problem"]["outcome"]) == ("command.lost", "none")
    assert [r.json().get("code") for r in (unplaced, ahead)] == ["command.not_found"] * 2
    assert "only its location" in unplaced.json()["detail"]
    assert unknown.json()["status"] == "lost"
    assert (again.status_code, "Idempotent-Replayed" in again.headers) == (201, False)
    assert found["order"] == again.json()["order"]


async def test_who_waits_for_what_kafka_lost_is_told_so(deserted: Venue) -> None:
    async with gateway_at(deserted, order_wait_ms=PATIENCE_MS) as http, connected(http) as client:
        first = await http.post("/orders", json=order("BTC-USD"), headers=LATER)
        waiting = asyncio.create_task(http.post("/orders", json=order("BTC-USD")))
        await client.send(**order("BTC-USD", id="on-stream"))
        await until_told(http, "exchange_gateway_waiters 2.0")
        await until_written(deserted, offset_in(first) + 3)
        await adopt(deserted, first=offset_in(first) + 3)
        problem: dict[str, Any] = (await waiting).json()
        on_stream = await client.next()

    assert (problem["status"], problem["code"], problem["outcome"]) == (503, "command.lost", "none")
    assert (on_stream["type"], on_stream["code"], on_stream["outcome"], on_stream["id"]) == (
        "error",
        "command.lost",
        "none",
        "on-stream",
    )


async def test_who_waits_for_what_the_adopted_topic_still_has_is_told_its_outcome(
    deserted: Venue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog_module, "SETTLE_WAIT_S", 0)
    async with gateway_at(deserted, unanswered(deserted), order_wait_ms=PATIENCE_MS) as http:
        first = await http.post("/orders", json=order("BTC-USD"), headers=LATER)
        waiting = asyncio.create_task(http.post("/orders", json=order("BTC-USD")))
        await until_looked_up(http)
        await adopt(deserted, first=offset_in(first))
        async with asyncio.timeout(PATIENCE_S):
            while "Cannot tell what Kafka has lost" not in caplog.text and not waiting.done():
                await asyncio.sleep(0.02)
        async with matching(deserted):
            response = await waiting
            earlier = await follow(http, first.headers["Location"])

    assert (response.status_code, earlier["status"]) == (201, "accepted")


async def until_written(venue: Venue, end: int) -> None:
    producer = venue.producer()
    async with asyncio.timeout(PATIENCE_S):
        while (await producer.end_offsets([0]))[0] < end:
            await asyncio.sleep(0.02)


async def until_looked_up(http: httpx.AsyncClient) -> None:
    """Wait until somebody who waits knows the place of the command."""
    async with asyncio.timeout(PATIENCE_S):
        while "exchange_gateway_lookups_total 0.0" in (await http.get("/metrics")).text:
            await asyncio.sleep(0.02)


async def test_no_place_is_told_with_a_base_that_nobody_has_read(deserted: Venue) -> None:
    await adopt(deserted, first=1)
    command = CancelOrder("nobody", "BTC-USD", None)
    known = Backlog(deserted.engine, deserted.producer(), 1, Metrics())
    submitter = Submitter(deserted.producer(), deserted.engine, Metrics(), known, wait_s=0)

    place = await submitter.submit(0, command, uuid7(), wait=False)

    assert place == Pending(0, BASE + 1)


async def test_nothing_is_sent_while_nobody_can_read_the_base(deserted: Venue) -> None:
    nowhere = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    producer = deserted.producer()
    submitter = Submitter(
        producer, nowhere, Metrics(), Backlog(nowhere, producer, 1, Metrics()), wait_s=0
    )

    with pytest.raises(Problem) as refused:
        await submitter.submit(0, CancelOrder("nobody", "BTC-USD", None), uuid7())
    await nowhere.dispose()

    assert refused.value.fields["outcome"] == "none"
    assert producer.queued == 0
