"""One running exchange per topology, shared by the tests of this folder.

Every test here runs twice: with one of each process, and with two shards, two matchers
and two gateways; the seed's examples and those that put the exchange under load do so on
one of each in ``make test-long`` only. Tests use clients and instruments of their own names
where they count.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from exchange.config import Settings
from tests.conftest import (
    E2E_REDIS_DATABASE,
    Services,
    drop_database,
    free_ports,
    new_database,
    new_topic,
)
from tests.processes import Exchange, running

TOPOLOGIES = {
    "one of each": {"shards": 1, "matchers": 1, "gateways": 1},
    "two shards": {"shards": 2, "matchers": 2, "gateways": 2},
}

LONG_ON_ONE = (
    "test_seed",
    "test_statistics",
    "test_subscribers",
    "test_tools_load",
    "test_tools_watch",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what takes long on the smaller topology to the long run."""
    for item in items:
        takes_long = Path(item.path).stem in LONG_ON_ONE
        if takes_long and item.path.parent == Path(__file__).parent and "one of each" in item.name:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", params=list(TOPOLOGIES.values()), ids=list(TOPOLOGIES))
def topology(
    request: pytest.FixtureRequest, services: Services, template_database: str
) -> Iterator[Settings]:
    """Settings with a database, a topic and ports that outlive a test."""
    database_url = new_database(services, template_database)
    yield replace(
        Settings.load({}, dotenv=None),
        **request.param,
        port=free_ports(2)[0],
        metrics_port=0,
        kafka_topic=new_topic(services, request.param["shards"]),
        kafka_bootstrap_servers=services.kafka_bootstrap_servers,
        database_url=database_url,
        redis_url=services.redis_database(E2E_REDIS_DATABASE),
        kafka_is_local=False,
        database_is_local=False,
        redis_is_local=False,
    )
    drop_database(services, database_url)


@pytest.fixture(scope="session")
def exchange(
    topology: Settings, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exchange]:
    """The running exchange; its processes live on the services' event loop."""
    directory: Path = tmp_path_factory.mktemp("exchange")
    with services.portal.wrap_async_context_manager(running(topology, directory)) as exchange:
        yield exchange


@pytest.fixture
async def http(exchange: Exchange) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the last gateway."""
    async with httpx.AsyncClient(base_url=exchange.urls[-1], timeout=15) as client:
        yield client


@pytest.fixture
async def other(exchange: Exchange) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the first gateway, which is another one where there are two."""
    async with httpx.AsyncClient(base_url=exchange.urls[0], timeout=15) as client:
        yield client
