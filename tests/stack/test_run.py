"""``exchange run`` itself, with its real processes on the session's services."""

import asyncio
import io
import os
import signal
import sys
import uuid
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest
from rich.console import Console

from exchange.config import Settings
from exchange.stack.host.child import stop_orphans
from exchange.stack.host.directory import RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.migrations import migrate
from exchange.stack.run import run, shard_arguments, without_password
from tests.conftest import Services

pytestmark = pytest.mark.anyio


async def until_shown(shown: io.StringIO, text: str, running: asyncio.Task[None]) -> None:
    while text not in shown.getvalue():
        assert not running.done(), shown.getvalue()
        await asyncio.sleep(0.02)


async def test_it_starts_mends_what_dies_and_stops_everything(
    settings: Settings, tmp_path: Path
) -> None:
    shown = io.StringIO()
    directory = RunDirectory(tmp_path)
    others = psutil.Process().children(recursive=True)
    running = asyncio.create_task(run(settings, directory, Console(file=shown)))
    await until_shown(shown, "The exchange is running.", running)
    children = set(psutil.Process().children(recursive=True)) - set(others)
    ours = [child for child in children if "exchange" in child.cmdline()]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}") as http:
        while (answer := await http.get("/instruments")).status_code == 503:  # it follows soon
            await asyncio.sleep(0.05)
    (matcher,) = (child for child in ours if "matcher" in child.cmdline())
    matcher.kill()
    await until_shown(shown, "matcher-0 was killed by signal 9", running)
    signal.raise_signal(signal.SIGINT)
    await running

    assert [entry["instrument"] for entry in answer.json()["instruments"]] == ["BTC-USD"]
    assert len(ours) == 7
    assert shown.getvalue().endswith("Stopped.\n")
    assert list(directory.pids.iterdir()) == []
    assert not any(child.is_running() for child in ours)


async def test_an_interrupted_start_stops_what_had_started(
    settings: Settings, tmp_path: Path
) -> None:
    directory = RunDirectory(tmp_path)
    async with asyncio.timeout(60):
        running = asyncio.create_task(run(settings, directory, Console(file=io.StringIO())))
        while not list(directory.pids.glob("gateway-*.pid")):
            await asyncio.sleep(0.02)
        signal.raise_signal(signal.SIGTERM)
        await running

    assert stop_orphans(list(directory.pids.iterdir())) == []


async def test_two_processes_may_migrate_at_once(services: Services) -> None:
    name = f"empty_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(services.database_url)
    await connection.execute(f"create database {name}")
    environment = {**os.environ, "DATABASE_URL": services.database(name)}
    argv = (sys.executable, "-m", "exchange", "migrate")

    both = [await asyncio.create_subprocess_exec(*argv, env=environment) for _ in range(2)]
    codes = [await process.wait() for process in both]
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()

    assert codes == [0, 0]


@pytest.mark.parametrize("name", ["no_such_database", "template1"])
async def test_a_database_that_refuses_is_one_clear_line(services: Services, name: str) -> None:
    url = services.database(name).replace("postgresql://", "postgresql+asyncpg://")

    with pytest.raises(StackError, match="Check DATABASE_URL"):
        await migrate(url.replace("exchange@", "stranger@"))


def test_each_matcher_gets_every_nth_shard() -> None:
    settings = Settings.load({"SHARDS": "5", "MATCHERS": "2"}, dotenv=None)

    assert shard_arguments(settings, 0) == ["--shard", "0", "--shard", "2", "--shard", "4"]
    assert shard_arguments(settings, 1) == ["--shard", "1", "--shard", "3"]


def test_a_password_is_never_shown() -> None:
    assert without_password("redis://:secret@h:1/0") == "redis://:***@h:1/0"
    assert without_password("postgresql://u@h/d") == "postgresql://u@h/d"
