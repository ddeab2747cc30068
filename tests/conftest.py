"""The services that tests run against: real ones, on free ports, in a directory that is deleted.

They are started once per session. Their event loop runs in another thread, so that no test's loop
can stop them. Each test gets its own database (a clone of a migrated template), its own
logical Redis database and its own topics.
"""

import asyncio
import itertools
import os
import random
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from redis import Redis
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.stack.host.directory import RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.migrations import migrate
from exchange.stack.services import jars
from exchange.stack.services.kafka import ensure_topic
from exchange.stack.services.services import LocalServices, kafka_in, postgres_in, remove, valkey_in
from tests.browser import LEFT_OUT

# Below the range that systems take outgoing ports from, so that no connection can take one first.
PORTS = range(20_000, 32_000)
# Valkey has 16. What outlives a test has one of its own: the end-to-end exchange, that of the
# pages, and the gateways' venue; two projectors of different logs would fight over one.
E2E_REDIS_DATABASE = 0
DOOR_REDIS_DATABASE = 13
PAGES_REDIS_DATABASE = 14
VENUE_REDIS_DATABASE = 15
DIRECTORY_PREFIX = "exchange-test-"
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 8_000_000_000  # several times what both workers ever keep there
TEMPLATE = "exchange_template"
DROP_TIMEOUT_S = 20.0
# Begun last, one worker would run them while the other has nothing left to do.
LONGEST = (
    # Before any other: while a browser is asked, the loop of a worker's own exchange stands still.
    "tests/pages",
    "tests/faults/test_nemesis.py",
    "tests/faults",
    "tests/simulation",
    "tests/stack",
    "tests/projections/test_models.py",
    "tests/gateway/parts/test_submission.py",
    "tests/e2e",
    "tests/telemetry/test_observability.py",
)

# A hundred processes start in a run: where nobody may keep what was compiled, each compiles all of
# the exchange again, and every worker all of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The machine may be busy: how long an example takes, and how long it takes to make, says nothing.
hypothesis_settings.register_profile(
    "exchange", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("exchange")


@dataclass(frozen=True, slots=True)
class Services:
    """The addresses of the session's services, and the services themselves."""

    kafka_bootstrap_servers: str
    database_url: str
    redis_url: str
    local: LocalServices
    portal: BlockingPortal

    def redis_database(self, number: int) -> str:
        """Return the address of a logical database on the same Valkey."""
        return f"{self.redis_url.rpartition('/')[0]}/{number}"

    def database(self, name: str) -> str:
        """Return the address of another database on the same server."""
        return f"{self.database_url.rpartition('/')[0]}/{name}"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = random.choice(PORTS)  # the order does not matter to any test
            attempt = held.enter_context(socket.socket())
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # somebody has it
                attempt.bind((LOOPBACK, port))
                found.append(port)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and each asynchronous test with an undisturbed task."""
    items.sort(key=lambda item: [not item.nodeid.startswith(name) for name in LONGEST])
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("anyio"):
            item.fixturenames.append("undisturbed")


class ByExchange(LoadScopeScheduling):
    """Gives a worker a whole module, or all that one running exchange is shared by."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/pages"):
            return "tests/pages"
        if nodeid.startswith("tests/e2e"):
            # The topology comes first, whatever other parameters a test has.
            return nodeid.partition("[")[2].rstrip("]").partition("-")[0]
        return super()._split_scope(nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in a line that the pages were left out."""
    skipped = terminalreporter.stats.get("skipped", ())
    if any(report.nodeid.startswith("tests/pages") for report in skipped):
        terminalreporter.write_line(LEFT_OUT)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByExchange:
    """Tell pytest-xdist how tests are shared between workers."""
    return ByExchange(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def undisturbed(anyio_backend: str) -> None:  # noqa: ARG001  it makes the task
    """Forget what cancellations an earlier test left in the task that all tests share.

    Code that heeds a cancellation which a call swallowed would end that task, and every test after.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def scratch() -> Path:
    """Return where to keep data that ends with the session: in memory, if there is plenty.

    Hundreds of databases live for a second each. A disk would be told to sync every file of each.
    """
    if not MEMORY.is_dir():
        return Path(tempfile.gettempdir())
    found = os.statvfs(MEMORY)
    # Root's PostgreSQL may need its programs beside its data.
    fits = found.f_bavail * found.f_frsize >= MEMORY_BYTES_MIN and not found.f_flag & os.ST_NOEXEC
    return MEMORY if fits else Path(tempfile.gettempdir())


@pytest.fixture(scope="session")
def run_directory() -> Iterator[RunDirectory]:
    """A directory for the session, after what killed sessions left has been removed."""
    for place in (MEMORY, Path(tempfile.gettempdir())):
        for left in place.glob(f"{DIRECTORY_PREFIX}*/lock"):
            _remove_if_abandoned(RunDirectory(left.parent))
    run = RunDirectory(Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX, dir=scratch())))
    run.path.chmod(0o755)  # root's PostgreSQL runs as another user
    run.prepare()
    with run.locked():
        yield run
        remove(run)
        shutil.rmtree(run.path)


