"""What a person did wrong is one line that names it, never a traceback."""

from pathlib import Path

import asyncpg
import pytest
import typer

from exchange.cli import healthy, telling_of_postgres
from exchange.config import Settings, SettingsError
from exchange.tools.command import fixtures
from exchange.tools.terminal import ToolError, address


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="x cannot be written: No such file or directory"):
        fixtures(orders=1, seed=1, instrument="BTC-USD", output=tmp_path / "nowhere" / "x")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://127.0.0.1:port"])
def test_an_address_whose_port_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ToolError, match=f"{url} is no address: Port"):
        address(url)


@pytest.mark.parametrize(
    ("host", "expected"), [("::", "http://[::1]:3000"), ("0.0.0.0", "http://127.0.0.1:3000")]
)
def test_a_gateway_that_listens_everywhere_is_asked_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, host: str, expected: str
) -> None:
    monkeypatch.setenv("HOST", host)
    monkeypatch.setenv("PORT", "3000")

    assert address("") == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://localhost:99999/x", "Port out of range"),
        ("postgresql://localhost:port/x", "Port could not be cast"),
        (
            "postgresql://localhost/x?sslmode=require&sslrootcert=ca.pem",
            "sslrootcert.*PGSSLROOTCERT",
        ),
    ],
)
def test_a_database_that_cannot_be_named_so_is_refused(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"DATABASE_URL: .*{why}"):
        Settings.load({"DATABASE_URL": url}, None)


@pytest.mark.parametrize(
    "error",
    [asyncpg.InterfaceError("connection is closed"), asyncpg.exceptions.AdminShutdownError("bye")],
)
def test_a_connection_that_postgres_ends_is_told_in_one_line(error: Exception) -> None:
    def command() -> None:
        raise error

    with pytest.raises(ToolError, match=f"PostgreSQL failed: {error}"):
        telling_of_postgres(command)()


def test_a_part_of_the_health_that_is_none_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="foo is none of readiness, checks, matching"):
        healthy("foo")
