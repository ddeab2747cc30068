"""The local services run without the exchange, for as long as they are needed."""

import io
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console

from exchange.config import Settings, local_database_url
from exchange.stack.alone import services_alone
from exchange.stack.host.directory import RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.run import Screen
from exchange.stack.services import services as services_module
from tests.conftest import free_ports

pytestmark = pytest.mark.anyio


async def test_only_what_is_local_runs_and_stops_again(
    settings: Settings, run_directory: RunDirectory
) -> None:
    (port,) = free_ports(1)
    directory = RunDirectory(run_directory.path / "alone")
    local = replace(
        settings,
        database_is_local=True,
        local_postgres_port=port,
        database_url=local_database_url(port),
    )
    screen = Screen(Console(file=io.StringIO()))

    async with services_alone(local, directory, screen):
        connection = await asyncpg.connect(local.database_url)
        assert await connection.fetchval("select 1") == 1
        await connection.close()
        with pytest.raises(StackError, match="running here already"):
            async with services_alone(local, directory, screen):
                pass

    with pytest.raises(OSError, match="Connect call failed"):
        await asyncpg.connect(local.database_url)
    assert list(directory.pids.iterdir()) == []
    services_module.remove(directory)


async def test_services_of_elsewhere_are_left_alone(settings: Settings, tmp_path: Path) -> None:
    async with services_alone(settings, RunDirectory(tmp_path / "run"), Screen(Console())):
        assert not (tmp_path / "run").exists()
