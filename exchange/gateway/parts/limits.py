"""Rate limits: how much a client, a key, and an address may ask for.

Read ``RateLimiter.spend``. A bucket is one number in Redis: the time at which it will be full
again. Taking a token moves that time on by the interval between two tokens. There is no token while
that time would be further off than the burst allows (the generic cell rate algorithm; ITU-T I.371,
"virtual scheduling"). All gateways share the buckets.

Spending returns a receipt. Giving a receipt back returns its tokens to the buckets that they came
from, in Redis or in this process; a refused request took none.

Requests that arrive while Redis is being asked go to it together in the next call, so a busy
gateway makes few calls. While Redis is away, or slow, the gateway counts in buckets of its own: a
limit may then be spent once at each gateway, but no order waits for Redis.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from exchange.waiting import within

logger = logging.getLogger(__name__)

MICROSECONDS: Final = 1_000_000
REQUESTS_MAX: Final = 500  # in one script: some 2 ms of Redis
REDIS_WAIT_S: Final = 0.1  # an answer takes a millisecond; no order waits longer for one
LOCAL_S: Final = 1.0  # how long the gateway counts for itself after Redis failed
# About 4 MB of memory. The least recently used buckets are dropped. A dropped bucket counts as
# full.
LOCAL_BUCKETS_MAX: Final = 20_000

# KEYS: three buckets for each request, then the buckets to give a token back to. ARGV: how many
# requests, then for each bucket the interval between two tokens in microseconds (0: no limit) and
# the burst. The answer has for each bucket of a request the microseconds until it is full again if
# a token is taken. A request takes a token from all its buckets, or from none.
SPEND = """#!lua
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
local spent = 3 * tonumber(ARGV[1])
for first = 1, spent, 3 do
    local taken, moved = true, {}
    for at = first, first + 2 do
        local interval, burst = tonumber(ARGV[2 * at]), tonumber(ARGV[2 * at + 1])
        answers[at] = 0
        if interval > 0 then
            moved[at] = math.max(tonumber(redis.call('GET', KEYS[at]) or '0'), now) + interval
            answers[at] = moved[at] - now
            taken = taken and answers[at] <= burst * interval
        end
    end
    if taken then
        for at, after in pairs(moved) do
            local kept_ms = math.ceil(answers[at] / 1000)
            redis.call('SET', KEYS[at], string.format('%.0f', after), 'PX', kept_ms)
        end
    end
end
for at = spent + 1, #KEYS do
    local back = tonumber(redis.call('GET', KEYS[at]) or '0') - tonumber(ARGV[2 * at])
    if back > now then
        redis.call('SET', KEYS[at], string.format('%.0f', back), 'KEEPTTL')
    end
