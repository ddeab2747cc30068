"""The whole exchange with its own services, each behind a proxy, restarted when it dies.

``Stage`` knows how to start and stop everything, which matcher of a shard is at work, and how to
ask the database without a proxy in between. The nemesis decides what goes wrong and when.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from redis.asyncio import Redis

from exchange.config import LOOPBACK, PROJECT, Settings, local_database_url, local_redis_url
from exchange.log.writing.writer import WRITER_LOCK_CLASS
from exchange.signing import load_signer
from exchange.stack.host.child import Backoff, Ending, ManagedProcess
from exchange.stack.host.directory import RunDirectory
from exchange.stack.migrations import migrate
from exchange.stack.services import jars
from exchange.stack.services.kafka import ensure_topic
from exchange.stack.services.services import (
    LocalServices,
    Service,
    kafka_in,
    postgres_in,
    remove,
    valkey_in,
)
from tests.conftest import free_ports
from tests.cutting import cut_partition
from tests.faults.proxy import Proxy
from tests.keys import MASTER, KeyRing
from tests.load import clients_of
from tests.readers import MAKER, TAKER
from tests.running import Exchange

SHARDS = 2
GATEWAYS = 2
TRADERS = 8
CLIENTS = [MAKER, TAKER, *clients_of("client", TRADERS)]
ADMIN_TIMEOUT_S = 30.0
# As `exchange run`, but for the longest wait: there a process that dies every few seconds has a
# cause that lasts, here it has a nemesis.
BACKOFF = Backoff(first_s=0.2, longest_s=2.0)
ASK_TIMEOUT_S = 30.0  # a restarted PostgreSQL answers long before
ASK_PAUSE_S = 0.1
ADOPT_TIMEOUT_S = 60.0  # it starts in two seconds, again if what it needs is still starting
# The last one is what asyncpg says of a server that dies between two messages.
DATABASE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# Of the session that holds a shard's lock: the port that it comes from. The epoch in the same
# moment, so that only a later take-over raises it.
READ_WRITER = """
select array[client_port, (select epoch from head where shard = $2::int)]
from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and classid = $1 and objid = $2::int and granted
and database = (select oid from pg_database where datname = current_database())
"""

READ_EPOCH = "select epoch from head where shard = $1"

Told = Callable[[str, Ending], None]


class Stage:
    """Everything that runs; the settings of each process lead through proxies of its own."""

    def __init__(self, directory: Path, on_exit: Told) -> None:
        self.run = RunDirectory(directory)
        self.run.prepare()
        self._on_exit = on_exit
        self._watches: list[asyncio.Task[None]] = []
        self.proxies: dict[tuple[str, str], Proxy] = {}  # by process and service
        self.services: dict[str, Service] = {}
        self.exchange: Exchange
        self.keys: KeyRing
        self.settings: Settings

    @property
    def processes(self) -> dict[str, ManagedProcess]:
        return {process.name: process for process in self.exchange.processes}

    def pair(self, shard: int) -> tuple[ManagedProcess, ManagedProcess]:
        """Return both matchers of a shard."""
        return self.exchange.matchers[shard], self.exchange.standbys[shard]

    def links(self, service: str, process: str | None = None) -> list[Proxy]:
        """Return the proxies to a service: all, or those of one process (Kafka's is common)."""
        return [
            proxy
            for (owner, target), proxy in self.proxies.items()
            if target == service and process in (None, owner)
        ]

    async def start(self) -> None:
        kafka_port, controller_port, postgres_port, redis_port, port, _ = free_ports(6)
        self._ports = {"Kafka": kafka_port, "PostgreSQL": postgres_port, "Redis": redis_port}
        to_kafka = await self._proxy("all", "Kafka")
        kafka_jars = await asyncio.to_thread(_jars)
        kafka = kafka_in(
            self.run,
            jars=kafka_jars,
            port=kafka_port,
            controller_port=controller_port,
            advertised_port=to_kafka.port,
        )
        postgres = postgres_in(self.run, port=postgres_port)
        valkey = valkey_in(self.run, port=redis_port)
        self._local = LocalServices(kafka, postgres, valkey)
        self.services = {"Kafka": kafka, "PostgreSQL": postgres, "Redis": valkey}
        await self._local.start()
        self.settings = _settings(f"{LOOPBACK}:{to_kafka.port}", postgres.url, valkey.url, port)
        await migrate(self.settings.sqlalchemy_url)
        await ensure_topic(self.settings.kafka_bootstrap_servers, self.settings.kafka_topic, SHARDS)
        await self._start_exchange()

    async def _start_exchange(self) -> None:
        self.exchange = Exchange(self.settings, self.run.path, publishing=True)
        for process in self.exchange.processes:
            process.env = await self._environment(process)
            process.backoff = BACKOFF
        await self.exchange.start()
        for process in self.exchange.processes:
            watch = process.keep_running(lambda p, ending, _: self._on_exit(p.name, ending))
            self._watches.append(asyncio.create_task(watch))
        await self._bootstrap()
        await self.exchange.register_instruments(self.keys)

    async def _bootstrap(self) -> None:
        """Make the admin's key as an operator does, and a key for each client."""
        file = self.run.path / "admin.key"
        code, told = await self._command("keys", "bootstrap", "--to", str(file))
        assert code == 0, told
        self.keys = KeyRing(load_signer(file))
        async with self.admin() as http:
            for client_id in CLIENTS:
                await self.keys.give(http, client_id)

    def admin(self) -> httpx.AsyncClient:
        """Return what an admin asks the first gateway with."""
        return httpx.AsyncClient(
            base_url=self.exchange.urls[0], timeout=ADMIN_TIMEOUT_S, auth=self.keys
        )

    async def _command(self, *words: str) -> tuple[int, str]:
        """Run one of the exchange's commands; return its exit code, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exchange", *words),
            cwd=PROJECT,
            env={**os.environ, **self.settings.environment()},
            stdout=PIPE,
            stderr=STDOUT,
        )
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    async def stop(self) -> None:
        if hasattr(self, "exchange"):
            await self.exchange.stop()
        for proxy in self.proxies.values():
            await proxy.stop()
        for service in self.services.values():
            await service.stop()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def kill_everything(self) -> None:
        """Kill -9 all processes and services at once, and start them again."""
        for process in self.exchange.processes:
            kill(process)
        await asyncio.gather(*(service.process.kill() for service in self.services.values()))
        await self._local.start()

    def cut_partition(self, shard: int, batches: int) -> int:
        """Take the newest batches of a shard's commands away; Kafka does not run."""
        topic = self.settings.kafka_topic
        return cut_partition(self.run.path / "kafka", topic, shard, batches=batches)

    async def adopt_topic(self) -> str:
        """Do what an operator does about a topic that lost its tail; PostgreSQL may be away."""
        deadline_s = time.monotonic() + ADOPT_TIMEOUT_S
        while True:
            code, told = await self._command("adopt-topic", "--yes")
            if code == 0:
                return told
            assert time.monotonic() < deadline_s, f"the topic cannot be adopted: {told}"
            await asyncio.sleep(ASK_PAUSE_S)

    async def working(self, shard: int) -> tuple[ManagedProcess, int]:
        """Return the matcher that holds a shard, when there is one, and the epoch."""
        deadline_s = time.monotonic() + ASK_TIMEOUT_S
        while True:
            port, epoch = await self.ask(READ_WRITER, WRITER_LOCK_CLASS, shard) or (0, 0)
            for matcher in self.pair(shard):
                if any(link.carries(port) for link in self.links("PostgreSQL", matcher.name)):
                    return matcher, epoch
            assert time.monotonic() < deadline_s, f"nobody holds shard {shard}"
            await asyncio.sleep(ASK_PAUSE_S)

    async def epoch(self, shard: int) -> int:
        epoch: int = await self.ask(READ_EPOCH, shard)
        return epoch

    async def ask(self, query: str, *arguments: Any) -> Any:
        """Ask the database for a value; it may be away for a while."""
        deadline_s = time.monotonic() + ASK_TIMEOUT_S
        while True:
            try:
                async with self.database() as connection:
                    return await connection.fetchval(query, *arguments)
            except DATABASE_ERRORS:
                if time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(ASK_PAUSE_S)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.settings.database_url, timeout=5, ssl=False)
        try:
            yield connection
        finally:
            with suppress(*DATABASE_ERRORS):
                await connection.close(timeout=5)

    def redis(self) -> Redis:
        return Redis.from_url(self.settings.redis_url, socket_timeout=5)

    async def _environment(self, process: ManagedProcess) -> dict[str, str]:
        database = await self._proxy(process.name, "PostgreSQL")
        redis = await self._proxy(process.name, "Redis")
        settings = replace(
            self.settings,
            database_url=local_database_url(database.port),
            redis_url=local_redis_url(redis.port),
        )
        return {**settings.environment(), "PYTHONUNBUFFERED": "1"}

    async def _proxy(self, process: str, service: str) -> Proxy:
        proxy = self.proxies[process, service] = Proxy(self._ports[service])
        await proxy.start()
        return proxy


