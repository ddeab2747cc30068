"""The answer to a command when a part of its way is missing.

Each test takes one part away on the real services: the answer through Redis, the matcher, Kafka, or
the room for one more waiter.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from exchange.gateway.parts import backlog as backlog_module
from exchange.gateway.parts import submission
from exchange.gateway.parts.backlog import STALLED_AFTER_S, Backlog
from exchange.gateway.resources import commands
from exchange.log.reader import FoundOutcome, find_outcomes, read_events_of
from exchange.ports import StoredEvent
from exchange.transport.commands import CommandProducer, Delivery, NotProduced
from tests.gateway.conftest import (
    CLIENT_TIMEOUT_S,
    PATIENCE_S,
    Venue,
    gateway_at,
    matching,
    order,
    register,
)
from tests.gateway.orders.test_placing import follow
from tests.gateway.resources.test_status import until_status
from tests.gateway.stream.test_stream import Client, connected

pytestmark = pytest.mark.anyio

NOBODY = b"nobody:1"
# Client, gateway, matcher and projector share this process, and two such processes the machine.
BUSY_MACHINE_S = 1.5
TRIES = 3  # the quickest counts: no machine is always busy, and a longer wait is always longer
NEW_LEADER_S = 4.0


class Unanswered(CommandProducer):
    """Loses every outcome that Redis brings: the matcher answers somebody else."""

    def produce(
        self,
        shard: int,
        *,
        key: str,
        value: bytes,
        command_id: UUID,
        reply_to: bytes,
        version: int,
        on_delivery: Callable[[Delivery], None],
        traceparent: str | None = None,
        key_id: str | None = None,
    ) -> None:
        del reply_to
        super().produce(
            shard,
            key=key,
            value=value,
            command_id=command_id,
            reply_to=NOBODY,
            on_delivery=on_delivery,
            traceparent=traceparent,
            key_id=key_id,
            version=version,
        )


class Unconfirmed(CommandProducer):
    """Reports every command as timed out, and sends it all the same when it is told to."""

    def __init__(self, venue: Venue) -> None:
        self.unsent: list[Callable[..., None]] = []
        loop = asyncio.get_running_loop()
        super().__init__(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)

    def produce(
        self, shard: int, *, on_delivery: Callable[[Delivery], None], **fields: Any
    ) -> None:
        self.unsent.append(partial(super().produce, shard, **fields))
        asyncio.get_running_loop().call_soon(on_delivery, Delivery(-1, -1, "timed out"))

    async def send(self) -> None:
        """Send the commands and wait until Kafka has them."""
        for produce in self.unsent:
            delivered: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
            produce(on_delivery=delivered.set_result)
            assert (await delivered).error is None
        self.unsent.clear()


class Unreported(CommandProducer):
    """Sends every command and never hears of it again."""

    def produce(self, shard: int, **fields: Any) -> None:
        super().produce(shard, **{**fields, "on_delivery": lambda _: None})


class Full(CommandProducer):
    """Has no room."""

    def produce(self, *_args: object, **_fields: object) -> None:
        raise NotProduced("queue full")


def unanswered(venue: Venue) -> CommandProducer:
    loop = asyncio.get_running_loop()
    return Unanswered(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)


async def test_an_outcome_that_redis_loses_is_found_in_the_log(venue: Venue) -> None:
    async with gateway_at(venue, unanswered(venue)) as http:
        await register(http, "LOST")
        bodies = [
            order("LOST", idempotency_key="k", client_id="lost-1"),
            order("LOST", side="sell", quantity=2),
            order("LOST", idempotency_key="k", client_id="lost-1"),
            order("LOST", idempotency_key="k", client_id="lost-1", quantity=3),
        ]

        responses = [await http.post("/orders", json=body) for body in bodies]
        cancelled = await http.post(f"/orders/{responses[1].json()['order']['order_id']}/cancel")
        metrics = (await http.get("/metrics")).text

    placed, crossed, again, conflict = responses
    assert [r.status_code for r in responses] == [201, 201, 201, 409]
    assert crossed.json()["trades"][0]["quantity"] == 1
    assert crossed.json()["orderbook"]["asks"] == [{"price": 10, "quantity": 1, "cumulative": 1}]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["order"] == placed.json()["order"]
    assert conflict.json()["code"] == "idempotency.conflict"
    assert cancelled.json()["order"]["filled_quantity"] == 1
    assert "exchange_gateway_lookups_total 0.0" not in metrics


async def test_who_does_not_wait_gets_202_even_if_the_outcome_is_there_first(
    venue: Venue,
) -> None:
    loop = asyncio.get_running_loop()
    producer = Unreported(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)
    async with gateway_at(venue, producer) as http:
        response = await http.post(
            "/orders", json=order("BTC-USD", price=1), headers={"Prefer": "respond-async"}
        )
        decided = await follow(http, response.headers["Location"])

    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert decided["status"] == "accepted"


async def test_many_lost_outcomes_are_asked_for_together(venue: Venue) -> None:
    async with gateway_at(venue, unanswered(venue)) as http:
        await register(http, "LOST")

        responses = await asyncio.gather(
            *(http.post("/orders", json=order("LOST", price=1)) for _ in range(50))
        )

    assert {r.status_code for r in responses} == {201}


async def test_an_outcome_of_many_events_is_found_by_itself(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "TOGETHER_EVENTS_MAX", 2)
    async with gateway_at(venue, unanswered(venue)) as http:
        await register(http, "SWEPT")
        for _ in range(3):
            await http.post("/orders", json=order("SWEPT", side="sell"))

        swept = await http.post("/orders", json=order("SWEPT", quantity=3))

    assert swept.status_code == 201
    assert len(swept.json()["trades"]) == 3


class Clock:
    """The time as the submitter sees it, which may be ahead."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


