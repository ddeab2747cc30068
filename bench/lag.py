"""How far is each projection behind the log while orders come?

Workload: that of ``bench.orders`` (wrk with 100 connections, single orders over HTTP, as fast as
they are answered) on one gateway, one matcher and one projector with every read model.

The lag is sampled ten times a second. In seconds it is how long ago the head passed the checkpoint,
counted from the last sample before it was seen there: the figure may be a tenth of a second too
high, never too low.

Not included: a rebuild while the live models are kept up, several shards, more than one projector.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from redis.asyncio import Redis

from bench.runner import Findings, Goal, ask, histogram, p99, parser_of, table_of
from bench.venue import running
from bench.wrk import CONNECTIONS, Round, require_wrk, wrk
from exchange.config import Settings
from exchange.log.reader import read_heads
from projections.registry import IN_REDIS
from projections.stores.redis import reached_model

SAMPLE_S = 0.1
WARM_UP_S = 3

READ_CHECKPOINTS = """
select projection, position from checkpoints join live using (projection, generation)
where shard = 0
"""

READ_GENERATIONS = "select projection, generation from live"


@dataclass
class Lag:
    """How far each projection was behind: the worst and the usual, in seconds and events."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    events: dict[str, list[int]] = field(default_factory=dict)

    def add(self, projection: str, seconds: float, events: int) -> None:
        """Note one sample of a projection."""
        self.seconds.setdefault(projection, []).append(seconds)
        self.events.setdefault(projection, []).append(events)


async def measure(seconds: int) -> tuple[Round, Lag]:
    """Sample while orders come, after a warm-up that does not count."""
    lag = Lag()
    async with running() as bench, sampler(bench.settings, lag) as sampling:
        await wrk(bench.url, "lag-0", WARM_UP_S)
        sampling.set()
        loaded = await wrk(bench.url, "lag-1", seconds)
        sampling.clear()
    return loaded, lag


def document(measured: tuple[Round, Lag]) -> dict[str, Any]:
    """Return everything measured, for scripts."""
    loaded, lag = measured
    return {
        "orders": loaded,
        "lag_s": {name: usual_and_worst(values) for name, values in lag.seconds.items()},
        "lag_events": {name: usual_and_worst(values) for name, values in lag.events.items()},
    }


def usual_and_worst(values: list[float] | list[int]) -> dict[str, float]:
    """Return the median, the 99th percentile and the worst."""
    return {"median": statistics.median(values), "p99": p99(values), "max": max(values)}


@asynccontextmanager
async def sampler(settings: Settings, lag: Lag) -> AsyncIterator[asyncio.Event]:
    """Sample the projections' lag while the event that this yields is set."""
    sampling = asyncio.Event()
    connection = await asyncpg.connect(settings.database_url)
    async with Redis.from_url(settings.redis_url) as redis:
        task = asyncio.create_task(sample(connection, redis, lag, sampling))
        try:
            yield sampling
        finally:
            task.cancel()
            await asyncio.wait({task})
            await connection.close()


async def sample(
    connection: asyncpg.Connection, redis: Redis, lag: Lag, sampling: asyncio.Event
) -> None:
    """Note again and again how long each checkpoint has been behind the head."""
    heads: list[tuple[float, int]] = []  # the time before the head was seen at each position
    last_s = time.monotonic()
    while True:
        if not sampling.is_set():
            await sampling.wait()
            last_s = time.monotonic()
        now_s = time.monotonic()
        # The checkpoints first, so that a head that moves meanwhile makes them look worse.
        reached = dict(await connection.fetch(READ_CHECKPOINTS))
        live = dict(await connection.fetch(READ_GENERATIONS))
        for name in IN_REDIS:
            reached[name] = (await reached_model(redis, name, live[name], [0]))[0]
        head = (await read_heads(connection))[0]
        heads.append((last_s, head))
        last_s = now_s
        for projection, position in reached.items():
            passed = [seen_s for seen_s, seen in heads if seen > position]
            lag.add(projection, now_s - passed[0] if passed else 0.0, head - position)
        slowest = min(reached.values())
        heads = [(seen_s, seen) for seen_s, seen in heads if seen > slowest] or heads[-1:]
        await asyncio.sleep(SAMPLE_S)


def findings(measured: tuple[Round, Lag]) -> Findings:
    """Return how far each projection was behind."""
    loaded, lag = measured
    table = table_of("projection", "median s", "p99 s", "max s", "median events", "max events")
    for name, seconds in sorted(lag.seconds.items()):
        events = lag.events[name]
        times = [f"{value:.2f}" for value in usual_and_worst(seconds).values()]
        table.add_row(name, *times, f"{statistics.median(events):,.0f}", f"{max(events):,}")
    slowest, name = max((p99(seconds), name) for name, seconds in lag.seconds.items())
    return Findings(
        f"{loaded.rate:,.0f} orders/s, {CONNECTIONS} connections",
        [table],
        [Goal("p99 of the slowest projection's lag, s", slowest, 1, at_most=True)],
        [histogram((1_000 * s for s in lag.seconds[name]), f"How far {name} was behind")],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, default=15)
    require_wrk()
    ask(parser, lambda o: asyncio.run(measure(o.seconds)), findings, document)


if __name__ == "__main__":
    main()
