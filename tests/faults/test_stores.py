"""A store that answers with refusals: no partial batch, nothing stale, and all is well afterwards.

A trigger raises PostgreSQL's refusals with the codes that the server would use. PostgreSQL is
really made read-only, and Redis really gets no memory.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis

from exchange.config import LOOPBACK, Settings
from exchange.matcher.matcher import CRASHES_MAX
from exchange.stack.host.child import Backoff, Ending, ManagedProcess
from tests.failures import count_failures, plant_failures, uproot_failures
from tests.faults.proxy import Proxy
from tests.faults.test_kills import check_everything
from tests.load import Answer, Command, Load
from tests.running import INSTRUMENTS, Exchange, running

pytestmark = pytest.mark.anyio

COMMANDS_BETWEEN = 30
FAILURES = CRASHES_MAX + 1  # would be the command's own, but for the code

BACKOFF = Backoff(first_s=0.2, longest_s=0.2)
RECOVERED_WITHIN_S = 30.0
NOTICED_WITHIN_S = 5.0
LOOK_EVERY_S = 0.1
NAMES = [str(instrument["instrument"]) for instrument in INSTRUMENTS]
AWAY_S = 30.0
MEMORY_BYTES = "1"

READ_QUARANTINED = "select count(*) from events where type = 'CommandQuarantined'"


@asynccontextmanager
async def trading(
    settings: Settings, directory: Path
) -> AsyncIterator[tuple[Exchange, Load, list[Ending]]]:
    """An exchange under load whose matcher is started again when it ends, and how it ended."""
    endings: list[Ending] = []

    def note(_process: ManagedProcess, ending: Ending, _wait_s: float) -> None:
        endings.append(ending)

    async with running(settings, directory) as exchange:
        matcher = exchange.matchers[0]
        matcher.backoff = BACKOFF
        watch = asyncio.create_task(matcher.keep_running(note))
        async with Load(exchange.urls, NAMES) as load:
            await load.until_resolved(COMMANDS_BETWEEN)
            yield exchange, load, endings
            await load.until_resolved(COMMANDS_BETWEEN, RECOVERED_WITHIN_S)
        await check_everything(settings, load)
        watch.cancel()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("53100", id="disk full", marks=pytest.mark.long),
        pytest.param("40P01", id="deadlock", marks=pytest.mark.long),
        pytest.param("40001", id="serialization failure", marks=pytest.mark.long),
    ],
)
async def test_matcher_and_projector_survive_what_postgresql_refuses(
    settings: Settings, tmp_path: Path, code: str
) -> None:
    async with trading(settings, tmp_path) as (exchange, load, endings):
        for table in ("events", "positions"):
            await plant_failures(settings.database_url, table, code, FAILURES)
        await load.until_resolved(COMMANDS_BETWEEN, RECOVERED_WITHIN_S)
        for table in ("events", "positions"):
            await until_over(settings.database_url, table)
        assert exchange.projector.running
    connection = await asyncpg.connect(settings.database_url)
    quarantined = await connection.fetchval(READ_QUARANTINED)
    await connection.close()

    assert len(endings) == FAILURES
    assert 0 not in endings
    assert quarantined == 0


@pytest.mark.long
async def test_a_matcher_survives_a_database_that_is_read_only(
    settings: Settings, tmp_path: Path
) -> None:
    async with trading(settings, tmp_path) as (exchange, load, endings):
        await set_read_only(settings.database_url, on=True)
        async with asyncio.timeout(RECOVERED_WITHIN_S):
            while not endings:
                await asyncio.sleep(0.05)
        careful = order()
        refused = await send(exchange, load, careful)
        await set_read_only(settings.database_url, on=False)
        await load.until_resolved(COMMANDS_BETWEEN, RECOVERED_WITHIN_S)
        accepted = await send(exchange, load, careful)

    assert 0 not in endings
    assert refused.status in (202, 503), refused
    assert accepted.status == 201, accepted


async def test_redis_without_memory_stops_no_trade_and_shows_no_old_book(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        Redis.from_url(settings.redis_url) as redis,
        trading(settings, tmp_path) as (exchange, load, endings),
    ):
        memory = str((await redis.config_get("maxmemory"))["maxmemory"])
        try:
            await redis.config_set("maxmemory", MEMORY_BYTES)
            placed = await send(exchange, load, order())
            book = await until_book_is(503, exchange)
        finally:
            await redis.config_set("maxmemory", memory)
        await until_book_is(200, exchange, placed)

    assert placed.status == 201, placed
    assert book.json()["code"] == "read.stale", book.text
    assert endings == []


@pytest.mark.long
async def test_a_projector_cut_from_redis_stops_no_trade_and_leaves_no_old_book(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        redis_proxy(settings) as (proxy, behind),
        trading(settings, tmp_path) as (exchange, load, endings),
    ):
        exchange.projector.env = {**behind.environment(), "PYTHONUNBUFFERED": "1"}
        await exchange.kill_and_restart(exchange.projector)
        await until_book_is(200, exchange)
        away = asyncio.create_task(proxy.cut(2 * NOTICED_WITHIN_S))
        placed = await send(exchange, load, order())
        book = await until_book_is(503, exchange)
        await away
        await until_book_is(200, exchange, placed)

    assert (placed.status, bool(placed.body["orderbook"])) == (201, True), placed
    assert book.json()["code"] == "read.stale", book.text
    assert endings == []


@pytest.mark.long
@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.hold], ids=["cut", "silent"])
async def test_redis_away_for_half_a_minute_stops_no_trade_and_shows_no_old_book(
    settings: Settings, tmp_path: Path, fault: Callable[[Proxy, float], Coroutine[Any, Any, None]]
) -> None:
    async with (
        redis_proxy(settings) as (proxy, behind),
        trading(behind, tmp_path) as (exchange, load, endings),
    ):
        away = asyncio.create_task(fault(proxy, AWAY_S))
        await until_book_is(503, exchange)
        placed = await send(exchange, load, order())
        await away
        await until_book_is(200, exchange, placed)

    assert placed.status == 201, placed
    assert endings == []


@asynccontextmanager
async def redis_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, Settings]]:
    """A proxy to Redis, and the settings of who is behind it."""
    url = urlsplit(settings.redis_url)
    assert url.port is not None
    proxy = Proxy(url.port)
    await proxy.start()
    through = url._replace(netloc=f"{LOOPBACK}:{proxy.port}").geturl()
    try:
        yield proxy, replace(settings, redis_url=through)
    finally:
        await proxy.stop()


def order() -> Command:
    body: dict[str, Any] = {
        "client_id": "careful", "instrument": NAMES[0], "side": "buy", "type": "limit",
        "price": 1, "quantity": 1, "idempotency_key": "once",
    }  # fmt: skip
    return Command("/orders", body)


async def send(exchange: Exchange, load: Load, command: Command) -> Answer:
    """Send a command, maybe not for the first time, and let the load's history know."""
    if not command.attempts:
        load.history.invoked(command)
    command.attempts += 1
    async with httpx.AsyncClient(timeout=15) as http:
        response = await http.post(exchange.urls[0] + command.path, json=command.body)
    answer = Answer(response.status_code, response.json(), time.time())
    load.history.answered(command, answer)
    return answer


