"""How many orders a second does one machine take over HTTP, and how long does each wait?

Workload: wrk with 100 connections on one thread sends single orders (``orders.lua``: 30 % at the
market, uniform prices, 100 clients, an idempotency key each) to one gateway; one matcher and one
projector with every read model run too, on real Kafka, PostgreSQL (fsync on) and Valkey, all on
this machine. An answer means that the order is decided and durable; after each round the orders in
the log are counted against the answers. Then the same with 10 connections, and ``exchange load`` at
200 orders a second (open loop: each order at its intended time), which is how long an order waits
that is alone.

The floor is measured in the same run, in turns with the orders: the same server and the same
bodies, decoded and answered, nothing else (``floor.py``). What the exchange adds is the ratio.

Not included: TLS, a network, more than one gateway, cancels, reads. The loop of wrk is closed: it
sends the next order of a connection when the last is answered, so a stall shows in the rate and in
the highest latency but weighs less in the percentiles than an open loop would give it.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

import asyncpg
import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.load import Found, each, load, waits_of
from bench.runner import Findings, Goal, ask, parser_of, spread, table_of
from bench.spent import Spent
from bench.venue import Bench, free_ports, running
from bench.wrk import CONNECTIONS, Round, require_wrk, wrk
from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.errors import StackError
from exchange.tools.market.waits import Wait, buckets, picture

CONNECT_RETRIES = 8  # the wait doubles each time; a minute in all
WARM_UP_S: Final = 3
FEW_CONNECTIONS: Final = 10
ALONE_RATE: Final = 200  # orders a second, of which hardly two are under way at once

COUNT_DECIDED = "select count(*) from events where type = 'OrderAccepted'"


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that one run measured; the processor time is that of 100 connections."""

    spent: Spent
    floor: list[Round] = field(default_factory=list)
    orders: list[Round] = field(default_factory=list)
    few: list[Round] = field(default_factory=list)
    alone: list[Found] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)  # of orders over 100 connections

    @property
    def ratio(self) -> float:
        """The orders' rate as a part of the floor's."""
        return median(one.rate for one in self.orders) / median(one.rate for one in self.floor)


async def measure(rounds: int, seconds: int) -> Measured:
    """Measure in turns, after a warm-up of each that does not count."""
    async with running() as bench, floor_of(bench) as floor_url:
        measured = Measured(Spent(bench.processes))
        with Progress(console=Console(stderr=True)) as progress:
            steps = progress.add_task("Measuring", total=rounds + 1)
            await wrk(floor_url, "floor-0", WARM_UP_S)
            await wrk(bench.url, "orders-0", WARM_UP_S)
            progress.advance(steps)
            for number in range(1, rounds + 1):
                measured.floor.append(await wrk(floor_url, f"floor-{number}", seconds))
                measured.spent.begin()
                loaded = await counted(
                    bench, f"orders-{number}", seconds, CONNECTIONS, measured.waits
                )
                measured.spent.end(loaded.requests)
                measured.orders.append(loaded)
                few = await counted(bench, f"few-{number}", seconds, FEW_CONNECTIONS)
                measured.few.append(few)
                alone = await load(bench.url, seconds, websocket=False, rate=ALONE_RATE)
                measured.alone.append(alone)
                progress.advance(steps)
    return measured


async def counted(
    bench: Bench, run: str, seconds: int, connections: int, waits: list[Wait] | None = None
) -> Round:
    """Send orders, and count those in the log against the answers.

    Raises:
        StackError: Fewer are decided than were answered.
    """
    before = await count_decided(bench.settings)
    loaded = await wrk(bench.url, run, seconds, connections, waits=waits)
    decided = await count_decided(bench.settings) - before
    if decided < loaded.requests:
        raise StackError(f"{loaded.requests} answers, but only {decided} orders decided.")
    return loaded


