"""The exchange with its own Kafka, PostgreSQL and Valkey: stopped and restarted on its data."""

import asyncio
import io
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest
from rich.console import Console

from exchange.config import PROJECT, Settings
from exchange.stack.host.directory import RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.host.listeners import check_free, listeners
from exchange.stack.run import run
from exchange.stack.services import jars
from exchange.stack.services.services import remove
from tests.conftest import free_ports
from tests.stack.test_run import until_shown

pytestmark = pytest.mark.anyio

RESTART_S = 30.0  # from the command to the first trade, twice what it may take without other work
REQUEST_S = 10.0
KAFKA_HOME = Settings.load().kafka_home


@pytest.fixture
def directory(run_directory: RunDirectory) -> Iterator[RunDirectory]:
    """A stack's directory with Kafka's jars and no data."""
    whole = RunDirectory(run_directory.path / "whole")
    whole.path.mkdir()
    cache = PROJECT / ".run"
    if jars.find(cache, KAFKA_HOME) is None:
        jars.fetch(cache)
    (whole.path / "kafka-jars").symlink_to(cache / "kafka-jars")
    yield whole
    remove(whole)
    shutil.rmtree(whole.path)


@pytest.fixture
def local() -> Settings:
    """Settings that name no service, on ports that nobody has."""
    names = [
        *("PORT", "ANALYST_PORT", "OPERATOR_PORT", "METRICS_PORT"),
        *("LOCAL_KAFKA_PORT", "LOCAL_POSTGRES_PORT", "LOCAL_REDIS_PORT"),
    ]
    while True:
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        settings = replace(Settings.load(ports, dotenv=None), kafka_home=KAFKA_HOME)
        with suppress(StackError):  # the port after Kafka's is taken
            check_free(listeners(settings))
            return settings


@asynccontextmanager
async def running(settings: Settings, directory: RunDirectory) -> AsyncIterator[httpx.AsyncClient]:
    """The whole exchange, stopped with a Ctrl-C; nothing of it may be left then."""
    others = set(psutil.Process().children(recursive=True))
    shown = io.StringIO()
    task = asyncio.create_task(run(settings, directory, Console(file=shown)))
    await until_shown(shown, "The exchange is running.", task)
    ours = set(psutil.Process().children(recursive=True)) - others
    url = f"http://{settings.host}:{settings.port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_S) as http:
            yield http
    finally:
        signal.raise_signal(signal.SIGINT)
        await task
    assert len(ours) >= 6
    assert [child for child in ours if child.is_running()] == []
    assert list(directory.pids.iterdir()) == []


async def place(http: httpx.AsyncClient, client: str, side: str) -> dict[str, Any]:
    order = {"client_id": client, "instrument": "BTC-USD", "side": side, "type": "limit"}
    answer = await http.post("/orders", json={**order, "price": 70150.5, "quantity": 0.25})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_it_runs_with_services_of_its_own_and_leaves_nothing(
    local: Settings, directory: RunDirectory
) -> None:
    async with running(local, directory) as http:
        placed = await place(http, "maker", "sell")

    assert placed["order"]["status"] == "open"


@pytest.mark.long
async def test_a_restart_finds_every_order_and_trades_soon(
    local: Settings, directory: RunDirectory
) -> None:
    async with running(local, directory) as http:
        resting = (await place(http, "maker", "sell"))["order"]

    started_s = time.monotonic()
    async with running(local, directory) as http:
        found = (await http.get(f"/orders/{resting['order_id']}")).json()["order"]
        placed = await place(http, "taker", "buy")
        trading_s = time.monotonic() - started_s

    assert found == resting
    assert [trade["quantity"] for trade in placed["trades"]] == [resting["quantity"]]
    assert trading_s <= RESTART_S
