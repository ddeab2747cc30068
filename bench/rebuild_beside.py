"""What does a rebuild cost those who trade meanwhile, and what do they cost the rebuild?

Workload: a whole exchange whose log is filled by ``exchange load`` as fast as it goes; that rate
counts as the maximum. Then, in turns, the load at half of it (open loop: each order at its intended
time) alone, and beside rebuilds of one read model, one after the other; that load goes on until the
last of them has ended. A rebuild has all its steps, the comparison and the switch among them. It is
timed without load too.

Wanted is that the offered rate is kept, and that the orders' p99 and the lag of the live read
models at most double.

Not included: several shards, gateways or builders, a log that does not fit into memory.
"""

import asyncio
import signal
import statistics
import time
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from bench.lag import Lag, sampler
from bench.load import Found, begin_load, load, median, report_of
from bench.runner import Findings, Goal, ask, parser_of, table_of
from bench.venue import Bench, running
from exchange.log.reader import read_heads
from projections.lifecycle.changes import By, begin_rebuild
from projections.lifecycle.generations import Generation, generations_of
from projections.registry import READ_MODELS

OPERATOR: Final = By("bench", "to see what it costs")
POLL_S: Final = 0.1
LIVE_TIMEOUT_S: Final = 900.0


@dataclass(slots=True)
class Side:
    """What was measured in the rounds with rebuilds, or in those without."""

    loads: list[Found] = field(default_factory=list)
    lag: Lag = field(default_factory=Lag)

    def lags_s(self) -> list[float]:
        """Return the lag of the slowest read model at each sample."""
        return [max(some) for some in zip(*self.lag.seconds.values(), strict=False)]


@dataclass(slots=True)
class Measured:
    """Rates in orders a second; the rebuilds' times in seconds for a million events."""

    projection: str
    maximum: float
    offered: float
    alone: Side = field(default_factory=Side)
    beside: Side = field(default_factory=Side)
    rebuilds_idle: list[float] = field(default_factory=list)
    rebuilds_loaded: list[float] = field(default_factory=list)


async def measure(projection: str, fill_s: int, seconds: int, rounds: int) -> Measured:
    """Fill a log, then measure in turns."""
    async with running() as bench:
        connection = await asyncpg.connect(bench.settings.database_url)
        try:
            filled = await load(bench.url, fill_s, websocket=True)
            maximum = float(filled["orders_per_second"])
            measured = Measured(projection, maximum, maximum / 2)
            await _caught_up(connection)
            for _ in range(rounds):
                measured.rebuilds_idle.append(await _rebuild(connection, projection))
                await _load_alone(bench, measured, seconds)
                await _load_beside(bench, measured, seconds, connection)
            return measured
        finally:
            connection.terminate()


async def _load_alone(bench: Bench, measured: Measured, seconds: int) -> None:
    """Offer the rate, and sample the lag meanwhile."""
    side = measured.alone
    async with sampler(bench.settings, side.lag) as sampling:
        sampling.set()
        side.loads.append(await load(bench.url, seconds, websocket=True, rate=measured.offered))
        sampling.clear()


async def _load_beside(
    bench: Bench, measured: Measured, seconds: int, connection: asyncpg.Connection
) -> None:
    """Offer the rate until a rebuild ends after so many seconds, and sample the lag meanwhile."""
    side, longest_s = measured.beside, seconds + LIVE_TIMEOUT_S
    before = await read_heads(connection)
    loading = await begin_load(bench.url, longest_s, websocket=True, rate=measured.offered)
    try:
        async with sampler(bench.settings, side.lag) as sampling:
            await _moved_on(connection, before)
            sampling.set()
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                took = await _rebuild(connection, measured.projection)
                measured.rebuilds_loaded.append(took)
            sampling.clear()
    finally:
        loading.send_signal(signal.SIGINT)
        report = await report_of(loading)
    side.loads.append(report)