async def count_decided(settings: Settings) -> int:
    """Return how many orders the log has, which an answer alone (202, "pending") does not tell."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        return int(await connection.fetchval(COUNT_DECIDED))
    finally:
        await connection.close()


@asynccontextmanager
async def floor_of(bench: Bench) -> AsyncIterator[str]:
    """Run the floor's server on the same machine and yield its address."""
    (port,) = free_ports(1)
    floor = ManagedProcess(
        "floor",
        (sys.executable, "-m", "bench.floor", str(port)),
        log_path=bench.run.log_of("floor"),
        cwd=PROJECT,
    )
    url = f"http://{LOOPBACK}:{port}"
    await floor.start()
    try:
        transport = httpx.AsyncHTTPTransport(retries=CONNECT_RETRIES)
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(url)
        yield url
    finally:
        await floor.stop()


def document(measured: Measured) -> Mapping[str, Any]:
    """Return everything measured, for scripts."""
    return {
        "connections": CONNECTIONS,
        "floor": [asdict(one) for one in measured.floor],
        "orders": [asdict(one) for one in measured.orders],
        "few": [asdict(one) for one in measured.few],
        "alone": measured.alone,
        "ratio": measured.ratio,
        "cpu_us_per_order": measured.spent.us_per_order(),
    }


def findings(measured: Measured) -> Findings:
    """Return the medians over the rounds, and where the time goes."""
    p50, p99 = (median(getattr(one, n) for one in measured.orders) for n in ("p50_ms", "p99_ms"))
    alone = (median(each(measured.alone, "latency_ms", p)) for p in ("p50", "p99"))
    alone_p50, alone_p99 = alone
    return Findings(
        f"{len(measured.orders)} rounds in turns",
        [latencies_table(measured), measured.spent.table()],
        [
            Goal("orders, as a part of the floor's rate", measured.ratio, 0.60),
            Goal("p50 of orders over 100 connections, ms", p50, 28, at_most=True),
            Goal("p99 of orders over 100 connections, ms", p99, 70, at_most=True),
            Goal("orders/s over 10 connections", median(o.rate for o in measured.few), 1_800),
            Goal("p50 of an order alone, ms", alone_p50, 4, at_most=True),
            Goal("p99 of an order alone, ms", alone_p99, 15, at_most=True),
        ],
        [
            picture(
                buckets(measured.waits), f"How long orders over {CONNECTIONS} connections waited"
            ),
            picture(waits_of(measured.alone), f"How long orders at {ALONE_RATE} a second waited"),
        ],
    )


def latencies_table(measured: Measured) -> Table:
    """Return the rates and latencies, and how busy wrk was."""
    table = table_of("", "rate/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "errors", "wrk cpu")
    base = median(one.rate for one in measured.floor)
    for name, rounds in (
        (f"floor, {CONNECTIONS} connections", measured.floor),
        (f"orders, {CONNECTIONS} connections", measured.orders),
        (f"orders, {FEW_CONNECTIONS} connections", measured.few),
    ):
        rate = spread([one.rate for one in rounds])
        ratio = f"{median(one.rate for one in rounds) / base:.2f}"
        times = [f"{median(getattr(o, f'{n}_ms') for o in rounds):.0f}" for n in PERCENTILES]
        errors = str(sum(one.refused + one.broken for one in rounds))
        cpu = f"{median(one.generator_cpu for one in rounds):.0%}"
        table.add_row(name, rate, ratio, *times, errors, cpu)
    times = [f"{median(each(measured.alone, 'latency_ms', p)):.1f}" for p in PERCENTILES]
    lost = sum(one["orders"] * (1 - one["success_rate"]) for one in measured.alone)
    rate = spread(each(measured.alone, "orders_per_second"))
    table.add_row(f"orders, {ALONE_RATE} a second", rate, "", *times, f"{lost:.0f}", "")
    return table


PERCENTILES: Final = ("p50", "p95", "p99")


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all that is in turns")
    parser.add_argument("--seconds", type=int, default=10, help="of each part of a round")
    require_wrk()

    def measured(options: argparse.Namespace) -> Measured:
        try:
            return asyncio.run(measure(options.rounds, options.seconds))
        except StackError as error:
            sys.exit(str(error))

    ask(parser, measured, findings, document)


if __name__ == "__main__":
    main()