end
return answers
"""


class Kind(StrEnum):
    """What has a budget of its own.

    ``RETRIES`` are commands whose key was used before. ``OPERATIONS`` are the rare commands:
    instruments, settlement, snapshots. ``HISTORY`` is every read back from a position in the past.
    ``OUTCOMES`` are questions for the outcome of a command. ``SIGNATURES`` are those that were
    wrong.
    """

    ORDERS = "orders"
    CANCELS = "cancels"
    RETRIES = "retries"
    OPERATIONS = "operations"
    HISTORY = "history"
    OUTCOMES = "outcomes"
    SIGNATURES = "signatures"


class Limit(Struct, frozen=True):
    """How many requests a second, and how many at once; a rate of 0 is no limit."""

    per_second: int
    burst: int

    @property
    def interval_us(self) -> int:
        """The time between two tokens, 0 without a limit."""
        return MICROSECONDS // self.per_second if self.per_second else 0


NO_LIMIT: Final = Limit(0, 0)


class Limits(Struct, frozen=True):
    """The limits of each client, by kind, of each key and of each address.

    ``address`` bounds the orders, the cancels and the questions for outcomes of one address, each
    counted apart. For the other kinds an address has the same limit as a client. ``key`` bounds
    each kind of a key, counted apart. Wrong ``signatures`` count for their address alone.
    """

    orders: Limit = NO_LIMIT
    cancels: Limit = NO_LIMIT
    address: Limit = NO_LIMIT
    retries: Limit = NO_LIMIT
    operations: Limit = NO_LIMIT
    history: Limit = NO_LIMIT
    key: Limit = NO_LIMIT
    signatures: Limit = NO_LIMIT

    def of(self, kind: Kind) -> tuple[Limit, Limit]:
        """Return the limit of a client and that of an address."""
        match kind:
            case Kind.ORDERS:
                return self.orders, self.address
            case Kind.CANCELS:
                return self.cancels, self.address
            case Kind.RETRIES:
                return self.retries, self.retries
            case Kind.OPERATIONS:
                return self.operations, self.operations
            case Kind.HISTORY:
                return self.history, self.history
            case Kind.OUTCOMES:
                return NO_LIMIT, self.address
            case Kind.SIGNATURES:
                return NO_LIMIT, self.signatures


NO_LIMITS: Final = Limits()


class Budget(Struct, frozen=True):
    """What a request left of the tightest of its limits.

    ``wait_us`` is how long until there is a token, 0 if the request got one. ``remaining`` counts
    tokens and is negative without a limit. ``full_us`` is how long until all are back, ``limit``
    the burst.
    """

    wait_us: int
    remaining: int
    full_us: int
    limit: int

    @property
    def is_unlimited(self) -> bool:
        return self.remaining < 0

    @property
    def headers(self) -> dict[str, str]:
        """The ``RateLimit`` headers; none without a limit."""
        if self.is_unlimited:
            return {}
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }

    @property
    def reset_s(self) -> int:
        """Whole seconds until all tokens are back."""
        return _seconds(self.full_us)

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until there is a token."""
        return _seconds(self.wait_us)


UNLIMITED: Final = Budget(0, -1, 0, 0)


class Buckets(Struct, frozen=True):
    """The buckets of a request: its client's, its key's and its address's.

    Without a client, or a key, that bucket has no limit.
    """

    keys: tuple[str, str, str]
    limits: tuple[Limit, Limit, Limit]


class Receipt(Struct, frozen=True):
    """What a request spent.

    ``taken_from`` has the buckets that lost a token, None if none did. ``is_local`` says that they
    are this gateway's own, not those in Redis.
    """

    budget: Budget
    taken_from: Buckets | None = None
    is_local: bool = False