@asynccontextmanager
async def staged(directory: Path, on_exit: Told) -> AsyncIterator[Stage]:
    """A stage that runs, and that is removed afterwards but for its logs and histories."""
    stage = Stage(directory, on_exit)
    with stage.run.locked():
        try:
            await stage.start()
            yield stage
        finally:
            await stage.stop()
            _remove_data(stage.run)


def kill(process: ManagedProcess) -> None:
    """Kill -9; whoever watches the process starts it again."""
    process.signal(signal.SIGKILL)


def _remove_data(run: RunDirectory) -> None:
    kept = run.path / "kept"
    run.logs.rename(kept)
    remove(run)
    kept.rename(run.logs)


def _jars() -> Path:
    cache = PROJECT / ".run"
    return jars.find(cache, Settings.load().kafka_home) or jars.fetch(cache)


def _settings(kafka: str, database_url: str, redis_url: str, port: int) -> Settings:
    return replace(
        Settings.load({}, dotenv=None),
        shards=SHARDS,
        matchers=SHARDS,
        standbys=1,
        gateways=GATEWAYS,
        port=port,
        door="keys",
        keys_master=MASTER,
        gateway_metrics_port=free_ports(1)[0],
        kafka_bootstrap_servers=kafka,
        database_url=database_url,
        redis_url=redis_url,
        kafka_is_local=False,
        database_is_local=False,
        redis_is_local=False,
        analyst_port=free_ports(1)[0],
        metrics_port=0,
        snapshot_events=5_000,
        snapshot_seconds=10,
    )