def _remove_if_abandoned(run: RunDirectory) -> None:
    try:
        with run.locked():
            run.stop_orphans()
            remove(run)
            shutil.rmtree(run.path)
    except (StackError, OSError):
        return  # somebody else's, and in use


@pytest.fixture(scope="session")
def services(run_directory: RunDirectory) -> Iterator[Services]:
    """Kafka, PostgreSQL and Valkey."""
    cache = PROJECT / ".run"
    kafka_jars = jars.find(cache, Settings.load().kafka_home) or jars.fetch(cache)
    kafka_port, controller_port, postgres_port, valkey_port = free_ports(4)
    kafka = kafka_in(
        run_directory, jars=kafka_jars, port=kafka_port, controller_port=controller_port
    )
    postgres = postgres_in(run_directory, port=postgres_port)
    valkey = valkey_in(run_directory, port=valkey_port)
    local = LocalServices(kafka, postgres, valkey)
    with start_blocking_portal() as portal:
        try:
            portal.call(local.start)
            yield Services(kafka.address, postgres.url, valkey.url, local, portal)
        finally:
            portal.call(local.stop)


async def _execute(database_url: str, statement: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def template_database(services: Services) -> str:
    """The name of a migrated database that nobody is connected to."""
    services.portal.call(_execute, services.database_url, f"create database {TEMPLATE}")
    url = services.database(TEMPLATE).replace("postgresql://", "postgresql+asyncpg://")
    services.portal.call(migrate, url)
    return TEMPLATE


def new_database(services: Services, template: str) -> str:
    """Make a migrated database and return its address."""
    name = f"test_{uuid.uuid4().hex}"
    statement = f"create database {name} template {template}"
    services.portal.call(_execute, services.database_url, statement)
    return services.database(name)


def drop_database(services: Services, database_url: str) -> None:
    """Drop a database, whoever is still connected to it."""
    name = database_url.rpartition("/")[2]
    services.portal.call(_drop, services.database_url, name)


async def _drop(database_url: str, name: str) -> None:
    """Drop a database; an autovacuum at work in it, which only a superuser may end, ends soon."""
    deadline_s = time.monotonic() + DROP_TIMEOUT_S
    while True:
        try:
            await _execute(database_url, f"drop database {name} with (force)")
        except asyncpg.InsufficientPrivilegeError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.1)
        else:
            return


@pytest.fixture
def make_database(services: Services, template_database: str) -> Iterator[Callable[[], str]]:
    """Make migrated databases and return their addresses."""
    made: list[str] = []

    def make() -> str:
        made.append(new_database(services, template_database))
        return made[-1]

    yield make
    for database_url in made:
        drop_database(services, database_url)


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    return make_database()


_redis_databases = itertools.cycle(range(1, DOOR_REDIS_DATABASE))


def new_redis_database(services: Services) -> str:
    """Empty a logical database and return its address."""
    url = services.redis_database(next(_redis_databases))
    with closing(Redis.from_url(url)) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_url(services: Services) -> str:
    """An empty logical database; note that channels are common to all of them."""
    return new_redis_database(services)


def new_topic(services: Services, partitions: int = 1) -> str:
    """Make a topic for commands and return its name."""
    name = f"test.{uuid.uuid4().hex}"
    services.portal.call(ensure_topic, services.kafka_bootstrap_servers, name, partitions)
    return name


@pytest.fixture
def make_topic(services: Services) -> Callable[..., str]:
    """Make topics for commands and return their names."""
    return partial(new_topic, services)


@pytest.fixture
def settings(
    services: Services, database_url: str, redis_url: str, make_topic: Callable[..., str]
) -> Settings:
    """Settings for one shard on this test's own database, topic and port."""
    return replace(
        Settings.load({}, dotenv=None),
        port=free_ports(1)[0],
        analyst_port=free_ports(1)[0],
        operator_port=free_ports(1)[0],
        metrics_port=0,
        kafka_topic=make_topic(1),
        kafka_bootstrap_servers=services.kafka_bootstrap_servers,
        database_url=database_url,
        redis_url=redis_url,
        kafka_is_local=False,
        database_is_local=False,
        redis_is_local=False,
    )