class RateLimiter:
    """The limits of one gateway, or of a process that counts for itself: without Redis."""

    def __init__(self, redis: Redis | None, limits: Limits) -> None:
        self._redis = redis
        self._limits = limits
        self._waiting: list[tuple[Buckets, asyncio.Future[Receipt]]] = []
        self._given_back: list[Buckets] = []
        self._asking: asyncio.Task[None] | None = None
        self._local = _LocalBuckets()
        self._local_until_s = 0.0 if redis else math.inf

    async def spend(
        self, kind: Kind, client_id: str | None, address: str, key_id: str | None = None
    ) -> Receipt:
        """Take a token from each bucket of a request, or from none if one is empty."""
        spent = self._begin_to_spend(kind, client_id, address, key_id)
        return spent if isinstance(spent, Receipt) else await spent

    async def spend_all(
        self, kinds: Sequence[tuple[Kind, str | None]], address: str, key_id: str | None = None
    ) -> list[Receipt]:
        """Spend for requests of an address, each of a kind and a client, in one question."""
        all_spent = [self._begin_to_spend(*kind, address, key_id) for kind in kinds]
        return [spent if isinstance(spent, Receipt) else await spent for spent in all_spent]

    def _begin_to_spend(
        self, kind: Kind, client_id: str | None, address: str, key_id: str | None
    ) -> "Receipt | asyncio.Future[Receipt]":
        buckets = self._buckets(kind, client_id, address, key_id)
        if not any(limit.per_second for limit in buckets.limits):
            return Receipt(UNLIMITED)
        if time.monotonic() < self._local_until_s:
            return self._local.spend(buckets)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting.append((buckets, future))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return future

    def give_back(self, receipt: Receipt) -> None:
        """Return the tokens of a receipt, if it has any; Redis gets them with the next call."""
        if receipt.taken_from is None:
            return
        if receipt.is_local:
            self._local.give_back(receipt.taken_from)
        else:
            self._given_back = [*self._given_back[-REQUESTS_MAX:], receipt.taken_from]

    def _buckets(
        self, kind: Kind, client_id: str | None, address: str, key_id: str | None
    ) -> Buckets:
        # All keys have one hash tag, so that a script may use all of them on a Redis cluster too.
        keys = (
            f"{{limits}}:{kind}:client:{client_id or ''}",
            f"{{limits}}:{kind}:key:{key_id or ''}",
            f"{{limits}}:{kind}:address:{address}",
        )
        own, of_address = self._limits.of(kind)
        of_client = NO_LIMIT if client_id is None else own
        of_key = NO_LIMIT if key_id is None else self._limits.key
        return Buckets(keys, (of_client, of_key, of_address))

    async def _ask_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:REQUESTS_MAX], self._waiting[REQUESTS_MAX:]
            receipts = await self._ask([buckets for buckets, _ in batch])
            for (_, future), receipt in zip(batch, receipts, strict=True):
                if not future.done():
                    future.set_result(receipt)

    async def _ask(self, batch: Sequence[Buckets]) -> list[Receipt]:
        back, self._given_back = self._given_back[:REQUESTS_MAX], []
        try:
            full_us = await within(REDIS_WAIT_S, self._run(batch, back))
        except (RedisError, OSError, TimeoutError) as error:
            if time.monotonic() - self._local_until_s > LOCAL_S:
                fields = {"error": repr(error)}
                logger.warning("Redis is away; this gateway counts for itself", extra=fields)
            self._local_until_s = time.monotonic() + LOCAL_S
            return [self._local.spend(buckets) for buckets in batch]
        return [_receipt(buckets, full_us[3 * n : 3 * n + 3]) for n, buckets in enumerate(batch)]

    async def _run(self, batch: Sequence[Buckets], back: Sequence[Buckets]) -> list[int]:
        pairs = [pair for b in (*batch, *back) for pair in zip(b.keys, b.limits, strict=True)]
        arguments: list[int] = [len(batch)]
        for _, limit in pairs:
            arguments += (limit.interval_us, limit.burst)
        assert self._redis is not None
        script = self._redis.register_script(SPEND)
        return cast("list[int]", await script(keys=[key for key, _ in pairs], args=arguments))


class _LocalBuckets:
    """Buckets in this process, used while Redis is away."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def spend(self, buckets: Buckets) -> Receipt:
        now = time.monotonic_ns() // 1_000
        limited = [
            (key, limit.interval_us)
            for key, limit in zip(buckets.keys, buckets.limits, strict=True)
            if limit.per_second
        ]
        moved = {key: max(self._full_at.get(key, 0), now) + us for key, us in limited}
        full_us = [moved.get(key, now) - now for key in buckets.keys]
        receipt = _receipt(buckets, full_us, is_local=True)
        if receipt.taken_from is not None:
            self._keep(moved)
        return receipt

    def give_back(self, buckets: Buckets) -> None:
        for key, limit in zip(buckets.keys, buckets.limits, strict=True):
            if key in self._full_at:
                self._full_at[key] -= limit.interval_us

    def _keep(self, moved: dict[str, int]) -> None:
        for key, full_at in moved.items():
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
        while len(self._full_at) > LOCAL_BUCKETS_MAX:
            self._full_at.popitem(last=False)


def _receipt(buckets: Buckets, full_us: Sequence[int], *, is_local: bool = False) -> Receipt:
    """Return the receipt of a request.

    ``full_us`` says of each bucket how long it is until it is full again if this request takes a
    token.
    """
    told = [
        _budget(limit, after_us)
        for limit, after_us in zip(buckets.limits, full_us, strict=True)
        if limit.per_second
    ]
    # The headers have room for one bucket: the one with the longer wait, then the emptier one.
    tighter = max(told, key=lambda budget: (budget.wait_us, -budget.remaining))
    return Receipt(tighter, None if tighter.wait_us else buckets, is_local)


def _budget(limit: Limit, after_us: int) -> Budget:
    room_us = limit.burst * limit.interval_us - after_us
    if room_us < 0:  # the token was not taken
        return Budget(-room_us, 0, after_us - limit.interval_us, limit.burst)
    return Budget(0, room_us // limit.interval_us, after_us, limit.burst)


def _seconds(microseconds: int) -> int:
    return math.ceil(microseconds / MICROSECONDS)
