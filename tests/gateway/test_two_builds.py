"""Two builds of the exchange side by side, as during an upgrade.

This build plays the older one. The newer one is a copy whose commands and events have more: orders
may have a note, which older matchers cannot read and older gateways may ignore in the event; and
cancels are recorded in a form that older readers would misread.
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from exchange.config import PROJECT, Settings
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import CRASHES_MAX, Matcher
from exchange.ports import NewerCommand
from exchange.stack.host.child import ManagedProcess
from exchange.transport.commands import KafkaCommandLog
from exchange.transport.outcomes import RedisOutcomes
from tests.conftest import VENUE_REDIS_DATABASE, free_ports
from tests.gateway.conftest import (
    CLIENT_TIMEOUT_S,
    HOST,
    PATIENCE_S,
    SHARD,
    Venue,
    gateway_at,
    matching,
    order,
    register,
)
from tests.gateway.orders.test_placing import follow

pytestmark = pytest.mark.anyio

WAIT_MS = 30_000  # for a process that starts on a busy machine
NEWER_BUILD = "exchange 99.0"
LATER = {"Prefer": "respond-async"}

# Each text stands once in its file, and more follows it in the newer build.
NEWER_TEXTS = {
    "domain/commands.py": {
        "    price: PriceUnits | None\n    quantity: QuantityUnits\n": (
            "    note: Id | None = None\n"
        )
    },
    "domain/events.py": {
        "\n    price: Price | None\n    quantity: Quantity\n    time_ms: int\n": (
            "    note: str | None = None\n"
        )
    },
    "domain/engine.py": {
        "    return OrderAccepted(\n": "        note=order.note,\n",
    },
    "gateway/orders/entry.py": {
        "    price: PriceIn = field(default_factory=null)\n": "    note: Id | None = None\n",
        "    return PlaceOrder(\n": "        note=body.note,\n",
    },
}
NEWER_ENDS = {
    "__init__.py": f'BUILD = "{NEWER_BUILD}"\n',
    "log/command_form.py": 'LATER_COMMANDS["PlaceOrder.note"] = commands_version() + 1\n',
    "log/events.py": (
        'UPCASTERS["OrderCancelled"] = (str,) * max(LATER_VALUES["OrderCancelled"].values())\n'
    ),
}


class Build:
    """The newer build, in a directory of its own, trading at a venue."""

    def __init__(self, directory: Path, venue: Venue) -> None:
        self._directory = directory
        self._port = free_ports(1)[0]
        self._settings = replace(
            Settings.load({}, dotenv=None),
            port=self._port,
            shards=1,
            metrics_port=0,
            order_wait_ms=WAIT_MS,
            kafka_topic=venue.topic,
            kafka_bootstrap_servers=venue.services.kafka_bootstrap_servers,
            database_url=venue.database_url,
            redis_url=venue.services.redis_database(VENUE_REDIS_DATABASE),
        )

    @asynccontextmanager
    async def matcher(self) -> AsyncIterator[ManagedProcess]:
        async with self._running("matcher", "--shard", str(SHARD)) as process:
            yield process

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[httpx.AsyncClient]:
        url = f"http://{HOST}:{self._port}"
        async with (
            self._running("gateway", "--port", str(self._port)) as process,
            httpx.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT_S) as client,
        ):
            await process.until_ready(_listens(client), timeout_s=CLIENT_TIMEOUT_S)
            yield client

    @asynccontextmanager
    async def _running(self, *arguments: str) -> AsyncIterator[ManagedProcess]:
        name = f"newer-{arguments[0]}"
        process = ManagedProcess(
            name,
            (sys.executable, "-m", "exchange", *arguments),
            log_path=self._directory / f"{name}.log",
            pid_path=self._directory / f"{name}.pid",
            env={**self._settings.environment(), "PYTHONPATH": str(self._directory)},
            cwd=self._directory,
        )
        await process.start()
        try:
            yield process
        finally:
            await process.stop()


@pytest.fixture
def newer(tmp_path: Path, idle_venue: Venue) -> Build:
    for package in ("exchange", "projections"):
        # Compiled modules come with it, or each process would compile all of them. A file that is
        # being written has another name until it is whole.
        ignored = shutil.ignore_patterns("*.pyc.*")
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=ignored)
    for name, texts in NEWER_TEXTS.items():
        for known, added in texts.items():
            change(tmp_path / "exchange" / name, known, added)
    for name, end in NEWER_ENDS.items():
        with (tmp_path / "exchange" / name).open("a") as file:
            file.write(end)
    return Build(tmp_path, idle_venue)


async def test_an_older_gateway_leaves_what_it_cannot_read_to_a_newer_one(
    idle_venue: Venue, newer: Build
) -> None:
    async with newer.matcher(), gateway_at(idle_venue, order_wait_ms=WAIT_MS) as older:
        await register(older, "BTC-USD")
        placed = await older.post("/orders", json=order("BTC-USD", order_id="o1"))
        keyed = {"client_id": "alice", "idempotency_key": "c"}
        cancelled = await older.post("/orders/o1/cancel", json=keyed)
        again = await older.post("/orders/o1/cancel", json=keyed)
        asked = await older.get(f"/commands/{cancelled.json().get('command_id')}")
        crossing = await older.post("/orders", json=order("BTC-USD", side="sell", order_id="o2"))
        async with newer.gateway() as http:
            outcome = await follow(http, f"/commands/{cancelled.json()['command_id']}")
            resent = await http.post("/orders/o1/cancel", json=keyed)

    assert (placed.status_code, crossing.status_code) == (201, 201)
    assert crossing.json()["trades"] == []
    for response in (cancelled, again, asked):
        assert (response.status_code, response.json()["code"]) == (503, "gateway.older")
        assert response.json()["outcome"] == "unknown"
        assert response.headers["Retry-After"]
    assert (outcome["status"], outcome["order"]["status"]) == ("accepted", "cancelled")
    assert resent.headers["Idempotent-Replayed"] == "true"


async def test_an_older_matcher_is_sent_nothing_newer_and_ends_at_it_and_refuses_nothing(
    idle_venue: Venue, newer: Build
) -> None:
    plain, noted = order("BTC-USD"), order("BTC-USD", note="later")
    async with newer.gateway() as http:
        async with matching(idle_venue):
            await register(http, "BTC-USD")
            before = await http.post("/orders", json=plain)
            refused = await http.post("/orders", json=noted)
        async with newer.matcher():
            after = await until_read(http, noted)
        late = await http.post("/orders", json=noted, headers=LATER)
        events = await recorded(idle_venue)
        for _ in range(CRASHES_MAX + 2):
            told = await end_of_older_matcher(idle_venue)
        between, attempts = await recorded(idle_venue), await attempts_counted(idle_venue)
        async with newer.matcher():
            outcome = await follow(http, late.headers["Location"])

    assert before.status_code == 201
    assert (refused.status_code, refused.json()["code"]) == (503, "matcher.older")
    assert (refused.json()["outcome"], refused.headers["Retry-After"]) == ("none", "1")
    assert after.status_code == 201, after.text
    assert "RecordRejected" not in [name for name, _ in events]
    assert [data for name, data in events if name == "OrderAccepted"][-1]["note"] == "later"
    assert NEWER_BUILD in told
    assert late.status_code == 202
    assert between == events
    assert attempts == 0
    assert outcome["status"] == "accepted"


async def until_read(http: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    """Send an order until the gateway has seen that the matcher reads it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await http.post("/orders", json=body)
            if response.json().get("code") != "matcher.older":
                return response
            await asyncio.sleep(0.05)


