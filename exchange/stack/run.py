"""What ``exchange run`` does, from the first check to the last stop.

Read ``run``. Nothing is left behind however it ends: what was started is stopped in order, and
what a killed run left is found by the next one.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console
from rich.markup import escape

from exchange.config import PROJECT, Settings, reachable_url
from exchange.door.modes import Door
from exchange.processes.door import TOLD, hosts_of
from exchange.stack.growing import add_shards
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.directory import RUN, RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.host.interrupts import Interrupts
from exchange.stack.host.listeners import check_free, listeners
from exchange.stack.migrations import check_database, migrate
from exchange.stack.probe import Gateway, first_order, register_first_instrument, until_healthy
from exchange.stack.services import jars
from exchange.stack.services.kafka import ensure_topic
from exchange.stack.services.postgres import Postgres, bundled_programs
from exchange.stack.services.services import (
    LocalServices,
    kafka_in,
    postgres_in,
    together,
    valkey_in,
)
from exchange.stack.supervisor import Supervisor
from exchange.waiting import unless


async def run(settings: Settings, directory: RunDirectory, console: Console) -> None:
    """Run the whole exchange until somebody stops it.

    Raises:
        StackError: It cannot be started, and why.
        SettingsError: It would be open to everybody.
    """
    screen = Screen(console)
    for setting in ("HOST", "ANALYST_HOST", "OPERATOR_HOST"):
        hosts_of(settings, setting)
    directory.prepare()
    with directory.locked(RUN):
        for name in await asyncio.to_thread(directory.stop_orphans):
            screen.say(f"Stopped {name}, which a killed run had left.")
        check_free(listeners(settings))
        services = await asyncio.to_thread(local_services, settings, directory, screen)
        tiers = exchange_processes(settings, directory)
        supervisor = Supervisor(services, tiers, screen.report)
        with Interrupts() as interrupts:
            try:
                if await unless(interrupts.first, _start(settings, supervisor, screen)):
                    screen.welcome(settings, directory)
                    await interrupts.first.wait()
            finally:
                screen.say("Stopping ... (Ctrl-C again stops at once)")
                if not await unless(interrupts.second, supervisor.stop()):
                    await supervisor.kill()
                screen.say("Stopped.")


async def _start(settings: Settings, supervisor: Supervisor, screen: "Screen") -> None:
    with screen.step("Starting Kafka, PostgreSQL and Valkey"):
        await supervisor.start_services()
    with screen.step("Bringing the database and the topic up to date"):
        await together(
            migrate(settings.sqlalchemy_url),
            ensure_topic(
                settings.kafka_bootstrap_servers,
                settings.kafka_topic,
                settings.shards,
                allow_unsafe=settings.allow_unsafe,
            ),
        )
        await check_database(settings.database_url, settings.allow_unsafe)
        await add_shards(settings)
    with screen.step("Starting matcher, projector, builder and gateway"):
        await supervisor.start_processes()
        gateways = gateways_of(settings)
        await together(*(until_healthy(gateway, screen.say) for gateway in gateways))
        if Door(settings.door) is not Door.KEYS:  # an admin registers it, by a key
            await register_first_instrument(gateways[0], screen.say)


def fetch_jars(settings: Settings, directory: RunDirectory, screen: "Screen") -> Path:
    """Return where Kafka's jars are, after fetching them if need be."""
    found = jars.find(directory.path, settings.kafka_home)
    if found is not None:
        return found
    with screen.step("Fetching Kafka with Maven (44 MB, once)"):
        return jars.fetch(directory.path)


def local_services(settings: Settings, directory: RunDirectory, screen: "Screen") -> LocalServices:
    """Return the services that run on this machine, as the settings have it."""
    kafka = postgres = valkey = None
    if settings.kafka_is_local:
        kafka = kafka_in(
            directory,
            jars=fetch_jars(settings, directory, screen),
            port=settings.local_kafka_port,
            controller_port=settings.local_kafka_port + 1,
        )
    if settings.database_is_local:
        postgres = postgres_in(
            directory,
            port=settings.local_postgres_port,
            connections_max=settings.database_connections,
        )
        screen.place_of(postgres)
    if settings.redis_is_local:
        valkey = valkey_in(directory, port=settings.local_redis_port)
    return LocalServices(kafka, postgres, valkey)


