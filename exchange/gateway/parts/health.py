"""Whether orders can be taken: the services are asked once a second, not for each request.

``unhealthy`` means that orders cannot be taken (Kafka or Postgres is away) or are not decided (a
matcher is away, see ``backlog``). ``degraded`` means that orders are taken and decided, but answers
are slower or reads are behind (Redis is away, a read model does not follow the log, see
``following``), or engine snapshots have stopped. The same probe feeds the gauges of ``/metrics``.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.gateway.http.problems import Problem
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.following import Following, Standing
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import log_connection, model_connection
from exchange.log.reader import read_event_times, read_heads
from exchange.log.snapshot_store import read_failures
from exchange.transport.commands import CommandProducer
from exchange.waiting import heed_cancellation
from projections.publisher.published import Publication, read_publications
from projections.registry import IN_REDIS, READ_MODELS
from projections.stores.checkpoints import (
    LiveGeneration,
    ReadModelUnavailable,
    read_live_checkpoints,
    read_live_generations,
)
from projections.stores.redis import reached_model

logger = logging.getLogger(__name__)

PROBE_EVERY_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 1.0
BEHIND_AFTER_S: Final = 3.0  # a healthy projector is 0.1 s behind

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"
UNHEALTHY: Final = "unhealthy"
# Of publishing, which neither orders nor reads need: it does not change the status.
LAGGING: Final = "lagging"
STOPPED: Final = "stopped"

PING_POSTGRES = text("select 1")


class Health:
    """What the last probe found."""

    def __init__(
        self,
        engine: AsyncEngine,
        redis: Redis,
        producer: CommandProducer,
        backlog: Backlog,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._redis = redis
        self._producer = producer
        self._backlog = backlog
        self._metrics = metrics
        self._heads: deque[tuple[float, Mapping[int, int]]] = deque()  # of the last 3 s
        self.checks = dict.fromkeys(("postgres", "redis", "kafka"), UNHEALTHY)
        self._following = Following()
        self.projections: dict[str, Standing] = {}
        self.snapshots: dict[str, str] = {}
        self.publishing: dict[str, str] = {}
        self.probed_ms = time.time_ns() // 1_000_000  # when the last probe ended
        self._probed_s = self._measured_s = time.monotonic()
        self.first_probe = asyncio.Event()

    @property
    def matching(self) -> dict[str, str]:
        """Whether the commands of each shard get decided."""
        stalled = sorted(self._backlog.stalled.items())
        return {str(shard): UNHEALTHY if stands else HEALTHY for shard, stands in stalled}

    @property
    def status(self) -> str:
        """The worst of all: orders first, then reads and engine snapshots."""
        needed = (self.checks["postgres"], self.checks["kafka"], *self.matching.values())
        if UNHEALTHY in needed:
            return UNHEALTHY
        behind = {self.reads, *self.snapshots.values()} - {HEALTHY}
        return DEGRADED if behind else HEALTHY

    @property
    def orders(self) -> dict[str, str]:
        """Whether commands of each shard are taken and decided, as far as the last probe knows."""
        if UNHEALTHY in (self.checks["postgres"], self.checks["kafka"]):
            return dict.fromkeys(map(str, range(self.shards)), UNHEALTHY)
        return self.matching

    @property
    def reads(self) -> str:
        """Whether all read models can be read and keep up with the log."""
        if self.checks["postgres"] == UNHEALTHY:
            return UNHEALTHY
        follow = all(standing is Standing.HEALTHY for standing in self.projections.values())
        return HEALTHY if follow and self.checks["redis"] == HEALTHY else DEGRADED

    @property
    def age_ms(self) -> int:
        """How long ago the last probe ended."""
        return round(1000 * (time.monotonic() - self._probed_s))

    @property
    def shards(self) -> int:
        """How many shards the log had at the last probe, 0 before the first."""
        return max(self._heads[-1][1], default=-1) + 1 if self._heads else 0

    def is_away(self, service: str) -> bool:
        """Tell whether the last probe found that a service does not answer."""
        return self.checks[service] == UNHEALTHY

    def due(self, shard: int) -> int:
        """Return the position that a healthy read model has seen by now: the head 3 s ago."""
        latest_s = time.monotonic() - BEHIND_AFTER_S
        past = (heads for at_s, heads in reversed(self._heads) if at_s <= latest_s)
        return next(past, {}).get(shard, 0)

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            heed_cancellation()
            started_s = time.monotonic()
            await self._probe()
            self.first_probe.set()
            await asyncio.sleep(max(0.0, started_s + PROBE_EVERY_S - time.monotonic()))

    async def _probe(self) -> None:
        answers = await asyncio.gather(
            _answers(self._ping_postgres),
            _answers(self._ping_redis),
            self._producer.reachable(PROBE_TIMEOUT_S),
        )
        for name, up in zip(self.checks, answers, strict=True):
            self._note(name, up)
        if self.checks["postgres"] == HEALTHY and await _answers(self._measure_lag):
            self._measured_s = time.monotonic()
        elif time.monotonic() - self._measured_s > BEHIND_AFTER_S:
            self._following.forget()
            self._tell(dict.fromkeys(READ_MODELS, Standing.UNKNOWN), {})
        await self._measure_matching()
        self.probed_ms, self._probed_s = time.time_ns() // 1_000_000, time.monotonic()

    async def _measure_matching(self) -> None:
        if UNHEALTHY in (self.checks["postgres"], self.checks["kafka"]):
            self._backlog.forget()
            self._metrics.stalled.clear()
            return
        before = self.matching
        await _answers(self._backlog.measure)
        for number, stands in self._backlog.stalled.items():
            self._metrics.stalled.labels(str(number)).set(stands)
        for shard, state in self.matching.items():
            if state != before.get(shard, HEALTHY):
                logger.warning("A shard's matching changed", extra={"shard": shard, "state": state})

    def _note(self, name: str, up: bool) -> None:
        found = HEALTHY if up else UNHEALTHY
        if found != self.checks[name]:
            level = logging.INFO if up else logging.WARNING
            logger.log(level, "A service changed", extra={"service": name, "state": found})
        self.checks[name] = found
        self._metrics.up.labels(name).set(up)

    async def _ping_postgres(self) -> None:
        async with model_connection(self._engine) as connection:
            await connection.execute(PING_POSTGRES)

    async def _ping_redis(self) -> None:
        await self._redis.ping()

    async def _measure_lag(self) -> None:
        async with model_connection(self._engine) as connection:
            live = await read_live_generations(connection)
            stored = await read_live_checkpoints(connection)
        async with log_connection(self._engine) as driver:
            heads = await read_heads(driver)
            stopped = await read_failures(driver)
            published = await read_publications(driver)
            await self._measure_publishing(driver, published, heads)
        self._note_heads(heads)
        self.snapshots = {str(s): DEGRADED if s in stopped else HEALTHY for s in sorted(heads)}
        reached = {
            name: await self._redis_positions(name, live.get(name), list(heads))
            if name in IN_REDIS
            else {shard: stored.get(name, {}).get(shard, 0) for shard in heads}
            for name in READ_MODELS
        }
        await self._measure_lag_seconds(reached, heads)
        self._measure_lag_events(reached, heads)
        due = {shard: self.due(shard) for shard in heads}
        now_s = time.monotonic()
        standings = {
            name: self._following.judge(name, live.get(name), reached[name], heads, due, now_s)
            for name in READ_MODELS
        }
        self._tell(standings, live)

    async def _measure_publishing(
        self,
        driver: asyncpg.Connection,
        published: Mapping[int, Publication],
        heads: Mapping[int, int],
    ) -> None:
        """Tell how far behind the topic of events is, of shards that were ever published."""
        lags = {shard: max(0, heads.get(shard, 0) - at.position) for shard, at in published.items()}
        waiting = {shard: published[shard].position + 1 for shard, lag in lags.items() if lag}
        times_ms = await read_event_times(driver, sorted(waiting.items())) if waiting else {}
        now_ms = time.time_ns() // 1_000_000
        for shard, lag in lags.items():
            lag_ms = now_ms - times_ms.get((shard, waiting.get(shard, 0)), now_ms)
            self._metrics.unpublished.labels(str(shard)).set(lag)
            self._metrics.unpublished_seconds.labels(str(shard)).set(max(0, lag_ms) / 1000)
        self.publishing = {
            str(shard): _publishing(at, self.due(shard)) for shard, at in sorted(published.items())
        }

    def _measure_lag_events(
        self, reached: Mapping[str, Mapping[int, int]], heads: Mapping[int, int]
    ) -> None:
        for shard, head in heads.items():
            self._metrics.head.labels(str(shard)).set(head)
            for name in READ_MODELS:
                lag = max(0, head - reached[name].get(shard, 0))
                self._metrics.lag.labels(name, str(shard)).set(lag)

    def _tell(self, projections: dict[str, Standing], live: Mapping[str, LiveGeneration]) -> None:
        """Show how well each read model follows the log, and log what changed."""
        for name, standing in projections.items():
            self._metrics.stands(name, standing)
            if standing is not self.projections.get(name, Standing.HEALTHY):
                fields = {"projection": name, "state": standing.value}
                if standing is Standing.FAILED:
                    fields["failure"] = live[name].failure or ""
                level = logging.INFO if standing is Standing.HEALTHY else logging.WARNING
                logger.log(level, "A projection's state changed", extra=fields)
        self.projections = projections

    async def _measure_lag_seconds(
        self, reached: Mapping[str, Mapping[int, int]], heads: Mapping[int, int]
    ) -> None:
        """Set the gauges for the age of the oldest event that each read model has not seen."""
        oldest = {
            (name, shard): reached[name].get(shard, 0) + 1
            for name in READ_MODELS
            for shard in heads
        }
        waiting = {(s, p) for (_, s), p in oldest.items() if p <= heads[s]}
        times_ms: dict[tuple[int, int], int] = {}
        if waiting:
            async with log_connection(self._engine) as driver:
                times_ms = await read_event_times(driver, sorted(waiting))
        now_ms = time.time_ns() // 1_000_000
        for (name, shard), position in oldest.items():
            lag_ms = now_ms - times_ms.get((shard, position), now_ms)
            self._metrics.lag_seconds.labels(name, str(shard)).set(max(0, lag_ms) / 1000)

    async def _redis_positions(
        self, name: str, live: LiveGeneration | None, shards: Sequence[int]
    ) -> dict[int, int]:
        """Return how far a read model in Redis is, by shard; empty if it cannot be read.

        A Redis that just did not answer is not asked: it would take the time in which the other
        models are measured.
        """
        if live is None or self.is_away("redis"):
            return {}
        try:
            return await reached_model(self._redis, name, live.generation, shards)
        except ReadModelUnavailable:
            return {}

    def _note_heads(self, heads: Mapping[int, int]) -> None:
        now_s = time.monotonic()
        self._heads.append((now_s, heads))
        while len(self._heads) > 1 and self._heads[1][0] <= now_s - BEHIND_AFTER_S:
            self._heads.popleft()


def _publishing(published: Publication, due: int) -> str:
    if published.failure is not None:
        return STOPPED
    return HEALTHY if published.position >= due else LAGGING


async def _answers(ask: Callable[[], Awaitable[object]]) -> bool:
    """Tell whether a service answered in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await ask()
    except (Problem, RedisError, OSError, TimeoutError):
        return False
    return True
