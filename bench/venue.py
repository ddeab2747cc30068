"""An exchange of a benchmark's own: every process, on real Kafka, PostgreSQL and Valkey.

On free ports, in a directory that is deleted, with the default settings. One gateway, one matcher
and one projector with every read model.
"""

import argparse
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop
from anyio.from_thread import start_blocking_portal
from rich.table import Table

from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.directory import RunDirectory
from exchange.stack.migrations import migrate
from exchange.stack.probe import register_first_instrument, until_healthy
from exchange.stack.run import exchange_processes, gateways_of
from exchange.stack.services import jars
from exchange.stack.services.kafka import ensure_topic
from exchange.stack.services.services import LocalServices, kafka_in, postgres_in, remove, valkey_in
from exchange.stack.supervisor import Supervisor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs: where the gateway answers, and the processes that spend time."""

    settings: Settings
    run: RunDirectory
    processes: list[ManagedProcess]

    @property
    def url(self) -> str:
        return gateways_of(self.settings)[0].url


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    """Start an exchange with BTC-USD, and delete it afterwards."""
    run = RunDirectory(Path(tempfile.mkdtemp(prefix="exchange-bench-")))
    run.path.chmod(0o755)  # root's PostgreSQL runs as another user
    run.prepare()
    ports = free_ports(5)
    services = local_services(run, ports)
    settings = settings_for(services, ports[4])
    tiers = exchange_processes(settings, run)
    supervisor = Supervisor(services, tiers, report)
    processes = [process for tier in tiers for process in tier]
    processes += [service.process for service in services]
    try:
        await supervisor.start_services()
        await migrate(settings.sqlalchemy_url)
        await ensure_topic(settings.kafka_bootstrap_servers, settings.kafka_topic, 1)
        await supervisor.start_processes()
        gateway = gateways_of(settings)[0]
        await until_healthy(gateway, print)
        await register_first_instrument(gateway)
        yield Bench(settings, run, processes)
    finally:
        await supervisor.stop()
        remove(run)
        shutil.rmtree(run.path)


def on_services(work: Callable[[Settings], Coroutine[Any, Any, T]], *, kafka: bool = True) -> T:
    """Run ``work`` on services of its own, with nothing else of an exchange, and delete them."""
    run = RunDirectory(Path(tempfile.mkdtemp(prefix="exchange-bench-")))
    run.path.chmod(0o755)  # root's PostgreSQL runs as another user
    run.prepare()
    ports = free_ports(5)
    services = local_services(run, ports)
    settings = settings_for(services, ports[4])
    started = services if kafka else LocalServices(None, services.postgres, services.valkey)
    # The services have another loop than what is measured, whose uvloop cannot start them.
    with start_blocking_portal() as portal:
        try:
            portal.call(started.start)
            return uvloop.run(work(settings))
        finally:
            portal.call(started.stop)
            remove(run)
            shutil.rmtree(run.path)


def rounds_parser(doc: str | None, *, events: int) -> argparse.ArgumentParser:
    """Return the parser of a measurement over a log of ``events``, in rounds."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--events", type=int, default=events)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser


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
        metrics_port=0,
        port=port,
        analyst_port=free_ports(1)[0],
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


def table_of(first: str, *others: str) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table()
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def rates_table(events: int, seconds_of: Mapping[str, Sequence[float]]) -> Table:
    """Return a table of how long each took for so many events, in several rounds."""
    table = table_of("", "median s", "worst s", "events/s")
    for name, seconds in seconds_of.items():
        median = statistics.median(seconds)
        table.add_row(name, f"{median:.2f}", f"{max(seconds):.2f}", f"{events / median:,.0f}")
    return table


def print_measured(measured: T, show: Callable[[T], None], *, as_json: bool) -> None:
    """Print what was measured as JSON alone, or as ``show`` does."""
    if as_json:
        print(msgspec.json.encode(measured).decode())
    else:
        show(measured)