async def until_book_is(
    status: int, exchange: Exchange, after: Answer | None = None
) -> httpx.Response:
    """Ask for the book, as it is or after an answer, until it is answered so; it must be soon.

    Looks are counted, not seconds: a gateway that shares its processor answers them later too.
    """
    parameters: dict[str, str | int] = {"instrument": NAMES[0]}
    if after is not None:
        parameters["min_sequence"] = int(after.body["sequence"])
    async with httpx.AsyncClient(timeout=15) as http:
        for _ in range(round(NOTICED_WITHIN_S / LOOK_EVERY_S)):
            book = await http.get(f"{exchange.urls[0]}/market/orderbook", params=parameters)
            if book.status_code == status:
                return book
            await asyncio.sleep(LOOK_EVERY_S)
    raise AssertionError(f"not {status}, but {book.status_code}: {book.text}")


async def set_read_only(database_url: str, *, on: bool) -> None:
    """Let every session that begins be read-only, and end those that are there."""
    connection = await asyncpg.connect(
        database_url, server_settings={"default_transaction_read_only": "off"}
    )
    name = await connection.fetchval("select current_database()")
    mode = "on" if on else "off"
    await connection.execute(f'alter database "{name}" set default_transaction_read_only = {mode}')
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = $1 and pid <> pg_backend_pid()",
        name,
    )
    await connection.close()


async def until_over(database_url: str, table: str) -> None:
    """Wait until a table has been written to again, and take its failures out."""
    async with asyncio.timeout(RECOVERED_WITHIN_S):
        while await count_failures(database_url, table) <= FAILURES:
            await asyncio.sleep(0.05)
    await uproot_failures(database_url, table)