async def test_an_outcome_that_cannot_be_read_takes_no_other_with_it(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    async def find(*args: Any, events_max: int | None = None) -> dict[Any, FoundOutcome]:
        if events_max is None:
            await asyncio.Event().wait()  # until it takes too long
        return await find_outcomes(*args, events_max=events_max)

    monkeypatch.setattr(submission, "TOGETHER_EVENTS_MAX", 2)
    monkeypatch.setattr(submission, "find_outcomes", find)
    monkeypatch.setattr(submission, "time", clock)
    async with gateway_at(venue, unanswered(venue)) as http:
        await register(http, "HEAVY")
        await register(http, "LIGHT")
        await asyncio.gather(
            *(http.post("/orders", json=order("HEAVY", side="sell")) for _ in range(3))
        )
        heavy = asyncio.create_task(http.post("/orders", json=order("HEAVY", quantity=3)))
        light = [await http.post("/orders", json=order("LIGHT")) for _ in range(3)]
        undone = not heavy.done()
        clock.ahead_s = PATIENCE_S  # its wait is over

        assert (await heavy).status_code == 202

    assert [response.status_code for response in light] == [201] * 3
    assert undone


async def test_who_waits_in_vain_is_told_where_to_ask(idle_venue: Venue) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    async with gateway_at(idle_venue, order_wait_ms=300) as http:
        response = await http.post("/orders", json=order("BTC-USD"))
        location = response.headers["Location"]
        before = await http.get(location)
        async with matching(idle_venue):
            after = await follow(http, location)

    assert response.status_code == 202
    assert response.json()["status"] == "pending"
    assert before.json() == {"command_id": response.json()["command_id"], "status": "pending"}
    assert after["order"]["order_id"] == response.json()["order_id"]


async def test_a_resend_after_the_wait_ended_has_one_effect(idle_venue: Venue) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    body = order("BTC-USD", idempotency_key="k")
    async with gateway_at(idle_venue, order_wait_ms=100) as http:
        early = await http.post("/orders", json=body)
        resend = asyncio.create_task(http.post("/orders", json=body))
        async with matching(idle_venue):
            await resend
            await follow(http, early.headers["Location"])
            async with gateway_at(idle_venue) as patient:
                response = await patient.post("/orders", json=body)

    assert response.status_code == 201
    assert response.headers["Idempotent-Replayed"] == "true"
    assert await accepted_orders(idle_venue) == 1


async def test_without_a_matcher_an_order_that_is_not_known_yet_is_not_denied(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
        denied = await http.post("/orders/mine/cancel")
    monkeypatch.setattr(backlog_module, "SETTLE_WAIT_S", 0)
    async with gateway_at(idle_venue, order_wait_ms=100) as http:
        await http.post("/orders", json=order("BTC-USD", order_id="mine"))
        undecided = await http.post("/orders/mine/cancel")

    assert (denied.status_code, denied.json()["code"]) == (404, "order.not_found")
    assert (undecided.status_code, undecided.json()["code"]) == (503, "read.stale")
    assert undecided.json()["outcome"] == "none"


async def test_a_log_that_cannot_be_read_before_the_send_says_that_nothing_was_sent(
    venue: Venue,
) -> None:
    nowhere = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    async with gateway_at(replace(venue, engine=nowhere)) as http:
        placed = await http.post("/orders", json=order("BTC-USD"))
        cancelled = await http.post("/orders/any/cancel")
    await nowhere.dispose()

    for response in (placed, cancelled):
        problem = response.json()
        assert (response.status_code, problem["code"]) == (503, "read.unavailable")
        assert problem["outcome"] == "none"


async def test_a_replay_that_cannot_be_read_has_an_unknown_outcome(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> dict[tuple[int, int], list[StoredEvent]]:
        raise ConnectionError("cut")

    body = order("BTC-USD", client_id="replayed-unread", idempotency_key="k")
    async with gateway_at(venue) as http:
        first = await http.post("/orders", json=body)
        monkeypatch.setattr(submission, "read_events_of", fail)
        again = await http.post("/orders", json=body)

    assert (again.status_code, again.json()["code"]) == (503, "read.unavailable")
    assert again.json()["outcome"] == "unknown"
    assert again.json()["command_id"] == first.json()["command_id"]


async def test_a_resend_of_what_is_not_decided_yet_is_pending(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_nothing(*_: object, **__: object) -> dict[tuple[int, int], list[StoredEvent]]:
        return {}

    body = order("BTC-USD", client_id="replayed-early", idempotency_key="k")
    async with gateway_at(venue) as http:
        await http.post("/orders", json=body)
        monkeypatch.setattr(submission, "read_events_of", find_nothing)
        again = await http.post("/orders", json=body)

    assert (again.status_code, again.json()["status"]) == (202, "pending")


@pytest.mark.parametrize("together", [1, 100])
async def test_retries_that_come_at_once_share_questions_and_each_gets_its_own_answer(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    asked: list[int] = []
    read = read_events_of

    async def counted(
        connection: asyncpg.Connection, firsts: Sequence[tuple[int, int]], *, limit: int
    ) -> dict[tuple[int, int], list[StoredEvent]]:
        asked.append(len(firsts))
        return await read(connection, firsts, limit=limit)

    monkeypatch.setattr(submission, "TOGETHER_EVENTS_MAX", together)
    keys = [f"key-{number}" for number in range(12)]
    bodies = [order("BTC-USD", client_id="of-retries", idempotency_key=key) for key in keys]
    async with gateway_at(venue) as http:
        first = [await http.post("/orders", json=body) for body in bodies]
        monkeypatch.setattr(submission, "read_events_of", counted)
        again = await asyncio.gather(*(http.post("/orders", json=body) for body in bodies))

    for before, after in zip(first, again, strict=True):
        assert (before.status_code, after.status_code) == (201, 201)
        assert after.headers["idempotent-replayed"] == "true"
        assert {**after.json(), "orderbook": None} == {**before.json(), "orderbook": None}
        assert after.json()["orderbook"] is not None
    assert sum(asked) == len(keys)
    assert len(asked) < len(keys)


async def test_a_command_of_unknown_outcome_is_not_denied_while_kafka_has_it(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    producer = Unconfirmed(idle_venue)
    async with gateway_at(idle_venue, producer) as http:
        unknown = await http.post("/orders", json=order("BTC-USD"))
        await producer.send()
        location = f"/commands/{unknown.json()['command_id']}"
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(backlog_module, "SETTLE_WAIT_S", 0)
            undecided = await http.get(location)
        monkeypatch.setattr(commands, "LATE_S", 0)
        async with matching(idle_venue):
            decided = await http.get(location)

    assert (unknown.status_code, unknown.json()["outcome"]) == (503, "unknown")
    assert (undecided.status_code, undecided.json()["code"]) == (503, "read.stale")
    assert (decided.status_code, decided.json()["status"]) == (200, "accepted")


async def test_a_command_that_comes_into_kafka_after_the_answer_unknown_is_not_denied(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, settle = Unconfirmed(venue), Backlog.settle

    async def settle_and_send(backlog: Backlog) -> None:
        await settle(backlog)
        if producer.unsent:  # it was asked once: the command comes only now
            await producer.send()

    monkeypatch.setattr(Backlog, "settle", settle_and_send)
    monkeypatch.setattr(commands, "LATE_S", 0)
    async with gateway_at(venue, producer) as http:
        unknown = await http.post("/orders", json=order("BTC-USD", price=1))
        found = await http.get(f"/commands/{unknown.json()['command_id']}")

    assert (unknown.status_code, unknown.json()["outcome"]) == (503, "unknown")
    assert (found.status_code, found.json()["status"]) == (200, "accepted")


async def accepted_orders(venue: Venue) -> int:
    async with venue.engine.connect() as connection:
        query = text("select count(*) from events where type = 'OrderAccepted'")
        return int(await connection.scalar(query) or 0)


async def test_a_queue_that_is_full_says_that_nothing_was_sent(venue: Venue) -> None:
    loop = asyncio.get_running_loop()
    full = Full(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)
    async with gateway_at(venue, full) as http:
        response = await http.post("/orders", json=order("BTC-USD"))
        metrics = (await http.get("/metrics")).text

    problem = response.json()
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert (problem["code"], problem["outcome"]) == ("kafka.unavailable", "none")
    assert 'exchange_gateway_produce_failures_total{outcome="none"} 1.0' in metrics


async def post_quickly(http: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    """Post orders that cannot be sent until one is answered as soon as promised."""
    for _ in range(TRIES):
        started_s = time.monotonic()
        response = await http.post("/orders", json=order("BTC-USD", **changes))
        took_s = time.monotonic() - started_s
        if took_s < 2 + BUSY_MACHINE_S:
            return response
    raise AssertionError(f"the last of {TRIES} took {took_s} s")


@pytest.mark.usefixtures("prompt")
async def test_without_kafka_the_outcome_is_unknown_within_two_seconds(venue: Venue) -> None:
    away = CommandProducer("127.0.0.1:9", venue.topic, loop=asyncio.get_running_loop())
    async with gateway_at(venue, away) as http:
        response = await post_quickly(http)
        read = await http.get("/market/orderbook")
        health = await http.get("/healthz")

    problem = response.json()
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert (problem["code"], problem["outcome"]) == ("kafka.unavailable", "unknown")
    assert problem["command_id"]
    assert read.status_code == 200
    assert (health.status_code, health.json()["checks"]["kafka"]) == (503, "unhealthy")


@pytest.mark.usefixtures("prompt")
async def test_with_a_frozen_kafka_the_outcome_is_unknown_within_two_seconds(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = venue.services.local.kafka
    assert kafka is not None
    async with gateway_at(venue) as http:
        accepted = await http.post("/orders", json=order("BTC-USD", price=1))
        kafka.process.signal(signal.SIGSTOP)
        try:
            frozen_s = time.monotonic()
            response = await post_quickly(http, price=1)
            asked = await http.get(f"/commands/{response.json()['command_id']}")
            # Long enough for the broker to be the leader again, which its clients have to learn.
            await asyncio.sleep(frozen_s + NEW_LEADER_S - time.monotonic())
        finally:
            kafka.process.signal(signal.SIGCONT)
        monkeypatch.undo()
        await until_status(http, "healthy")
        await asyncio.sleep(STALLED_AFTER_S)
        health_after = await http.get("/healthz")
        nobody = await http.get(f"/commands/{uuid4()}")

    assert accepted.status_code == 201
    assert (response.status_code, response.json()["outcome"]) == (503, "unknown")
    assert (asked.status_code, asked.json()["code"]) == (503, "kafka.unavailable")
    assert "does not answer" in asked.json()["detail"]
    assert health_after.json()["status"] == "healthy"
    assert nobody.status_code == 404


async def test_there_is_a_bound_on_those_who_wait(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "WAITERS_MAX", 0)
    async with gateway_at(venue) as http:
        response = await http.post("/orders", json=order("BTC-USD"))

    assert response.status_code == 503
    assert (response.json()["code"], response.json()["outcome"]) == ("gateway.busy", "none")


async def test_orders_are_refused_before_cancels_while_a_command_waits_for_long(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "ORDERS_BEHIND_S", 0.3)
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
        resting = await http.post("/orders", json=order("BTC-USD"))
    async with gateway_at(idle_venue, order_wait_ms=10_000) as http:
        waiting = asyncio.create_task(http.post("/orders", json=order("BTC-USD")))
        await asyncio.sleep(0.6)
        refused = await http.post("/orders", json=order("BTC-USD"))
        order_id = resting.json()["order"]["order_id"]
        cancel = asyncio.create_task(http.post(f"/orders/{order_id}/cancel"))
        await asyncio.sleep(0.1)
        is_taken = not cancel.done()
        monkeypatch.setattr(submission, "BEHIND_S", 0.4)
        late = await http.post(f"/orders/{order_id}/cancel")
        async with matching(idle_venue):
            answers = [(await waiting).status_code, (await cancel).status_code]
            again = await until_taken(http)

    assert is_taken
    for response in (refused, late):
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert (response.json()["code"], response.json()["outcome"]) == ("gateway.busy", "none")
    assert answers == [201, 200]
    assert again.status_code == 201


async def test_orders_are_refused_while_the_gateway_itself_cannot_keep_up(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "ORDERS_LATE_S", 0.5)
    monkeypatch.setattr(submission, "SWEEP_S", 1.0)  # what it finds lasts until it looks again
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    async with gateway_at(idle_venue, order_wait_ms=60_000) as http:
        waiting = asyncio.create_task(http.post("/orders", json=order("BTC-USD")))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                time.sleep(2.0)  # noqa: ASYNC251  so that its timer comes a second late
                await asyncio.sleep(0)
                unwaited = {"Prefer": "respond-async"}
                refused = await http.post("/orders", json=order("BTC-USD"), headers=unwaited)
                if refused.status_code == 503 and "for their turn" in refused.json()["detail"]:
                    break
        async with matching(idle_venue):
            assert (await waiting).status_code == 201
            again = await until_taken(http)

    assert refused.headers["Retry-After"] == "1"
    assert (refused.json()["code"], refused.json()["outcome"]) == ("gateway.busy", "none")
    assert again.status_code == 201


async def test_a_late_gateway_takes_cancels_longer_than_orders(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_at(venue) as http:
        resting = await http.post("/orders", json=order("BTC-USD"))
        monkeypatch.setattr(submission, "ORDERS_LATE_S", -1.0)  # later than this at any time
        entries = {"entries": [{"action": "place", **order("BTC-USD")}]}
        refused = [
            await http.post("/orders", json=order("BTC-USD")),
            await http.post("/orders/batch", json=entries),
        ]
        cancel = await http.post(f"/orders/{resting.json()['order']['order_id']}/cancel")

    assert [response.status_code for response in refused] == [503, 503]
    assert {response.json()["code"] for response in refused} == {"gateway.busy"}
    assert cancel.status_code == 200


async def test_orders_are_refused_before_cancels_while_many_commands_wait(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "UNDECIDED_ORDERS_MAX", 1)
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
        resting = await http.post("/orders", json=order("BTC-USD"))
    async with gateway_at(idle_venue, order_wait_ms=100) as http:
        taken = [await http.post("/orders", json=order("BTC-USD")) for _ in range(2)]
        refused = await until_refused(http)
        order_id = resting.json()["order"]["order_id"]
        cancel = await http.post(f"/orders/{order_id}/cancel")
        async with matching(idle_venue):
            again = await until_taken(http)

    assert [response.status_code for response in taken] == [202, 202]
    assert refused.headers["Retry-After"] == "1"
    assert (refused.json()["code"], refused.json()["outcome"]) == ("gateway.busy", "none")
    assert cancel.status_code == 202
    assert again.status_code in {201, 202}


async def until_refused(http: httpx.AsyncClient) -> httpx.Response:
    async with asyncio.timeout(PATIENCE_S):
        while (response := await http.post("/orders", json=order("BTC-USD"))).status_code != 503:
            await asyncio.sleep(0.1)
    return response


async def until_taken(http: httpx.AsyncClient) -> httpx.Response:
    async with asyncio.timeout(PATIENCE_S):
        while (response := await http.post("/orders", json=order("BTC-USD"))).status_code == 503:
            await asyncio.sleep(0.1)
    return response


async def test_a_stop_finishes_what_is_under_way(idle_venue: Venue) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    async with httpx.AsyncClient(timeout=CLIENT_TIMEOUT_S, verify=False) as outliving:
        async with gateway_at(idle_venue) as http:
            url = f"{http.base_url}/orders"
            under_way = asyncio.create_task(outliving.post(url, json=order("BTC-USD")))
            await until_told(http, "exchange_gateway_waiters 1.0")
            decided = asyncio.create_task(decide_late(url, idle_venue, under_way))
            assert not under_way.done()
            stopped_s = time.monotonic()

        assert time.monotonic() - stopped_s < PATIENCE_S  # the answer ends it, not the wait
        assert (await under_way).status_code == 201
        await decided


async def test_a_stop_refuses_new_commands_first_and_answers_those_it_took(
    idle_venue: Venue,
) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    async with AsyncExitStack() as outliving:
        async with gateway_at(idle_venue) as http:
            client = await outliving.enter_async_context(connected(http))
            url = f"{http.base_url}/orders"
            await client.send(**order("BTC-USD", id="taken"))
            await until_told(http, "exchange_gateway_waiters 1.0")
            late = asyncio.create_task(send_late(url, client, idle_venue))
        refused, on_stream, taken = await late
        code, _ = await client.closed()

    assert (refused["code"], refused["outcome"]) == ("gateway.busy", "none")
    assert (on_stream["code"], on_stream["outcome"], on_stream["id"]) == (
        "gateway.busy",
        "none",
        "late",
    )
    assert (taken["type"], taken["id"], code) == ("order_accepted", "taken", 1012)


async def send_late(url: str, client: Client, venue: Venue) -> list[dict[str, Any]]:
    """Send orders once the gateway stops; then let it end, by deciding what it waits for."""
    async with (
        asyncio.timeout(PATIENCE_S),
        httpx.AsyncClient(timeout=CLIENT_TIMEOUT_S, verify=False) as http,
    ):
        answer = await http.post(url, json=order("NOWHERE-USD"))
        while answer.status_code == 404:  # it does not stop yet
            answer = await http.post(url, json=order("NOWHERE-USD"))
    on_stream = await client.ask(**order("BTC-USD", id="late"))
    async with matching(venue):
        return [answer.json(), on_stream, await client.next()]


async def until_told(http: httpx.AsyncClient, line: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while line not in (await http.get("/metrics")).text:
            await asyncio.sleep(0.02)


async def decide_late(url: str, venue: Venue, under_way: Awaitable[object]) -> None:
    """Begin to match when the gateway has been told to stop, and takes no connection any more."""
    async with asyncio.timeout(PATIENCE_S):
        with suppress(httpx.TransportError):
            while True:
                async with httpx.AsyncClient(verify=False) as newcomer:
                    await newcomer.get(url)
    async with matching(venue):
        await under_way
