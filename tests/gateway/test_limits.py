"""Rate limits: a budget for each client and address, which retries do not spend."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from exchange.gateway.limits import NO_LIMIT, Budget, Limit, Limits, RateLimiter
from tests.gateway.conftest import Venue, gateway_at, order, register
from tests.gateway.test_stream import connected

pytestmark = pytest.mark.anyio

SLOW = Limit(per_second=1, burst=3)
ADDRESS = "192.0.2.1"
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def orders(limiter: RateLimiter, count: int, client_id: str = "ann") -> list[Budget]:
    buckets = limiter.buckets_of_order(client_id, ADDRESS)
    return await asyncio.gather(*(limiter.spend(buckets) for _ in range(count)))


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_burst_is_let_through_and_no_more(redis: Redis, at_once: bool) -> None:
    limiter = RateLimiter(redis, Limits(SLOW, SLOW, NO_LIMIT))
    if at_once:
        budgets = await orders(limiter, 5)
    else:
        budgets = [(await orders(limiter, 1))[0] for _ in range(5)]

    assert [budget.remaining for budget in budgets[:3]] == [2, 1, 0]
    assert [budget.wait_us > 0 for budget in budgets] == [False] * 3 + [True] * 2
    assert 0 < budgets[4].wait_us <= 1_000_000
    assert budgets[4].headers["Retry-After"] == "1"


async def test_tokens_come_back(redis: Redis) -> None:
    limiter = RateLimiter(redis, Limits(Limit(20, 1), SLOW, NO_LIMIT))
    first, refused = await orders(limiter, 2)
    await asyncio.sleep(refused.wait_us / 1_000_000 + 0.005)
    (later,) = await orders(limiter, 1)

    assert (first.wait_us, later.wait_us) == (0, 0)
    assert 0 < refused.wait_us <= 50_000


async def test_gateways_share_a_budget_and_clients_do_not(redis: Redis) -> None:
    one, other = (RateLimiter(redis, Limits(SLOW, SLOW, NO_LIMIT)) for _ in range(2))
    await orders(one, 3)

    assert (await orders(other, 1))[0].wait_us > 0
    assert (await orders(other, 1, "bob"))[0].wait_us == 0
    cancel = await other.spend(other.buckets_of_cancel("ann", ADDRESS))
    assert (cancel.wait_us, cancel.remaining) == (0, 2)


async def test_an_address_has_a_budget_for_all_its_clients(redis: Redis) -> None:
    limiter = RateLimiter(redis, Limits(NO_LIMIT, NO_LIMIT, SLOW))
    budgets = [(await orders(limiter, 1, f"client-{n}"))[0] for n in range(4)]

    assert [budget.wait_us > 0 for budget in budgets] == [False, False, False, True]


@pytest.mark.parametrize("away", [False, True], ids=["Redis", "local"])
async def test_the_headers_are_of_the_tighter_limit(redis: Redis, away: bool) -> None:
    counted_by = Redis.from_url(NOWHERE) if away else redis
    limiter = RateLimiter(counted_by, Limits(Limit(1, 10), SLOW, Limit(1, 4)))
    (alone,) = await orders(limiter, 1, "ann")
    fresh = await limiter.spend(limiter.buckets_of_order("ann", "192.0.2.2"))
    for n in range(7):
        last = await limiter.spend(limiter.buckets_of_order("ann", f"192.0.2.{n + 3}"))

    assert (alone.remaining, alone.limit) == (3, 4)
    assert (fresh.remaining, fresh.limit) == (3, 4)
    assert (last.remaining, last.limit) == (1, 10)
    await counted_by.aclose()


async def test_a_token_is_given_back(redis: Redis) -> None:
    limiter = RateLimiter(redis, Limits(SLOW, SLOW, SLOW))
    await orders(limiter, 3)
    limiter.give_back(limiter.buckets_of_order("ann", ADDRESS))
    await limiter.spend(limiter.buckets_of_cancel("other", "192.0.2.2"))

    assert (await orders(limiter, 1))[0].wait_us == 0
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
async def limited(venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with small budgets, and none spent yet."""
    async for key in venue.redis.scan_iter("{limits}:*"):
        await venue.redis.delete(key)
    limits = Limits(orders=SLOW, cancels=SLOW, address=Limit(1_000, 1_000))
    async with gateway_at(venue, limits=limits) as http:
        yield http


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
        began_s = time.monotonic()
        answers = [await http.post("/orders", json=body) for _ in range(6)]
        fresh = [await http.post("/orders", json=order(name)) for _ in range(4)]
        earned = (time.monotonic() - began_s) * SLOW.per_second

    assert {answer.status_code for answer in answers} == {201}
    # The last retry's token comes back with the next request.
    accepted = [answer.status_code for answer in fresh].count(201)
    assert SLOW.burst - 1 <= accepted <= SLOW.burst - 1 + earned


async def test_on_the_stream(venue: Venue) -> None:
    async with limited(venue) as http, connected(http) as client:
        name = "STREAMED-USD"
        await register(http, name)
        answers = [await client.ask(**order(name, client_id="streamer")) for _ in range(4)]

    assert [answer["type"] for answer in answers] == ["order_accepted"] * 3 + ["error"]
    assert (answers[3]["code"], answers[3]["retry_after"]) == ("rate.limited", 1)