def exchange_processes(
    settings: Settings, directory: RunDirectory
) -> tuple[tuple[ManagedProcess, ...], ...]:
    """Return the exchange's own processes in tiers, in the order in which the tiers stop."""

    def process(name: str, *arguments: str) -> ManagedProcess:
        return ManagedProcess(
            name,
            (sys.executable, "-m", "exchange", *arguments),
            log_path=directory.log_of(name),
            pid_path=directory.pid_of(name),
            env=environment,
            cwd=PROJECT,
        )

    environment = {**settings.environment(), "PYTHONUNBUFFERED": "1"}
    ports = [gateway.port for gateway in gateways_of(settings)]
    gateways = (process(f"gateway-{port}", "gateway", "--port", str(port)) for port in ports)
    matchers = (
        process(f"matcher-{index}", "matcher", *shard_arguments(settings, index))
        for index in range(settings.matchers)
    )
    standbys = (
        process(f"standby-{index}", "matcher", *shard_arguments(settings, index), "--standby")
        for index in range(settings.matchers if settings.standbys else 0)
    )
    # The standbys before the matchers, or they would take over.
    tiers = tuple(gateways), tuple(standbys), tuple(matchers)
    names = ("projector", "builder", "publisher", "analyst", "operator")
    readers = (process(name, name) for name in names)
    return *tiers, tuple(readers)


def shard_arguments(settings: Settings, matcher: int) -> list[str]:
    """Return the arguments that give matcher number ``matcher`` its shards."""
    shards = range(matcher, settings.shards, settings.matchers)
    return [word for shard in shards for word in ("--shard", str(shard))]


def gateways_of(settings: Settings) -> list[Gateway]:
    """Return where each gateway of ``exchange run`` listens."""
    return [Gateway(settings.host, settings.port + index) for index in range(settings.gateways)]


class Screen:
    """What the person at the terminal sees; plain lines when there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        with suppress(OSError):  # the terminal is gone: stopping in order goes on without it
            self._console.print(escape(line), soft_wrap=True, highlight=False)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what goes on while the context is open, and at its end how long it took."""
        started_s = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"{what} ...")
        with self._console.status(f"{what} ..."):
            yield
        self.say(f"{what}: {time.monotonic() - started_s:.1f} s")

    def report(self, name: str, how: str, delay_s: float) -> None:
        self.say(f"{time.strftime('%H:%M:%S')} {name} {how}; starting it again in {delay_s:.1f} s")

    def place_of(self, postgres: Postgres) -> None:
        """Say where PostgreSQL's data is, if it had to be kept elsewhere."""
        if postgres.home != postgres.directory:
            self.say(
                f"PostgreSQL refuses to run as root and another user cannot reach"
                f" {postgres.directory.parent}: its data is in {postgres.home}."
            )

    def welcome(self, settings: Settings, directory: RunDirectory) -> None:
        gateways = gateways_of(settings)
        url = inside = gateways[0].url
        if Door(settings.door) is Door.KEYS:
            inside = reachable_url(settings.host, settings.inside_port(settings.port))
        rows = {
            "Door": TOLD[Door(settings.door)],
            "HTTP": "  ".join(gateway.url for gateway in gateways),
            "Docs": f"{url}/docs    stream: {url.replace('http', 'ws', 1)}/stream",
            "Health": f"{inside}/healthz    metrics: {inside}/metrics",
            "Analysts": f"{settings.analyst_address}    as_of_sequence, as_of_time, /events",
            "Operators": f"{settings.operator_address}    {_told_changes(settings)}",
            "Metrics": "  ".join(_metrics_urls(settings)) or "METRICS_PORT is 0",
            "PostgreSQL": f"{_psql()} {without_password(settings.database_url)}",
            "Kafka": f"{settings.kafka_bootstrap_servers}    commands: {settings.kafka_topic}"
            f"    events: {settings.kafka_events_topic}",
            "Redis": without_password(settings.redis_url),
            "Logs": f"{_short(directory.logs)}/",
        }
        lines = "\n".join(f"  {name:<11} {value}" for name, value in rows.items())
        self.say(f"\nThe exchange is running.\n\n{lines}\n\n{_first_step(settings, url)}\n")
        self.say("Ctrl-C stops everything.\n")


def _first_step(settings: Settings, url: str) -> str:
    if Door(settings.door) is Door.KEYS:
        return "How requests are signed is in docs/protocol.md (Signed requests).\n"
    order = f"curl -s {url}/orders -H 'content-type: application/json' -d '{first_order()}'"
    return f"Place a first order:\n\n  {order}\n"


def _metrics_urls(settings: Settings) -> list[str]:
    """Return where projector and matchers are scraped."""
    return [f"http://{settings.host}:{port}/metrics" for port in settings.metrics_ports]


def _told_changes(settings: Settings) -> str:
    if settings.operator_allow_changes:
        return "may change read models"
    return "read-only: OPERATOR_ALLOW_CHANGES=yes allows changes"


def _psql() -> str:
    """Return this machine's psql, or that of the bundled PostgreSQL if there is none."""
    with suppress(StackError):  # neither is there
        if not shutil.which("psql"):
            return str(_short(bundled_programs() / "psql"))
    return "psql"


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def without_password(url: str) -> str:
    """Return ``url`` as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
