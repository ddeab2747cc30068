"""The exchange as real processes: matchers, one projector, gateways, which tests may kill."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from exchange.config import Settings
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.directory import RunDirectory
from exchange.stack.run import exchange_processes, gateways_of

READY_TIMEOUT_S = 60.0  # a few seconds, but for a machine with other work
POLL_S = 0.05

INSTRUMENTS: tuple[dict[str, Any], ...] = (
    {
        "instrument": "BTC-USD",
        "base": "BTC",
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": 0.00000001,
    },
    {
        "instrument": "ETH-EUR",
        "base": "ETH",
        "quote": "EUR",
        "price_scale": 4,
        "quantity_scale": 3,
        "tick_size": 0.05,
        "lot_size": 0.01,
    },
)


class Exchange:
    """The processes that ``settings`` asks for; their logs are in ``directory``."""

    def __init__(self, settings: Settings, directory: Path, *, publishing: bool = False) -> None:
        self.settings = settings
        run = RunDirectory(directory)
        run.prepare()
        tiers = exchange_processes(settings, run)
        self.gateways, self.standbys, self.matchers, readers = tiers
        # Publisher, analyst and operators' desk are started by the tests that ask them.
        self.projector, self.builder, self.publisher, self.analyst, self.operator = readers
        self._publishers = [self.publisher] if publishing else []
        self.urls = [gateway.url for gateway in gateways_of(settings)]

    @property
    def processes(self) -> list[ManagedProcess]:
        readers = [self.projector, self.builder, *self._publishers]
        return [*self.matchers, *self.standbys, *readers, *self.gateways]

    async def start(self) -> None:
        for process in self.processes:
            await process.start()
        await self.until_healthy()

    async def stop(self) -> None:
        by_a_test = [] if self._publishers else [self.publisher]
        every = [*reversed(self.processes), *by_a_test, self.analyst, self.operator]
        await asyncio.gather(*(process.stop() for process in every))

    async def kill_and_restart(self, process: ManagedProcess) -> None:
        """Kill -9, then start again as the supervisor would."""
        await process.kill()
        await process.start()

    async def until_healthy(self) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        async with httpx.AsyncClient(verify=False) as http:
            for url in self.urls:
                while not await _is_healthy(http, url):
                    assert time.monotonic() < deadline_s, self.last_words()
                    await asyncio.sleep(POLL_S)

    async def register_instruments(self, auth: httpx.Auth | None = None) -> None:
        """Register the instruments, one on each shard in turn."""
        async with httpx.AsyncClient(timeout=READY_TIMEOUT_S, verify=False, auth=auth) as http:
            for number, instrument in enumerate(INSTRUMENTS):
                body = {**instrument, "shard": number % self.settings.shards}
                response = await http.post(f"{self.urls[0]}/instruments", json=body)
                assert response.status_code in (200, 201), response.text

    def last_words(self) -> str:
        return "\n".join(f"{p.name}: {p.last_words()}" for p in self.processes)


@asynccontextmanager
async def running(settings: Settings, directory: Path) -> AsyncIterator[Exchange]:
    """An exchange that runs, with the instruments registered."""
    exchange = Exchange(settings, directory)
    try:
        await exchange.start()
        await exchange.register_instruments()
        yield exchange
    finally:
        await exchange.stop()


async def _is_healthy(http: httpx.AsyncClient, url: str) -> bool:
    with suppress(httpx.TransportError):
        response = await http.get(f"{url}/healthz")
        return response.status_code == 200 and response.json()["status"] == "healthy"
    return False
