"""Rate limits: a budget for each client and address, which retries do not spend."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from exchange.door.modes import Door
from exchange.gateway.parts import limits
from exchange.gateway.parts.limits import (
    NO_LIMIT,
    Budget,
    Kind,
    Limit,
    Limits,
    RateLimiter,
    Receipt,
)
from exchange.gateway.server.hosts import Hosts
from exchange.transport.commands import CommandProducer
from tests.gateway.conftest import Venue, gateway_at, order, register
from tests.gateway.stream.test_stream import connected

pytestmark = pytest.mark.anyio

INTERVAL_S = 300  # longer than any test takes, so no token comes back while one runs


class Slow(Limit, frozen=True):
    """So many at once, and then none."""

    @property
    def interval_us(self) -> int:
        return INTERVAL_S * 1_000_000


SLOW = Slow(1, 3)
ADDRESS = "192.0.2.1"
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine pass for a Redis that is away."""
    monkeypatch.setattr(limits, "REDIS_WAIT_S", 15.0)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def orders(limiter: RateLimiter, count: int, client_id: str = "ann") -> list[Budget]:
    return [receipt.budget for receipt in await receipts(limiter, count, client_id)]


async def receipts(limiter: RateLimiter, count: int, client_id: str = "ann") -> list[Receipt]:
    spent = (limiter.spend(Kind.ORDERS, client_id, ADDRESS) for _ in range(count))
    return await asyncio.gather(*spent)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_burst_is_let_through_and_no_more(redis: Redis, at_once: bool) -> None:
    limiter = RateLimiter(redis, Limits(SLOW, SLOW, NO_LIMIT))
    if at_once:
        budgets = await orders(limiter, 5)
    else:
        budgets = [(await orders(limiter, 1))[0] for _ in range(5)]

    assert [budget.remaining for budget in budgets[:3]] == [2, 1, 0]
    assert [budget.wait_us > 0 for budget in budgets] == [False] * 3 + [True] * 2
    assert 0 < budgets[4].wait_us <= INTERVAL_S * 1_000_000
    assert 0 < budgets[4].retry_after_s <= INTERVAL_S


def test_what_is_left_of_a_second_is_told_as_a_second() -> None:
    budget = Budget(wait_us=1, remaining=0, full_us=1_000_001, limit=3)

    assert (budget.retry_after_s, budget.reset_s) == (1, 2)


async def test_tokens_come_back(redis: Redis) -> None:
    limiter = RateLimiter(redis, Limits(Limit(20, 1), SLOW, NO_LIMIT))
    (first,) = await orders(limiter, 1)
    refused = first
    while not refused.wait_us:  # the second, unless 50 ms have passed meanwhile
        (refused,) = await orders(limiter, 1)
    await asyncio.sleep(refused.wait_us / 1_000_000 + 0.005)
    (later,) = await orders(limiter, 1)

    assert (first.wait_us, later.wait_us) == (0, 0)
    assert 0 < refused.wait_us <= 50_000


async def test_gateways_share_a_budget_and_clients_do_not(redis: Redis) -> None:
    one, other = (RateLimiter(redis, Limits(SLOW, SLOW, NO_LIMIT)) for _ in range(2))
    await orders(one, 3)

    assert (await orders(other, 1))[0].wait_us > 0
    assert (await orders(other, 1, "bob"))[0].wait_us == 0
    cancel = (await other.spend(Kind.CANCELS, "ann", ADDRESS)).budget
    assert (cancel.wait_us, cancel.remaining) == (0, 2)


async def test_an_address_has_a_budget_for_all_its_clients(redis: Redis) -> None:
    limiter = RateLimiter(redis, Limits(NO_LIMIT, NO_LIMIT, SLOW))
    budgets = [(await orders(limiter, 1, f"client-{n}"))[0] for n in range(4)]

    assert [budget.wait_us > 0 for budget in budgets] == [False, False, False, True]


@pytest.mark.parametrize("away", [False, True], ids=["Redis", "local"])
async def test_the_headers_are_of_the_tighter_limit(redis: Redis, away: bool) -> None:
    counted_by = Redis.from_url(NOWHERE) if away else redis
    limiter = RateLimiter(counted_by, Limits(Slow(1, 10), SLOW, Slow(1, 4)))
    (alone,) = await orders(limiter, 1, "ann")
    fresh = (await limiter.spend(Kind.ORDERS, "ann", "192.0.2.2")).budget
    for n in range(7):
        last = (await limiter.spend(Kind.ORDERS, "ann", f"192.0.2.{n + 3}")).budget

    assert (alone.remaining, alone.limit) == (3, 4)
    assert (fresh.remaining, fresh.limit) == (3, 4)
    assert (last.remaining, last.limit) == (1, 10)
    await counted_by.aclose()


