"""An exchange of a benchmark's own: every process, on real Kafka, PostgreSQL and Valkey.

On free ports, in a directory that is deleted, with the default settings. One gateway, one matcher
and one projector with every read model.
"""

import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop
from anyio.from_thread import start_blocking_portal

from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.stack.growing import add_shards
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

CONNECTIONS_MAX: Final = 200  # two gateways, two shards and what measures them need some 80


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs: where the gateway answers, and the processes that spend time."""

    settings: Settings
    run: RunDirectory
    processes: list[ManagedProcess]

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def gateway_pid(self) -> int:
        """Of the only gateway."""
        (pid,) = [process.pid for process in self.processes if process.name.startswith("gateway")]
        return pid

    @property
    def urls(self) -> list[str]:
        """Of each gateway."""
        return [gateway.url for gateway in gateways_of(self.settings)]


@asynccontextmanager
async def running(
    *, gateways: int = 1, shards: int = 1, postgres_options: Sequence[str] = (), **changes: Any
) -> AsyncIterator[Bench]:
    """Start an exchange with BTC-USD, and delete it afterwards; each shard has a matcher.

    ``changes`` are settings other than the default ones.
    """
    run = RunDirectory(Path(tempfile.mkdtemp(prefix="exchange-bench-")))
    run.path.chmod(0o755)  # root's PostgreSQL runs as another user
    run.prepare()
    ports = free_ports(5)
    services = local_services(run, ports, postgres_options)
    settings = replace(
        settings_for(services, ports[4]),
        gateways=gateways,
        shards=shards,
        matchers=shards,
        **changes,
    )
    tiers = exchange_processes(settings, run)
    supervisor = Supervisor(services, tiers, report)
    processes = [process for tier in tiers for process in tier]
    processes += [service.process for service in services]
    try:
        await supervisor.start_services()
        await migrate(settings.sqlalchemy_url)
        await ensure_topic(settings.kafka_bootstrap_servers, settings.kafka_topic, shards)
        await add_shards(settings)
        await supervisor.start_processes()
        for gateway in gateways_of(settings):
            await until_healthy(gateway, tell)
        await register_first_instrument(gateway, tell)
        yield Bench(settings, run, processes)
    finally:
        await supervisor.stop()
        remove(run)
        shutil.rmtree(run.path)


def on_services(
    work: Callable[[Settings], Coroutine[Any, Any, T]],
    *,
    kafka: bool = True,
    kept: Path | None = None,
) -> T:
    """Run ``work`` on services of its own, with nothing else of an exchange.

    They are deleted then, unless they are ``kept`` in a directory.
    """
    run = RunDirectory(kept or Path(tempfile.mkdtemp(prefix="exchange-bench-")))
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
            if kept is None:
                remove(run)
                shutil.rmtree(run.path)


def local_services(
    run: RunDirectory, ports: list[int], postgres_options: Sequence[str] = ()
) -> LocalServices:
    """Return the three services on the first four ports."""
    cache = PROJECT / ".run"
    kafka_jars = jars.find(cache, Settings.load().kafka_home) or jars.fetch(cache)
    return LocalServices(
        kafka_in(run, jars=kafka_jars, port=ports[0], controller_port=ports[1]),
        postgres_in(run, port=ports[2], connections_max=CONNECTIONS_MAX, options=postgres_options),
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


def tell(text: str) -> None:
    """Say how far the benchmark is, beside what it prints for scripts."""
    print(text, file=sys.stderr)
