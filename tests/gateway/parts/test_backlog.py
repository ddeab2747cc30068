"""How far the log is with the commands in Kafka, as health, metrics and "not found" show it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import httpx
import pytest

from exchange.gateway.http.problems import Code, Problem, telling
from exchange.gateway.parts import backlog as backlog_module
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.metrics import Metrics
from exchange.transport.commands import CommandProducer, EndsUnknown
from tests.gateway.conftest import Venue, gateway_at, order, register

pytestmark = pytest.mark.anyio

ASKERS = 50
KAFKA_AWAY_S = 2.0
BUSY_MACHINE_S = 6.0  # fifty clients and their gateway share this process
TRIES = 3  # the quickest counts: no machine is always busy


class Lost(CommandProducer):
    """Finds every partition empty, as one that was recreated is."""

    produced = 0

    def produce(self, shard: int, **command: Any) -> None:
        self.produced += 1
        super().produce(shard, **command)

    async def end_offsets(self, shards: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(shards, 0)


class OneOfTwo(CommandProducer):
    """Finds the first partition empty and none beside it, as after a recreation with too few."""

    def __init__(self, venue: Venue) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)

    async def end_offsets(self, shards: Sequence[int]) -> dict[int, int]:
        raise EndsUnknown(f"no partition {shards[1]}", {0: 0})


class Slow(CommandProducer):
    """Takes its time to tell the ends, and counts how often it is asked."""

    def __init__(self, venue: Venue) -> None:
        self.asked = 0
        loop = asyncio.get_running_loop()
        super().__init__(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)

    async def end_offsets(self, shards: Sequence[int]) -> dict[int, int]:
        self.asked += 1
        await asyncio.sleep(0.2)
        return await super().end_offsets(shards)


async def test_a_topic_that_ends_before_what_was_decided_is_unhealthy_and_denies_nothing(
    venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    lost = Lost(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)
    async with gateway_at(venue, lost) as http:
        health = await http.get("/healthz")
        metrics = (await http.get("/metrics")).text
        cancelled = await http.post("/orders/nobody/cancel")
        asked = await http.get(f"/commands/{uuid4()}?at=0:0")
        ahead = await http.get(f"/commands/{uuid4()}?at=0:999999999")
        placed = await http.post("/orders", json=order("BTC-USD"))
        registered = await register(http, "CUT-USD")

    assert (health.status_code, health.json()["matching"]) == (503, {"0": "unhealthy"})
    assert 'exchange_undecided_commands{shard="0"} -' in metrics
    for denied in (cancelled, asked, ahead, placed, registered):
        assert (denied.status_code, denied.json()["code"]) == (503, "kafka.unavailable")
        assert int(denied.headers["Retry-After"]) > 0
    assert [r.json()["outcome"] for r in (placed, registered)] == ["none", "none"]
    assert lost.queued == lost.produced == 0
    assert "Kafka ends before what was decided" in caplog.text


@pytest.mark.parametrize(
    ("at", "answer"),
    [("0:999999999", (404, "command.not_found")), ("5:1", (422, "request.invalid")),
     ("9999:0", (422, "request.invalid"))],
)  # fmt: skip
async def test_a_place_that_does_not_exist_is_not_waited_for(
    http: httpx.AsyncClient, at: str, answer: tuple[int, str]
) -> None:
    response = await http.get(f"/commands/{uuid4()}?at={at}")

    assert (response.status_code, response.json()["code"]) == answer


async def test_a_topic_without_a_shards_partition_is_unhealthy(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "STALLED_AFTER_S", 0.1)
    producer = CommandProducer(
        venue.services.kafka_bootstrap_servers, "nowhere", loop=asyncio.get_running_loop()
    )
    backlog = Backlog(venue.engine, producer, 1, Metrics())

    for _ in range(2):
        with pytest.raises(ConnectionError):
            await backlog.measure()
        await asyncio.sleep(0.2)

    assert backlog.stalled == {0: True}


async def test_a_partition_that_was_cut_is_known_though_another_is_missing(venue: Venue) -> None:
    backlog = Backlog(venue.engine, OneOfTwo(venue), 2, Metrics())

    with pytest.raises(ConnectionError):
        await backlog.measure()

    with pytest.raises(Problem, match="Nothing was sent"):
        backlog.check_whole(0)
    backlog.check_whole(1)


async def test_many_who_wait_share_two_questions_at_most(venue: Venue) -> None:
    slow = Slow(venue)
    backlog = Backlog(venue.engine, slow, 1, Metrics())

    await asyncio.gather(*(backlog.settle() for _ in range(ASKERS)))

    assert 1 <= slow.asked <= 2


@pytest.mark.usefixtures("prompt")
async def test_without_kafka_many_who_wait_are_all_told_in_time(venue: Venue) -> None:
    away = CommandProducer("127.0.0.1:9", venue.topic, loop=asyncio.get_running_loop())
    took_s = float("inf")
    async with gateway_at(venue, away) as http:
        for _ in range(TRIES):
            started_s = time.monotonic()
            responses = await asyncio.gather(
                *(http.post("/orders/nobody/cancel") for _ in range(ASKERS))
            )
            took_s = min(took_s, time.monotonic() - started_s)
            if took_s < KAFKA_AWAY_S + BUSY_MACHINE_S:
                break

    assert {(r.status_code, r.json()["code"]) for r in responses} == {(503, "kafka.unavailable")}
    assert took_s < KAFKA_AWAY_S + BUSY_MACHINE_S


def test_a_problem_that_is_shared_says_to_nobody_what_only_another_knows() -> None:
    shared = Problem(Code.READ_UNAVAILABLE, "The database does not answer.")

    with pytest.raises(Problem) as told, telling(outcome="none"):
        raise shared

    assert (told.value.fields, shared.fields) == ({"outcome": "none"}, {})
