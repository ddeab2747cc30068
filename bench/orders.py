"""How many orders a second does one machine take over HTTP, and how long does each wait?

Workload: wrk with 100 connections on one thread sends single orders (``orders.lua``: 30 % at the
market, uniform prices, 100 clients, an idempotency key each) to one gateway; one matcher and one
projector with every read model run beside it, on real Kafka, PostgreSQL (fsync on) and Valkey, all
on this machine. An answer means that the order is decided and durable.

The floor is measured in the same run, in turns with the orders: the same server and the same
bodies, decoded and answered, nothing else (``floor.py``). What the exchange adds is the ratio.

Not included: TLS, a network, more than one gateway, cancels, reads. The loop is closed: wrk sends
the next order of a connection when the last is answered, so a stall shows in the rate and in the
highest latency but weighs less in the percentiles than an open loop would give it.

The lag of a projection is sampled ten times a second. In seconds it is the longest that its
checkpoint can have been behind a position that the head had reached: counted from the last sample
before the head was seen there, so it reads up to a tenth of a second too high, never too low.
"""

import argparse
import asyncio
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import asyncpg
import msgspec
import psutil
from redis.asyncio import Redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.event_log import read_heads
from exchange.stack import jars
from exchange.stack.directory import RunDirectory
from exchange.stack.errors import StackError
from exchange.stack.kafka import ensure_topic
from exchange.stack.migrations import migrate
from exchange.stack.probe import register_first_instrument, until_healthy
from exchange.stack.process import ManagedProcess
from exchange.stack.run import exchange_processes, gateways_of
from exchange.stack.services import (
    LocalServices,
    kafka_in,
    postgres_in,
    remove,
    valkey_in,
)
from exchange.stack.supervisor import Supervisor

CONNECTIONS = 100
SAMPLE_S = 0.1
LUA = Path(__file__).with_name("orders.lua")

READ_CHECKPOINTS = """
select projection, position from checkpoints join live using (projection, generation)
where shard = 0
"""


COUNT_DECIDED = "select count(*) from events where type = 'OrderAccepted'"


@dataclass(frozen=True, slots=True)
class Round:
    """What wrk measured in one round; times in milliseconds."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    refused: int
    broken: int
    generator_cpu: float


@dataclass
class Lag:
    """How far each projection was behind: the worst and the usual, in seconds and events."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    events: dict[str, list[int]] = field(default_factory=dict)

    def add(self, projection: str, seconds: float, events: int) -> None:
        self.seconds.setdefault(projection, []).append(seconds)
        self.events.setdefault(projection, []).append(events)


@dataclass
class Spent:
    """Processor time of each process and its children while orders were sent, in seconds."""

    processes: list[ManagedProcess] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    orders: int = 0
    _begun: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        self._begun = self._now()

    def end(self, orders: int) -> None:
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
    lag: Lag
    spent: Spent


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description="Orders per second over HTTP, and their latency.")
    parser.add_argument("--rounds", type=int, default=3, help="of floor and orders, in turns")
    parser.add_argument("--seconds", type=int, default=15, help="of each round")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install it, for example with `apt-get install wrk`.")
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
    lag, spent = Lag(), Spent()
    console = Console(stderr=True)
    async with running(spent) as (settings, floor_url), sampler(settings, lag) as sampling:
        exchange_url = gateways_of(settings)[0].url
        with Progress(console=console) as progress:
            steps = progress.add_task("Measuring", total=2 * rounds + 2)
            for number in range(rounds + 1):
                length_s = seconds if number else 3
                rested = await wrk(floor_url, f"floor-{number}", length_s)
                progress.advance(steps)
                if number:
                    sampling.set()
                    spent.begin()
                decided = await count_decided(settings)
                loaded = await wrk(exchange_url, f"orders-{number}", length_s)
                decided = await count_decided(settings) - decided
                if decided < loaded.requests:
                    raise StackError(
                        f"{loaded.requests} answers, but only {decided} orders decided."
                    )
                sampling.clear()
                progress.advance(steps)
                if number:
                    spent.end(loaded.requests)
                    floor.append(rested)
                    orders.append(loaded)
    return Results(floor, orders, lag, spent)


async def count_decided(settings: Settings) -> int:
    """Return how many orders the log has, which an answer alone (202, "pending") does not tell."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        return int(await connection.fetchval(COUNT_DECIDED))
    finally:
        await connection.close()


async def wrk(url: str, run: str, seconds: int) -> Round:
    """Run the generator once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    argv += ["-s", str(LUA), url, "--", run, run.rpartition("-")[2]]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = msgspec.json.decode(output.splitlines()[-1])
    elapsed_s = found["duration_us"] / 1e6
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(
        rate=found["requests"] / elapsed_s,
        **{f"{name}_ms": found[f"{name}_us"] / 1e3 for name in ("p50", "p95", "p99", "max")},
        requests=found["requests"],
        refused=found["refused"],
        broken=found["broken"],
        generator_cpu=cpu_s / elapsed_s,
    )


