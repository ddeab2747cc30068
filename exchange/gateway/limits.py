"""Rate limits: how many commands a client, and an address, may send.

Read ``RateLimiter.spend``. A bucket is one number in Redis, the time at which it would be
full again: taking a token moves it by the interval between two tokens, and there is none
while it is further off than the burst allows (the generic cell rate algorithm; ITU-T
I.371, "virtual scheduling"). All gateways share the buckets.

Commands that arrive while Redis is being asked are asked about together in the next
request, so that a busy gateway pays for few. While Redis is away, or slow, the gateway
keeps buckets of its own: a limit may then be spent once at each gateway, but no order
waits for Redis.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from typing import Any, Final, cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from exchange.cancellation import retrieve_error

logger = logging.getLogger(__name__)

MICROSECONDS: Final = 1_000_000
REQUESTS_MAX: Final = 500  # in one script: some 2 ms of Redis
REDIS_WAIT_S: Final = 0.1  # an answer takes a millisecond; no order waits longer for one
LOCAL_S: Final = 1.0  # how long the gateway counts for itself after Redis failed
LOCAL_BUCKETS_MAX: Final = 20_000  # some 4 MB; the ones used least lately are forgotten, and full

# KEYS: two buckets for each request, then those to give a token back to. ARGV: how many requests,
# then for each bucket the interval between two tokens in microseconds (0: no limit) and the burst.
# Answers for each request how long to wait (0: taken), and of the tighter of its buckets what is
# left, until it is full again, and its burst.
SPEND = """#!lua
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
local spent = 2 * tonumber(ARGV[1])
for first = 1, spent, 2 do
    local wait, left, full, size, moved = 0, nil, 0, 0, {}
    for at = first, first + 1 do
        local interval, burst = tonumber(ARGV[2 * at]), tonumber(ARGV[2 * at + 1])
        if interval > 0 then
            local after = math.max(tonumber(redis.call('GET', KEYS[at]) or '0'), now) + interval
            local room = burst * interval - (after - now)
            wait = math.max(wait, -room)
            local tokens = math.max(0, math.floor(room / interval))
            if not left or tokens < left then
                left, full, size = tokens, after - now, burst
            end
            moved[at] = after
        end
    end
    if wait == 0 then
        for at, after in pairs(moved) do
            local kept_ms = math.ceil((after - now) / 1000)
            redis.call('SET', KEYS[at], string.format('%.0f', after), 'PX', kept_ms)
        end
    end
    answers[#answers + 1] = wait
    answers[#answers + 1] = left or -1
    answers[#answers + 1] = full
    answers[#answers + 1] = size
end
for at = spent + 1, #KEYS do
    local back = tonumber(redis.call('GET', KEYS[at]) or '0') - tonumber(ARGV[2 * at])
    if back > now then
        redis.call('SET', KEYS[at], string.format('%.0f', back), 'KEEPTTL')
    end
end
return answers
"""


class Limit(Struct, frozen=True):
    """How many commands a second, and how many at once; a rate of 0 is no limit."""

    per_second: int
    burst: int

    @property
    def interval_us(self) -> int:
        return MICROSECONDS // self.per_second if self.per_second else 0


class Limits(Struct, frozen=True):
    """The limits of each client for orders and for cancels, and of each address for both."""

    orders: Limit
    cancels: Limit
    address: Limit


NO_LIMIT: Final = Limit(0, 0)
NO_LIMITS: Final = Limits(NO_LIMIT, NO_LIMIT, NO_LIMIT)


class Budget(Struct, frozen=True):
    """What is left after a command, and the burst: of the tighter of its two limits.

    ``wait_us`` is 0 if the command may be sent; ``remaining`` is negative without a limit.
    """

    wait_us: int
    remaining: int
    full_us: int
    limit: int

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say so; none without a limit."""
        if self.remaining < 0 and not self.wait_us:
            return {}
        headers = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(max(0, self.remaining)),
            "RateLimit-Reset": str(_seconds(self.full_us)),
        }
        return headers | ({"Retry-After": str(self.retry_after_s)} if self.wait_us else {})

    @property
    def retry_after_s(self) -> int:
        return _seconds(self.wait_us)


class Buckets(Struct, frozen=True):
    """The buckets that a command takes from: its client's, if it names one, and its address's."""

    keys: tuple[str, str]
    limits: tuple[Limit, Limit]


class RateLimiter:
    """The limits of one gateway."""

    def __init__(self, redis: Redis, limits: Limits) -> None:
        self._redis = redis
        self._limits = limits
        self._waiting: list[tuple[Buckets, asyncio.Future[Budget]]] = []
        self._given_back: list[Buckets] = []
        self._asking: asyncio.Task[None] | None = None
        self._local = _LocalBuckets()
        self._local_until_s = 0.0

    def buckets_of_order(self, client_id: str, address: str) -> Buckets:
        return self._buckets("orders", client_id, address, self._limits.orders)

    def buckets_of_cancel(self, client_id: str | None, address: str) -> Buckets:
        limit = NO_LIMIT if client_id is None else self._limits.cancels
        return self._buckets("cancels", client_id or "", address, limit)

    async def spend(self, buckets: Buckets) -> Budget:
        """Take a token from both buckets if both have one."""
        if not any(limit.per_second for limit in buckets.limits):
            return Budget(0, -1, 0, 0)
        if time.monotonic() < self._local_until_s:
            return self._local.spend(buckets)
        future: asyncio.Future[Budget] = asyncio.get_running_loop().create_future()
        self._waiting.append((buckets, future))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return await future

    def give_back(self, buckets: Buckets) -> None:
        """Return a token, with the next request: the command turned out to be a replay."""
        if any(limit.per_second for limit in buckets.limits):
            self._given_back = [*self._given_back[-REQUESTS_MAX:], buckets]

    def _buckets(self, kind: str, client_id: str, address: str, limit: Limit) -> Buckets:
        # One hash tag: a script may then use all of them, on a cluster too.
        keys = (f"{{limits}}:{kind}:client:{client_id}", f"{{limits}}:{kind}:address:{address}")
        return Buckets(keys, (limit, self._limits.address))

    async def _ask_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:REQUESTS_MAX], self._waiting[REQUESTS_MAX:]
            budgets = await self._ask([buckets for buckets, _ in batch])
            for (_, future), budget in zip(batch, budgets, strict=True):
                if not future.done():
                    future.set_result(budget)

    async def _ask(self, batch: Sequence[Buckets]) -> list[Budget]:
        back, self._given_back = self._given_back[:REQUESTS_MAX], []
        try:
            answers = await _within(REDIS_WAIT_S, self._run(batch, back))
        except (RedisError, OSError, TimeoutError) as error:
            if time.monotonic() - self._local_until_s > LOCAL_S:
                fields = {"error": repr(error)}
                logger.warning("Redis is away; this gateway counts for itself", extra=fields)
            self._local_until_s = time.monotonic() + LOCAL_S
            return [self._local.spend(buckets) for buckets in batch]
        parts = len(Budget.__struct_fields__)
        return [Budget(*answers[at : at + parts]) for at in range(0, len(answers), parts)]

    async def _run(self, batch: Sequence[Buckets], back: Sequence[Buckets]) -> list[int]:
        pairs = [pair for b in (*batch, *back) for pair in zip(b.keys, b.limits, strict=True)]
        arguments: list[int] = [len(batch)]
        for _, limit in pairs:
            arguments += (limit.interval_us, limit.burst)
        script = self._redis.register_script(SPEND)
        return cast("list[int]", await script(keys=[key for key, _ in pairs], args=arguments))


class _LocalBuckets:
    """The same buckets in memory, for while Redis is away."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def spend(self, buckets: Buckets) -> Budget:
        now = time.monotonic_ns() // 1_000
        moved: dict[str, int] = {}
        wait, left, full, size = 0, -1, 0, 0
        for key, limit in zip(buckets.keys, buckets.limits, strict=True):
            interval = limit.interval_us
            if interval:
                moved[key] = max(self._full_at.get(key, 0), now) + interval
                room = limit.burst * interval - (moved[key] - now)
                wait = max(wait, -room)
                tokens = max(0, room // interval)
                if left < 0 or tokens < left:
                    left, full, size = tokens, moved[key] - now, limit.burst
        if not wait:
            self._keep(moved)
        return Budget(wait, left, full, size)

    def _keep(self, moved: dict[str, int]) -> None:
        for key, full_at in moved.items():
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
        while len(self._full_at) > LOCAL_BUCKETS_MAX:
            self._full_at.popitem(last=False)


async def _within(seconds: float, work: Awaitable[Any]) -> Any:
    """Wait a bounded time; the Redis client may drop a cancellation, so it is left to end."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(retrieve_error)
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


def _seconds(microseconds: int) -> int:
    return math.ceil(microseconds / MICROSECONDS)
