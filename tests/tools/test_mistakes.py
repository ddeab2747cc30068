"""What a person did wrong is one line that names it, never a traceback."""

from pathlib import Path

import asyncpg
import pytest
import typer

from exchange.cli import healthy, telling_of_postgres
from exchange.config import Settings, SettingsError
from exchange.tools.command import fixtures
from exchange.tools.projections.stores import checked, operator
from exchange.tools.terminal import ToolError, address, counted, sized


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


@pytest.mark.parametrize(
    ("name", "reason", "why"),
    [
        ("ann", "x" * 1_001, "REASON has 1,001 characters; at most 1,000 are kept"),
        ("ann", "one\x1b[2J", r"REASON has a character that cannot be printed, '\\x1b'"),
        ("ann", "bytes \udcff", r"REASON has a character that cannot be printed, '\\udcff'"),
        ("a\nb", "", r"OPERATOR has a character that cannot be printed, '\\n'"),
    ],
)
def test_what_is_kept_for_ever_can_be_shown_for_ever(
    monkeypatch: pytest.MonkeyPatch, name: str, reason: str, why: str
) -> None:
    monkeypatch.setenv("OPERATOR", name)

    with pytest.raises(ToolError, match=why):
        operator(reason)


def test_an_absurd_name_is_not_repeated_whole() -> None:
    with pytest.raises(ToolError, match=r"There is no projection 'x{40}…'; there are: "):
        checked("x" * 3_000)


def test_figures_are_told_as_a_person_reads_them() -> None:
    assert [sized(size) for size in (0, 472, 1_648, 2_300_000)] == [
        "0 B",
        "472 B",
        "2 kB",
        "2.3 MB",
    ]
    assert [counted(n, "event") for n in (0, 1, 2_000)] == ["0 events", "1 event", "2,000 events"]