@pytest.mark.parametrize("away", [False, True], ids=["Redis", "local"])
async def test_all_that_a_refusal_tells_is_of_the_limit_that_refuses(
    redis: Redis, away: bool
) -> None:
    counted_by = Redis.from_url(NOWHERE) if away else redis
    limiter = RateLimiter(counted_by, Limits(Slow(1, 2), SLOW, Slow(1, 1)))
    await orders(limiter, 1)
    (by_address,) = await orders(limiter, 1)

    assert (by_address.limit, by_address.remaining) == (1, 0)
    assert 0 < by_address.wait_us <= by_address.full_us <= INTERVAL_S * 1_000_000
    await counted_by.aclose()


@pytest.mark.parametrize("away", [False, True], ids=["Redis", "local"])
async def test_a_token_is_given_back(redis: Redis, away: bool) -> None:
    counted_by = Redis.from_url(NOWHERE) if away else redis
    limiter = RateLimiter(counted_by, Limits(SLOW, SLOW, SLOW))
    taken = await receipts(limiter, 3)
    limiter.give_back(taken[0])
    await limiter.spend(Kind.CANCELS, "other", "192.0.2.2")

    assert (await orders(limiter, 1))[0].wait_us == 0
    assert (await orders(limiter, 1))[0].wait_us > 0
    await counted_by.aclose()


@pytest.mark.parametrize("away", [False, True], ids=["Redis", "local"])
async def test_a_token_that_was_not_taken_cannot_be_given_back(redis: Redis, away: bool) -> None:
    counted_by = Redis.from_url(NOWHERE) if away else redis
    limiter = RateLimiter(counted_by, Limits(SLOW, SLOW, SLOW))
    for refused in (await receipts(limiter, 8))[3:]:
        limiter.give_back(refused)
    await limiter.spend(Kind.CANCELS, "other", "192.0.2.2")

    assert (await orders(limiter, 1))[0].wait_us > 0
    await counted_by.aclose()


async def test_what_the_gateway_counted_for_itself_is_not_given_to_redis(redis: Redis) -> None:
    async with Redis.from_url(NOWHERE) as nowhere:
        counted_locally = await receipts(RateLimiter(nowhere, Limits(SLOW, SLOW, SLOW)), 3)
    limiter = RateLimiter(redis, Limits(SLOW, SLOW, SLOW))
    await orders(limiter, 3)
    for receipt in counted_locally:
        limiter.give_back(receipt)
    await limiter.spend(Kind.CANCELS, "other", "192.0.2.2")

    assert (await orders(limiter, 1))[0].wait_us > 0


async def test_without_redis_the_gateway_counts_for_itself() -> None:
    async with Redis.from_url(NOWHERE) as redis:
        limiter = RateLimiter(redis, Limits(SLOW, SLOW, NO_LIMIT))
        budgets = await orders(limiter, 2) + await orders(limiter, 3)

    assert [budget.wait_us > 0 for budget in budgets] == [False] * 3 + [True] * 2


async def test_no_limit_asks_nobody() -> None:
    async with Redis.from_url(NOWHERE) as redis:
        limiter = RateLimiter(redis, Limits(NO_LIMIT, NO_LIMIT, NO_LIMIT))
        budgets = await orders(limiter, 3)

    assert [budget.headers for budget in budgets] == [{}] * 3


