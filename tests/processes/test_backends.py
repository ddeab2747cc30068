"""The server's processes behind a builder's connections have the lowest priority."""

import asyncpg
import psutil
import pytest

from exchange.processes import backends
from exchange.processes.backends import lower_priority

pytestmark = pytest.mark.anyio

NICENESS = 19


async def test_a_process_of_the_server_goes_after_all_others(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    other = await asyncpg.connect(database_url)
    try:
        await lower_priority(connection, NICENESS)

        assert psutil.Process(connection.get_server_pid()).nice() == NICENESS
        assert psutil.Process(other.get_server_pid()).nice() < NICENESS
    finally:
        await connection.close()
        await other.close()


async def test_a_process_that_only_has_the_same_number_is_left_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "CLIENT", "select '192.0.2.1(' || inet_client_port() || ')'")
    connection = await asyncpg.connect(database_url)
    try:
        await lower_priority(connection, NICENESS)

        assert psutil.Process(connection.get_server_pid()).nice() < NICENESS
    finally:
        await connection.close()
