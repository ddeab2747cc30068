"""How many orders a second are taken in batches, and does everything keep up?

Workload: ``exchange load --batch 100`` over HTTP, as fast as it goes over a few connections, in a
process of its own: the load's mix (30 % at the market, uniform prices, 100 clients, a key each) to
one gateway; one matcher and one projector with every read model, all on this machine. Budgets are
off, since one address sends everything. An answer means that all orders of a batch are decided and
durable. The lag of each live read model is sampled meanwhile.

In turns with it the same generator sends single orders over 100 connections, so the ratio is what
batches save, and the same batches over the stream.

Not included: TLS, a network, more than one gateway, cancels.
"""

import asyncio
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from bench.lag import Lag, sampler
from bench.load import CONNECTIONS, Found, begin_load, each, load, report_of, waits_of
from bench.runner import Findings, Goal, ask, p99, parser_of, spread, table_of
from bench.spent import Spent
from bench.venue import Bench, running
from exchange.tools.market.waits import picture

BATCH: Final = 100
BATCH_CONNECTIONS: Final = 8  # enough that the matcher always has work
WARM_UP_S: Final = 4
WANTED: Final = 10_000
UNLIMITED: Final[dict[str, Any]] = {
    "rate_limit_orders_per_second": 0,
    "rate_limit_cancels_per_second": 0,
    "rate_limit_address_per_second": 0,
}


@dataclass(frozen=True, slots=True)
class Way:
    """What was measured of one way to send: rounds, and the processor time of all processes."""

    spent: Spent
    rounds: list[Found] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """Both ways, and the lag beside the batches."""

    single: Way
    batch: Way
    stream: Way
    lag: Lag = field(default_factory=Lag)


async def measure(rounds: int, seconds: int) -> Measured:
    """Measure both ways in turns, after a warm-up that does not count."""
    async with running(**UNLIMITED) as bench:
        single, batch, stream = (Way(Spent(bench.processes)) for _ in range(3))
        measured = Measured(single, batch, stream)
        await load(bench.url, WARM_UP_S, websocket=False)
        await batches(bench, WARM_UP_S, websocket=False)
        async with sampler(bench.settings, measured.lag) as sampling:
            for _ in range(rounds):
                measured.single.spent.begin()
                found = await load(bench.url, seconds, websocket=False)
                measured.single.spent.end(found["orders"])
                measured.single.rounds.append(found)
                for way in (measured.batch, measured.stream):
                    sampling.set()
                    way.spent.begin()
                    found = await batches(bench, seconds, websocket=way is measured.stream)
                    way.spent.end(found["orders"])
                    way.rounds.append(found)
                    sampling.clear()
    return measured


async def batches(bench: Bench, seconds: int, *, websocket: bool) -> Found:
    """Send batches, and return what the load reports."""
    loading = await begin_load(
        bench.url, seconds, websocket=websocket, connections=BATCH_CONNECTIONS, batch=BATCH
    )
    return await report_of(loading)


def document(measured: Measured) -> dict[str, Any]:
    """Return everything measured, for scripts."""
    return {
        "single": measured.single.rounds,
        "batches": measured.batch.rounds,
        "stream": measured.stream.rounds,
        "lag_s": {name: p99(values) for name, values in measured.lag.seconds.items()},
        "single_us_per_order": measured.single.spent.us_per_order(),
        "batch_us_per_order": measured.batch.spent.us_per_order(),
        "stream_us_per_order": measured.stream.spent.us_per_order(),
    }


def findings(measured: Measured) -> Findings:
    """Return rates and latencies, and where the time goes."""
    table = table_of("", "orders/s", "ratio", "p50 ms", "p99 ms", "not accepted")
    base = median(each(measured.single.rounds, "orders_per_second"))
    for name, way in (
        (f"single, {CONNECTIONS} connections", measured.single),
        (f"batches of {BATCH}, {BATCH_CONNECTIONS} connections", measured.batch),
        (f"the same over the stream, {BATCH_CONNECTIONS} connections", measured.stream),
    ):
        rates = each(way.rounds, "orders_per_second")
        times = [f"{median(each(way.rounds, 'latency_ms', p)):.0f}" for p in ("p50", "p99")]
        lost = sum(one["orders"] * (1 - one["success_rate"]) for one in way.rounds)
        table.add_row(name, spread(rates), f"{median(rates) / base:.2f}", *times, f"{lost:.0f}")
    costs = table_of("cpu us per order", "single", "in batches", "over the stream")
    ways = (measured.single, measured.batch, measured.stream)
    spent = [way.spent.us_per_order() for way in ways]
    for name in spent[0]:
        costs.add_row(name, *(f"{us[name]:,.0f}" for us in spent))
    costs.add_row("all", *(f"{sum(us.values()):,.0f}" for us in spent))
    slowest = max(p99(seconds) for seconds in measured.lag.seconds.values())
    return Findings(
        f"{len(measured.batch.rounds)} rounds in turns",
        [table, costs],
        [
            *(
                Goal(f"orders/s in batches over {name}", rate_of(way), WANTED)
                for name, way in (("HTTP", measured.batch), ("the stream", measured.stream))
            ),
            Goal("p99 of the slowest projection's lag, s", slowest, 1, at_most=True),
        ],
        [
            picture(waits_of(way.rounds), f"How long orders waited: {name}")
            for name, way in (("single", measured.single), ("in batches", measured.batch))
        ],
    )


def rate_of(way: Way) -> float:
    """Return the median of the rounds."""
    return median(each(way.rounds, "orders_per_second"))


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=20, help="of each part of a round")
    ask(parser, lambda o: asyncio.run(measure(o.rounds, o.seconds)), findings, document)


if __name__ == "__main__":
    main()
