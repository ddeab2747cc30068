"""How many orders a second does one machine take over HTTP, and how long does each wait?

Workload: wrk with 100 connections on one thread sends single orders (``orders.lua``: 30 % at the
market, uniform prices, 100 clients, an idempotency key each) to one gateway; one matcher and one
projector with every read model run too, on real Kafka, PostgreSQL (fsync on) and Valkey, all on
this machine. An answer means that the order is decided and durable.

The floor is measured in the same run, in turns with the orders: the same server and the same
bodies, decoded and answered, nothing else (``floor.py``). What the exchange adds is the ratio.

Not included: TLS, a network, more than one gateway, cancels, reads. The loop is closed: wrk sends
the next order of a connection when the last is answered, so a stall shows in the rate and in the
highest latency but weighs less in the percentiles than an open loop would give it.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import asyncpg
import httpx
import msgspec
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.venue import Bench, free_ports, machine, running, table_of
from bench.wrk import CONNECTIONS, Round, require_wrk, wrk
from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.errors import StackError

CONNECT_RETRIES = 8  # the wait doubles each time; a minute in all

COUNT_DECIDED = "select count(*) from events where type = 'OrderAccepted'"


@dataclass
class Spent:
    """Processor time of each process and its children while orders were sent, in seconds."""

    processes: list[ManagedProcess]
    seconds: dict[str, float] = field(default_factory=dict)
    orders: int = 0
    _begun: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Count from now on."""
        self._begun = self._now()

    def end(self, orders: int) -> None:
        """Add what was spent since ``begin``, on this many orders."""
        self.orders += orders
        for name, now_s in self._now().items():
            self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._begun[name]

    def _now(self) -> dict[str, float]:
        return {process.name: cpu_s(process.pid) for process in self.processes}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its children have used."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that one run measured."""

    floor: list[Round]
    orders: list[Round]
    spent: Spent


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description="Orders per second over HTTP, and their latency.")
    parser.add_argument("--rounds", type=int, default=3, help="of floor and orders, in turns")
    parser.add_argument("--seconds", type=int, default=15, help="of each round")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    options = parser.parse_args()
    require_wrk()
    try:
        results = asyncio.run(measure(options.rounds, options.seconds))
    except StackError as error:
        sys.exit(str(error))
    if options.json:
        print(msgspec.json.encode(document(results)).decode())
    else:
        show(results)


async def measure(rounds: int, seconds: int) -> Results:
    """Measure floor and orders in turns, after a warm-up of each that does not count."""
    floor: list[Round] = []
    orders: list[Round] = []
    console = Console(stderr=True)
    async with running() as bench, floor_of(bench) as floor_url:
        settings, spent = bench.settings, Spent(bench.processes)
        with Progress(console=console) as progress:
            steps = progress.add_task("Measuring", total=2 * rounds + 2)
            for number in range(rounds + 1):
                length_s = seconds if number else 3
                rested = await wrk(floor_url, f"floor-{number}", length_s)
                progress.advance(steps)
                if number:
                    spent.begin()
                decided = await count_decided(settings)
                loaded = await wrk(bench.url, f"orders-{number}", length_s)
                decided = await count_decided(settings) - decided
                if decided < loaded.requests:
                    raise StackError(
                        f"{loaded.requests} answers, but only {decided} orders decided."
                    )
                progress.advance(steps)
                if number:
                    spent.end(loaded.requests)
                    floor.append(rested)
                    orders.append(loaded)
    return Results(floor, orders, spent)


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


def summary(rounds: list[Round]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {
        name: statistics.median(asdict(one)[name] for one in rounds) for name in asdict(rounds[0])
    }


def document(results: Results) -> dict[str, object]:
    """Return everything measured, for scripts."""
    spent = results.spent
    return {
        "machine": machine(),
        "connections": CONNECTIONS,
        "floor": [asdict(one) for one in results.floor],
        "orders": [asdict(one) for one in results.orders],
        "ratio": summary(results.orders)["rate"] / summary(results.floor)["rate"],
        "cpu_us_per_order": {n: s / spent.orders * 1e6 for n, s in spent.seconds.items()},
    }


def show(results: Results) -> None:
    """Print the tables: medians over the rounds, and where the time goes."""
    console = Console()
    console.print(f"{len(results.orders)} rounds in turns, {CONNECTIONS} connections, {machine()}")
    console.print(rates_table(results))
    console.print(cpu_table(results.spent))


def rates_table(results: Results) -> Table:
    """Return the medians of floor and orders, and how busy the generator was."""
    table = table_of("", "rate/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "errors", "wrk cpu")
    base = summary(results.floor)["rate"]
    for name, rounds in (("floor", results.floor), ("orders", results.orders)):
        found = summary(rounds)
        errors = sum(one.refused + one.broken for one in rounds)
        times = [f"{found[f'{n}_ms']:.0f}" for n in ("p50", "p95", "p99")]
        rate, ratio = f"{found['rate']:,.0f}", f"{found['rate'] / base:.2f}"
        table.add_row(name, rate, ratio, *times, str(errors), f"{found['generator_cpu']:.0%}")
    return table


def cpu_table(spent: Spent) -> Table:
    """Return the processor time that each process spent per order."""
    table = table_of("process", "cpu us per order")
    for name, seconds in sorted(spent.seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds / spent.orders * 1e6:,.0f}")
    return table


if __name__ == "__main__":
    main()
