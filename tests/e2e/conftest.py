"""One running exchange per topology, shared by the tests of this folder.

Every test here runs with two shards, two matchers and two gateways, and in ``make test-long`` also
with one of each process. Tests use clients and instruments of their own names where they count. An
exchange ends after its last test: five idle processes would cost the tests of other folders a fifth
of a core.

On a busy machine an order may take long, so tests wait longer for it than production does, and
repeat a read that answers 503, and an order for which the matcher is too busy.
"""

import asyncio
import time
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
from tests.running import Exchange, running

TOPOLOGIES = {
    "one of each": {"shards": 1, "matchers": 1, "gateways": 1},
    "two shards": {"shards": 2, "matchers": 2, "gateways": 2},
}

ORDER_WAIT_MS = 20_000
HISTORY_PER_SECOND = 10_000  # tests ask about the past more than one client may
CLIENT_TIMEOUT_S = 30.0
COME_AGAIN_S = 20.0
COME_AGAIN_PAUSE_S = 0.05


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what takes long on the smaller topology to the long run."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "one of each" in item.name:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="package", params=list(TOPOLOGIES.values()), ids=list(TOPOLOGIES))
def topology(
    request: pytest.FixtureRequest, services: Services, template_database: str
) -> Iterator[Settings]:
    """Settings with a database, a topic and ports that outlive a test."""
    database_url = new_database(services, template_database)
    yield replace(
        Settings.load({}, dotenv=None),
        **request.param,
        port=free_ports(2)[0],
        analyst_port=free_ports(1)[0],
        metrics_port=0,
        order_wait_ms=ORDER_WAIT_MS,
        rate_limit_history_per_second=HISTORY_PER_SECOND,
        kafka_topic=new_topic(services, request.param["shards"]),
        kafka_bootstrap_servers=services.kafka_bootstrap_servers,
        database_url=database_url,
        redis_url=services.redis_database(E2E_REDIS_DATABASE),
        kafka_is_local=False,
        database_is_local=False,
        redis_is_local=False,
    )
    drop_database(services, database_url)


@pytest.fixture(scope="package")
def exchange(
    topology: Settings, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exchange]:
    """The running exchange; its processes live on the services' event loop."""
    directory: Path = tmp_path_factory.mktemp("exchange")
    with services.portal.wrap_async_context_manager(running(topology, directory)) as exchange:
        yield exchange


class Careful(httpx.AsyncHTTPTransport):
    """Asks again, for a while, where a read model or a matcher is not as far as it has to be.

    Nothing is encrypted here, and to load the certificates takes 40 ms for each client.
    """

    def __init__(self) -> None:
        super().__init__(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        deadline_s = time.monotonic() + COME_AGAIN_S
        while True:
            response = await super().handle_async_request(request)
            if response.status_code != 503 or time.monotonic() > deadline_s:
                return response
            await response.aread()
            if request.method != "GET" and response.json()["code"] != "gateway.busy":
                return response
            await asyncio.sleep(COME_AGAIN_PAUSE_S)


def client_of(url: str) -> httpx.AsyncClient:
    """Return a client that is as patient as a busy machine needs."""
    return httpx.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT_S, transport=Careful())


@pytest.fixture
async def http(exchange: Exchange) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the last gateway."""
    async with client_of(exchange.urls[-1]) as client:
        yield client


@pytest.fixture
async def other(exchange: Exchange) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the first gateway, which is another one where there are two."""
    async with client_of(exchange.urls[0]) as client:
        yield client