async def end_of_older_matcher(venue: Venue) -> str:
    """Run the matcher that is here until it ends by itself; return what it says."""
    async with AsyncExitStack() as opened:
        commands = await opened.enter_async_context(
            KafkaCommandLog(venue.services.kafka_bootstrap_servers, venue.topic, SHARD)
        )
        events = await opened.enter_async_context(PostgresEventStore(venue.database_url, SHARD))
        with pytest.raises(ExceptionGroup) as failed:
            await asyncio.wait_for(
                Matcher(SHARD, commands, events, RedisOutcomes(venue.redis)).run(), PATIENCE_S
            )
    (error,) = failed.value.exceptions
    assert isinstance(error, NewerCommand)
    return str(error)


async def recorded(venue: Venue) -> list[tuple[str, dict[str, Any]]]:
    async with venue.engine.connect() as connection:
        rows = await connection.execute(text("select type, data from events order by position"))
        return [(row.type, row.data) for row in rows]


async def attempts_counted(venue: Venue) -> int:
    async with venue.engine.connect() as connection:
        return int(await connection.scalar(text("select max(attempts) from crash_watch")) or 0)


async def _listens(client: httpx.AsyncClient) -> None:
    while True:
        with suppress(httpx.TransportError):
            await client.get("/healthz")
            return
        await asyncio.sleep(0.05)


def change(path: Path, known: str, added: str) -> None:
    """Write ``added`` behind a text that stands once in a file."""
    content = path.read_text()
    assert content.count(known) == 1, f"{path}: {known!r} stands there {content.count(known)} times"
    path.write_text(content.replace(known, known + added))