@asynccontextmanager
async def running(spent: Spent) -> AsyncIterator[tuple[Settings, str]]:
    """The exchange and the floor's server on free ports, in a directory that is deleted."""
    run = RunDirectory(Path(tempfile.mkdtemp(prefix="exchange-bench-")))
    run.path.chmod(0o755)  # root's PostgreSQL runs as another user
    run.prepare()
    ports = free_ports(6)
    services = local_services(run, ports)
    settings = settings_for(services, ports[4])
    floor = ManagedProcess(
        "floor",
        (sys.executable, "-m", "bench.floor", str(ports[5])),
        log_path=run.log_of("floor"),
        cwd=PROJECT,
    )
    tiers = exchange_processes(settings, run)
    supervisor = Supervisor(services, tiers, report)
    spent.processes += [process for tier in tiers for process in tier]
    spent.processes += [service.process for service in services]
    try:
        await supervisor.start_services()
        await migrate(settings.sqlalchemy_url)
        await ensure_topic(settings.kafka_bootstrap_servers, settings.kafka_topic, 1)
        await supervisor.start_processes()
        await floor.start()
        gateway = gateways_of(settings)[0]
        await until_healthy(gateway, print)
        await register_first_instrument(gateway)
        yield settings, f"http://{LOOPBACK}:{ports[5]}"
    finally:
        await floor.stop()
        await supervisor.stop()
        remove(run)
        shutil.rmtree(run.path)


def local_services(run: RunDirectory, ports: list[int]) -> LocalServices:
    """Return the three services on the first four ports."""
    cache = PROJECT / ".run"
    kafka_jars = jars.find(cache, Settings.load().kafka_home) or jars.fetch(cache)
    return LocalServices(
        kafka_in(run, jars=kafka_jars, port=ports[0], controller_port=ports[1]),
        postgres_in(run, port=ports[2]),
        valkey_in(run, port=ports[3]),
    )


def settings_for(services: LocalServices, port: int) -> Settings:
    """Return the default settings for these services, gateway on ``port``."""
    assert services.kafka is not None
    assert services.postgres is not None
    assert services.valkey is not None
    return replace(
        Settings.load({}, dotenv=None),
        port=port,
        metrics_port=0,
        kafka_bootstrap_servers=services.kafka.address,
        database_url=services.postgres.url,
        redis_url=services.valkey.url,
    )


def report(name: str, how: str, _delay_s: float) -> None:
    """Say that a process died: the figures of such a run are worth nothing."""
    print(f"{name} {how}", file=sys.stderr)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


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
        reached["book"] = int(await redis.hget("{book:1:0}:checkpoint", "position") or 0)
        head = (await read_heads(connection))[0]
        heads.append((last_s, head))
        last_s = now_s
        for projection, position in reached.items():
            passed = [seen_s for seen_s, seen in heads if seen > position]
            lag.add(projection, now_s - passed[0] if passed else 0.0, head - position)
        slowest = min(reached.values())
        heads = [(seen_s, seen) for seen_s, seen in heads if seen > slowest] or heads[-1:]
        await asyncio.sleep(SAMPLE_S)


def summary(rounds: list[Round]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {
        name: statistics.median(asdict(one)[name] for one in rounds) for name in asdict(rounds[0])
    }


def document(results: Results) -> dict[str, object]:
    """Return everything measured, for scripts."""
    lag, spent = results.lag, results.spent
    return {
        "machine": machine(),
        "connections": CONNECTIONS,
        "floor": [asdict(one) for one in results.floor],
        "orders": [asdict(one) for one in results.orders],
        "ratio": summary(results.orders)["rate"] / summary(results.floor)["rate"],
        "lag_s_max": {name: max(values) for name, values in lag.seconds.items()},
        "lag_events_max": {name: max(values) for name, values in lag.events.items()},
        "cpu_us_per_order": {n: s / spent.orders * 1e6 for n, s in spent.seconds.items()},
    }


def machine() -> str:
    """Return what this ran on, and which commit."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = head.stdout.strip() or "unknown"
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, commit {commit}"


def show(results: Results) -> None:
    """Print the tables: medians over the rounds, the lag, and where the time goes."""
    console = Console()
    console.print(f"{len(results.orders)} rounds in turns, {CONNECTIONS} connections, {machine()}")
    console.print(rates_table(results))
    console.print(lag_table(results.lag))
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


def lag_table(lag: Lag) -> Table:
    """Return how far each projection was behind."""
    table = table_of("projection lag", "median s", "max s", "median events", "max events")
    for name, seconds in sorted(lag.seconds.items()):
        events = lag.events[name]
        times = [f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]
        table.add_row(name, *times, f"{statistics.median(events):,.0f}", f"{max(events):,}")
    return table


def cpu_table(spent: Spent) -> Table:
    """Return the processor time that each process spent per order."""
    table = table_of("process", "cpu us per order")
    for name, seconds in sorted(spent.seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds / spent.orders * 1e6:,.0f}")
    return table


def table_of(first: str, *others: str) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table()
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    main()