async def _moved_on(connection: asyncpg.Connection, before: dict[int, int]) -> None:
    """Wait until there are events: a process that loads takes seconds to start."""
    async with asyncio.timeout(LIVE_TIMEOUT_S):
        while True:
            if await read_heads(connection) != before:
                return
            await asyncio.sleep(POLL_S)


async def _rebuild(connection: asyncpg.Connection, projection: str) -> float:
    """Rebuild a read model, and return how long it took, for a million events."""
    live = next(g for g in await generations_of(connection, projection) if g.live)
    assert live.fingerprint is not None
    begun_s = time.monotonic()
    number = await begin_rebuild(connection, projection, live.fingerprint, OPERATOR)
    await _until_live(connection, projection, number)
    events = sum((await read_heads(connection)).values())
    return (time.monotonic() - begun_s) / events * 1e6


async def _until_live(connection: asyncpg.Connection, projection: str, number: int) -> Generation:
    async with asyncio.timeout(LIVE_TIMEOUT_S):
        while True:
            found = await generations_of(connection, projection)
            generation = next(g for g in found if g.generation == number)
            assert generation.state != "failed", generation.failure
            if generation.live:
                return generation
            await asyncio.sleep(POLL_S)


async def _caught_up(connection: asyncpg.Connection) -> None:
    """Wait until the live read models are at the head, so that no round pays for the filling."""
    behind = """
        select max(head.position - checkpoints.position)
        from live join checkpoints using (projection, generation) join head using (shard)
    """
    async with asyncio.timeout(LIVE_TIMEOUT_S):
        while True:
            if await connection.fetchval(behind) == 0:
                return
            await asyncio.sleep(POLL_S)


def findings(measured: Measured) -> Findings:
    """Return both sides, and how many times the one is of the other."""
    table = table_of("", "rate/s", "p50 ms", "p99 ms", "lag median s", "lag max s")
    alone, beside = (_figures(side) for side in (measured.alone, measured.beside))
    for name, figures in (("alone", alone), ("beside", beside)):
        rate, p50, p99, lag_s, lag_max_s = figures
        row = (f"{rate:,.0f}", f"{p50:.0f}", f"{p99:.0f}", f"{lag_s:.2f}", f"{lag_max_s:.2f}")
        table.add_row(name, *row)
    times = [b / a if a else 1.0 for a, b in zip(alone, beside, strict=True)]
    table.add_row("times", *(f"{value:.2f}" for value in times))
    idle, loaded = (
        statistics.median(some) for some in (measured.rebuilds_idle, measured.rebuilds_loaded)
    )
    told = (
        f"A rebuild took {idle:.0f} s for a million events without load, {loaded:.0f} s beside it:"
        f" {loaded / idle:.1f} times as long."
    )
    return Findings(
        f"maximum {measured.maximum:,.0f} orders/s, offered {measured.offered:,.0f};"
        f" rebuilds of {measured.projection}",
        [table, told],
        [
            Goal("rate beside a rebuild, of that alone", times[0], 0.99),
            Goal("p99 beside a rebuild, of that alone", times[2], 2, at_most=True),
            Goal("median lag beside a rebuild, of that alone", times[3], 2, at_most=True),
        ],
    )


def _figures(side: Side) -> list[float]:
    lags_s = side.lags_s()
    keys = (("orders_per_second",), ("latency_ms", "p50"), ("latency_ms", "p99"))
    return [
        *(median(side.loads, *some) for some in keys),
        statistics.median(lags_s),
        max(lags_s),
    ]


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--projection", choices=READ_MODELS, default="orders")
    parser.add_argument("--fill", type=int, default=120, help="seconds of load before all rounds")
    parser.add_argument("--seconds", type=int, default=30, help="of load in each round, at least")
    parser.add_argument("--rounds", type=int, default=3)
    ask(
        parser,
        lambda o: asyncio.run(measure(o.projection, o.fill, o.seconds, o.rounds)),
        findings,
    )


if __name__ == "__main__":
    main()