@asynccontextmanager
async def limited(
    venue: Venue,
    producer: CommandProducer | None = None,
    proxies: Sequence[IPv4Network] = (),
    **others: Limit,
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with small budgets, and none spent yet."""
    async for key in venue.redis.scan_iter("{limits}:*"):
        await venue.redis.delete(key)
    allowed = Limits(orders=SLOW, cancels=SLOW, address=Limit(1_000, 1_000), **others)
    behind = Hosts(Door.OPEN)
    async with gateway_at(venue, producer, limits=allowed, proxies=proxies, hosts=behind) as http:
        yield http


async def spend_all(venue: Venue, kind: Kind, of: str = "address:127.0.0.1") -> None:
    """Leave nothing of a budget, whose burst is below ten, for as long as a test may take."""
    full_us = time.time_ns() // 1_000 + 10 * INTERVAL_S * 1_000_000
    await venue.redis.set(f"{{limits}}:{kind}:{of}", full_us)


async def test_over_http(venue: Venue) -> None:
    async with limited(venue) as http:
        name = "LIMITED-USD"
        await register(http, name)

        async def place(**changes: Any) -> httpx.Response:
            return await http.post("/orders", json=order(name, **changes))

        answers = [await place(idempotency_key=f"limit-{n}") for n in range(4)]
        retry = await place(idempotency_key="limit-0")
        other = await place(client_id="bob")
        order_id = answers[0].json()["order"]["order_id"]
        cancelled = await http.post(f"/orders/{order_id}/cancel", json={"client_id": "alice"})

    assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
    assert [a.headers["RateLimit-Remaining"] for a in answers] == ["2", "1", "0", "0"]
    assert answers[0].headers["RateLimit-Limit"] == "3"
    assert (answers[3].json()["code"], answers[3].json()["outcome"]) == ("rate.limited", "none")
    assert answers[3].headers["Retry-After"] == str(answers[3].json()["retry_after"])
    assert (retry.status_code, retry.headers["Idempotent-Replayed"]) == (201, "true")
    assert (other.status_code, cancelled.status_code) == (201, 200)
    assert cancelled.headers["RateLimit-Remaining"] == "2"


async def test_retries_spend_nothing(venue: Venue) -> None:
    async with limited(venue) as http:
        name = "RETRIED-USD"
        await register(http, name)
        body = order(name, idempotency_key="again")
        answers = [await http.post("/orders", json=body) for _ in range(6)]
        fresh = [await http.post("/orders", json=order(name)) for _ in range(4)]

    assert {answer.status_code for answer in answers} == {201}
    # The last retry's token comes back with the next request.
    assert [answer.status_code for answer in fresh] == [201, 201, 429, 429]


async def test_retries_beyond_the_budget_refill_nothing_and_never_reach_kafka(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = venue.producer()
    async with limited(venue, producer) as http:
        name = "REFILLED-USD"
        await register(http, name)
        body = order(name, idempotency_key="once more", quantity=2)
        first = await http.post("/orders", json=body)
        await spend_all(venue, Kind.ORDERS, "client:alice")
        monkeypatch.setattr(producer, "produce", None)  # whoever calls it gets a 500
        retries = [await http.post("/orders", json=body) for _ in range(4)]
        fresh = await http.post("/orders", json=order(name))
        keyed = await http.post("/orders", json=order(name, idempotency_key="new"))
        conflict = await http.post("/orders", json={**body, "quantity": 3})
        pending = await http.post("/orders", json=body, headers={"Prefer": "respond-async"})
        later = await http.get(pending.headers["Location"])

    assert {retry.status_code for retry in retries} == {201}
    assert {retry.headers["Idempotent-Replayed"] for retry in retries} == {"true"}
    assert all(retry.json()["order"] == first.json()["order"] for retry in retries)
    assert [answer.status_code for answer in (fresh, keyed)] == [429, 429]
    assert (conflict.status_code, conflict.json()["code"]) == (409, "idempotency.conflict")
    assert (pending.status_code, later.json()["status"]) == (202, "accepted")


async def test_a_cancel_beyond_the_budget_is_answered_again_from_the_log(venue: Venue) -> None:
    async with limited(venue) as http:
        name = "AGAIN-USD"
        await register(http, name)
        placed = await http.post("/orders", json=order(name))
        path = f"/orders/{placed.json()['order']['order_id']}/cancel"
        body = {"client_id": "alice", "idempotency_key": "cancelled"}
        first = await http.post(path, json=body)
        await spend_all(venue, Kind.CANCELS, "client:alice")
        again = await http.post(path, json=body)
        fresh = await http.post(path, json={"client_id": "alice"})

    assert (first.status_code, again.status_code, fresh.status_code) == (200, 200, 429)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["order"] == first.json()["order"]


async def test_what_retries_may_cost_the_log_is_bounded(venue: Venue) -> None:
    async with limited(venue, retries=Slow(1, 2)) as http:
        name = "ENDLESS-USD"
        await register(http, name)
        body = order(name, idempotency_key="for ever")
        await http.post("/orders", json=body)
        await spend_all(venue, Kind.RETRIES)
        within = [await http.post("/orders", json=body) for _ in range(2)]
        await spend_all(venue, Kind.ORDERS, "client:alice")
        beyond = await http.post("/orders", json=body)

    # Where retries have nothing left, one costs what an order costs.
    assert [retry.headers["RateLimit-Remaining"] for retry in within] == ["1", "0"]
    assert beyond.status_code == 429


async def test_an_unknown_instrument_costs_a_token(venue: Venue) -> None:
    async with limited(venue) as http:
        answers = [await http.post("/orders", json=order("NOWHERE-USD")) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]


async def test_the_rare_commands_have_a_budget(venue: Venue) -> None:
    async with limited(venue, operations=Slow(1, 5)) as http:
        let_in = await register(http, "RARE-USD")
        await spend_all(venue, Kind.OPERATIONS)
        refused = [
            await register(http, "RARER-USD"),
            await http.post("/settlement/cycles/close", json={"cycle": 1}),
            await http.post("/market/orderbook/snapshot"),
        ]

    assert let_in.headers["RateLimit-Remaining"] == "4"
    assert {(a.status_code, a.json()["outcome"]) for a in refused} == {(429, "none")}


async def test_asking_for_outcomes_has_a_budget_of_its_own(venue: Venue) -> None:
    async with limited(venue) as http:
        name = "ASKED-USD"
        await register(http, name)
        placed = await http.post("/orders", json=order(name))
        await spend_all(venue, Kind.ORDERS)
        path = f"/commands/{placed.json()['command_id']}"
        let_in = await http.get(path)
        await spend_all(venue, Kind.OUTCOMES)
        refused = await http.get(path)

    assert (let_in.status_code, let_in.headers["RateLimit-Remaining"]) == (200, "999")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate.limited")


async def test_history_has_a_budget(venue: Venue) -> None:
    async with limited(venue, history=Slow(1, 5)) as http, connected(http) as client:
        name = "PAST-USD"
        await register(http, name)
        answers = [await http.post("/orders", json=order(name)) for _ in range(2)]
        seen: dict[str, str | int] = {"client_id": "alice", "instrument": name, "limit": 1}
        reached = answers[1].json()["sequence"]
        page = (await http.get("/orders", params={**seen, "min_sequence": reached})).json()
        cursor = page["next_cursor"]
        let_in = await http.get("/orders", params={**seen, "cursor": cursor})
        await spend_all(venue, Kind.HISTORY)
        order_id = answers[0].json()["order"]["order_id"]
        refused = [
            await http.get("/orders", params={**seen, "cursor": cursor}),
            await http.get(f"/orders/{order_id}/events"),
            await http.get(f"/market/trades?instrument={name}&cursor=NQ=="),
            await http.get("/settlement/cycles?cursor=NQ=="),
            await http.get("/settlement/cycles/1?cursor=YQ=="),
            await http.get("/settlement/cycles/1?limit=1000"),
            await http.get("/orders?client_id=alice&status=rejected"),
            await http.get(f"/market/analytics?instrument={name}&end_time=2026-01-01"),
        ]
        first_pages = [
            await http.get("/orders", params=seen),
            await http.get("/orders", params={**seen, "status": "open"}),
            await http.get("/orders", params={**seen, "status": "working"}),
        ]
        told = await client.ask(
            type="subscribe", channels=["trades"], instrument=name, from_sequence=0
        )

    assert (let_in.status_code, let_in.headers["RateLimit-Limit"]) == (200, "5")
    assert {(a.status_code, a.json()["code"]) for a in refused} == {(429, "rate.limited")}
    assert [answer.status_code for answer in first_pages] == [200, 200, 200]
    assert (told["type"], told["code"]) == ("error", "rate.limited")


async def test_on_the_stream(venue: Venue) -> None:
    async with limited(venue) as http, connected(http) as client:
        name = "STREAMED-USD"
        await register(http, name)
        answers = [await client.ask(**order(name, client_id="streamer")) for _ in range(4)]

    assert [answer["type"] for answer in answers] == ["order_accepted"] * 3 + ["error"]
    assert answers[3]["code"] == "rate.limited"
    assert 0 < answers[3]["retry_after"] <= INTERVAL_S
    assert [answer["rate_limit"]["remaining"] for answer in answers] == [2, 1, 0, 0]


async def test_an_address_has_a_bounded_number_of_connections(venue: Venue) -> None:
    async with gateway_at(venue, connections_per_address=2) as http:
        async with connected(http), connected(http):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(http):
                    pass
        async with connected(http):  # those that ended count no more
            pass

    assert refused.value.response.status_code == 429
    assert b"STREAM_CONNECTIONS_PER_ADDRESS" in (refused.value.response.body or b"")


async def test_a_trusted_proxy_speaks_for_its_clients(venue: Venue) -> None:
    proxies = (IPv4Network("127.0.0.1"),)
    async with limited(venue, operations=Slow(1, 5), proxies=proxies) as http:
        await spend_all(venue, Kind.OPERATIONS, "address:203.0.113.9")
        statuses = [
            (await registered_by(http, address)).status_code
            for address in ("203.0.113.9", "203.0.113.9, 198.51.100.7", "2001:db8::7")
        ]
        await spend_all(venue, Kind.OPERATIONS, "address:2001:db8::/64")
        neighbour = await registered_by(http, "2001:db8::8")

    assert statuses == [429, 201, 200]
    assert neighbour.status_code == 429


async def registered_by(http: httpx.AsyncClient, forwarded_for: str) -> httpx.Response:
    http.headers["X-Forwarded-For"] = forwarded_for
    return await register(http, "PROXIED-USD")
