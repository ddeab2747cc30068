"""A desk on stores of its own, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from exchange.config import LOOPBACK, Settings
from exchange.operator.process import run_operator
from tests.conftest import free_ports
from tests.projections.conftest import (  # noqa: F401  fixtures
    connect,
    connection,
    engine,
    projector,
    redis,
)

NOBODY = "http://127.0.0.1:1"
START_S = 20.0

Desk = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def desk_at(settings: Settings, *, allows_changes: bool) -> AsyncIterator[httpx.AsyncClient]:
    """Run a desk, and lend a client of it."""
    stopping = asyncio.Event()
    running = asyncio.create_task(
        run_operator(settings, NOBODY, stopping, allows_changes=allows_changes)
    )
    url = f"http://{LOOPBACK}:{settings.operator_port}"
    async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:
        try:
            async with asyncio.timeout(START_S):
                while not await _answers(client):
                    assert not running.done(), running
                    await asyncio.sleep(0.02)
            yield client
        finally:
            stopping.set()
            await running


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/livez")).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.fixture
def desk(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Run a desk on this test's own stores; no gateway and no analysts' process answers it."""
    monkeypatch.setattr("exchange.operator.process.NICENESS", 0)
    monkeypatch.setattr("exchange.operator.comparing.NICENESS", "0")
    settings = replace(
        Settings.load({}, dotenv=None),
        database_url=database_url,
        redis_url=redis_url,
        operator_port=free_ports(1)[0],
        analyst_url=NOBODY,
        metrics_port=0,
    )

    def run(*, allows_changes: bool = False) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return desk_at(settings, allows_changes=allows_changes)

    return run
