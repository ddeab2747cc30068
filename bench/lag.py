"""How far is each projection behind the log while orders come?

Workload: that of ``bench.orders`` (wrk with 100 connections, single orders over HTTP, as fast as
they are answered) on one gateway, one matcher and one projector with every read model.

The lag is sampled ten times a second. In seconds it is how long ago the head passed the checkpoint,
counted from the last sample before it was seen there: the figure may be a tenth of a second too
high, never too low.

Not included: a rebuild while the live models are kept up, several shards, more than one projector.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from bench.venue import machine, running, table_of
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


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description="The lag of every projection during load.")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    require_wrk()
    loaded, lag = asyncio.run(measure(options.seconds))
    if options.json:
        print(msgspec.json.encode(document(loaded, lag)).decode())
    else:
        console = Console()
        console.print(f"{loaded.rate:,.0f} orders/s, {CONNECTIONS} connections, {machine()}")
        console.print(lag_table(lag))


async def measure(seconds: int) -> tuple[Round, Lag]:
    """Sample while orders come, after a warm-up that does not count."""
    lag = Lag()
    async with running() as bench, sampler(bench.settings, lag) as sampling:
        await wrk(bench.url, "lag-0", WARM_UP_S)
        sampling.set()
        loaded = await wrk(bench.url, "lag-1", seconds)
        sampling.clear()
    return loaded, lag


def document(loaded: Round, lag: Lag) -> dict[str, object]:
    """Return everything measured, for scripts."""
    return {
        "machine": machine(),
        "orders": loaded,
        "lag_s": {name: spread(values) for name, values in lag.seconds.items()},
        "lag_events": {name: spread(values) for name, values in lag.events.items()},
    }


def spread(values: list[float] | list[int]) -> dict[str, float]:
    """Return the usual and the worst."""
    return {"median": statistics.median(values), "max": max(values)}


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


def lag_table(lag: Lag) -> Table:
    """Return how far each projection was behind."""
    table = table_of("projection lag", "median s", "max s", "median events", "max events")
    for name, seconds in sorted(lag.seconds.items()):
        events = lag.events[name]
        times = [f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]
        table.add_row(name, *times, f"{statistics.median(events):,.0f}", f"{max(events):,}")
    return table


if __name__ == "__main__":
    main()
