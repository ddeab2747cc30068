"""PostgreSQL's directory and user when root starts it, the server's settings, and its end."""

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest

from exchange.stack.host.child import Account
from exchange.stack.host.errors import StackError
from exchange.stack.services.postgres import FORMER_AT_WORK, Postgres, is_reachable
from tests.conftest import Services, free_ports, scratch

pytestmark = pytest.mark.anyio

NOBODY = Account(65534, 65534)


def test_a_directory_below_a_closed_one_is_out_of_reach(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    for place in tmp_path.parents:
        if not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o001)
    tmp_path.chmod(0o711)

    assert is_reachable(inner, NOBODY)
    inner.parent.chmod(0o700)
    assert not is_reachable(inner, NOBODY)
    assert is_reachable(inner.parent.parent, NOBODY)


def test_a_full_disk_below_the_data_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory = tmp_path / "postgres"
    directory.symlink_to(elsewhere)
    full = (elsewhere, directory)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if path in full else 10**12)
    )

    with pytest.raises(StackError, match=r"is full \(0 MB free\): free at least 200 MB"):
        Postgres.at(
            directory, port=1, log_path=tmp_path / "postgres.log", pid_path=tmp_path / "pid"
        )


async def test_the_server_keeps_what_it_acknowledged_and_has_no_open_superuser(
    services: Services,
) -> None:
    connection = await asyncpg.connect(services.database_url)
    names = ("fsync", "synchronous_commit", "full_page_writes", "is_superuser", "listen_addresses")
    shown = {name: await connection.fetchval(f"show {name}") for name in names}
    await connection.close()

    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "is_superuser": "off",
        "listen_addresses": "127.0.0.1",
    }
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(services.database_url.replace("exchange@", "postgres@"))


async def test_it_starts_when_the_sessions_of_a_killed_server_have_ended() -> None:
    place = Path(tempfile.mkdtemp(prefix="exchange-postgres-", dir=scratch()))
    place.chmod(0o755)
    log = place / "postgres.log"
    postgres = Postgres.at(
        place / "data", port=free_ports(1)[0], log_path=log, pid_path=place / "pid"
    )
    try:
        await postgres.start()
        connection = await asyncpg.connect(postgres.url)
        session = connection.get_server_pid()
        os.kill(session, signal.SIGSTOP)
        await postgres.process.kill()
        starting = asyncio.create_task(postgres.start())
        async with asyncio.timeout(30):
            while FORMER_AT_WORK not in log.read_bytes():
                await asyncio.sleep(0.02)
        os.kill(session, signal.SIGCONT)
        await starting
        connection.terminate()
    finally:
        await postgres.stop()
        shutil.rmtree(place)
