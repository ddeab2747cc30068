"""What ``exchange export`` says: of ranges, of folders, and of what it cannot do."""

import json
import random
import signal
import sys
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.config import PROJECT
from exchange.export.manifests import NoManifest, read_manifest
from exchange.tools.terminal import ToolError
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio


@pytest.fixture
async def end(database_url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Write a log of one shard, point the command to it, and return where it ends."""
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(4), 300)
        end = writer.position
    monkeypatch.setenv("ANALYTICS_DATABASE_URL", database_url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    return end


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def export(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


async def run(*arguments: object) -> Result:
    """Run the command where no loop runs."""
    return await anyio.to_thread.run_sync(lambda: export(*arguments))


async def test_a_folder_is_written_told_and_proved(end: int, out: Path) -> None:
    written = await run("--to", out)
    told = written.stdout.splitlines()
    expect = told[1].split()

    proved = await run("--check", out, *expect)

    assert written.exit_code == 0, written.output
    assert told[0] == f"shard 0: events 1 to {end:,}"
    assert expect[0] == "--expect"
    assert proved.exit_code == 0, proved.output
    assert "fit each of 1 values that were kept" in proved.stdout
    assert "Give --expect" in (await run("--check", out)).stdout


async def test_copies_as_text_are_no_more_rows_and_files_of_others_are_named(
    end: int, out: Path
) -> None:
    def rows(result: Result) -> str:
        return next(word for word in result.stdout.split(", ") if word.endswith(" rows"))

    once = await run("events", "--to", out)
    copied = await run("events", "--to", out, "--format", "csv", "--format", "jsonl")
    (out / "notes.txt").write_text("mine")
    proved = await run("--check", out)

    assert rows(copied) == rows(once)
    assert int(rows(once).split()[0].replace(",", "")) >= end
    assert proved.exit_code == 0, proved.output
    assert "Not of the export, and not checked: notes.txt." in proved.stdout
    assert "are what was exported" in proved.stdout


async def test_a_folder_without_all_events_says_what_that_means(end: int, out: Path) -> None:
    manifest = json.loads((await run("trades", "--to", out, "--json")).stdout)
    checked = await run("--check", out)

    assert manifest["data_sets"] == ["trades"]
    assert manifest["shards"][0]["up_to"] == end
    assert checked.exit_code == 0
    assert "nothing says that these are what the log had" in checked.stdout


async def test_what_is_derived_brings_its_events_and_is_made_again(end: int, out: Path) -> None:
    written = await run("orders", "book", "--every", 5, "--to", out, "--json")
    added = await run("settlement", "--to", out, "--json")
    proved = await run("--check", out)

    manifest = json.loads(added.stdout)
    assert json.loads(written.stdout)["data_sets"] == ["book", "events", "orders"]
    assert manifest["data_sets"] == ["book", "events", "orders", "settlement"]
    assert manifest["book"] == {"levels": 10, "every_ms": 5_000}
    assert f"{end:,} events are what was exported" in proved.stdout
    assert "files were made again from the events" in proved.stdout


async def test_following_ends_with_the_files_of_one_export(
    end: int, out: Path, database_url: str
) -> None:
    command = [sys.executable, "-m", "exchange", "export", "trades", "positions", "--follow", "1"]
    taken: set[str] = set()
    async with (
        LogWriter.open(database_url, 1, taken=taken) as writer,
        await anyio.open_process([*command, "--to", str(out)], cwd=PROJECT) as following,
    ):
        with anyio.fail_after(30):
            await until_exported(out, {0: end, 1: 0})
            await writer.append(registrations(1))
            await writer.append_random(random.Random(5), 50)
            await until_exported(out, {0: end, 1: writer.position})
        following.send_signal(signal.SIGINT)
        assert await following.wait() != 0
    once = out.with_name("once")
    await run("trades", "positions", "--to", once)

    assert contents(out) == contents(once)


async def until_exported(out: Path, ends: dict[int, int]) -> None:
    while True:
        try:
            if {one.shard: one.up_to for one in read_manifest(out).shards} == ends:
                return
        except NoManifest:
            pass
        await anyio.sleep(0.05)


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


async def test_a_folder_that_was_changed_ends_with_1(end: int, out: Path) -> None:
    del end
    await run("--to", out)
    (out / "instruments.parquet").unlink()

    told = await run("--check", out)
    as_json = await run("--check", out, "--json")

    assert (told.exit_code, as_json.exit_code) == (1, 1)
    assert told.stdout.splitlines()[0] == "instruments.parquet is missing"
    assert json.loads(as_json.stdout)["problems"] == ["instruments.parquet is missing"]


async def test_times_bound_what_is_exported(end: int, out: Path) -> None:
    half = json.loads((await run("--to", out, "--until", "2026-09-21T14:14:00Z", "--json")).stdout)
    up_to = half["shards"][0]["up_to"]
    rest = await run("--to", out.with_name("rest"), "--from", "2026-09-21T14:14:00Z", "--json")
    shard = json.loads(rest.stdout)["shards"][0]

    assert 0 < up_to < end
    assert (shard["after"], shard["up_to"]) == (up_to, end)
    assert shard["chain_before"] == half["shards"][0]["chain"]
    assert (await run("--check", out.with_name("rest"))).exit_code == 0
    later = await run("--to", out.with_name("later"), "--until", "2099-01-01T00:00:00Z")
    assert "Shard 0 has no event after --until yet. Events up to that time may still come" in (
        later.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "x", "books"], "books is no data set; there are: events, trades, orders, book"),
        ([], "--to DIR says where to write"),
        (["--to", "x", "orders", "--from", "2026-01-01"], "--from: orders begin with the first"),
        (["--to", "x", "orders", "--every", "5"], "belong to the data set book"),
        (["--check", "x", "--to", "y"], "--check takes --expect alone"),
        (["--to", "x", "--follow", 1, "--until", "2030-01-01"], "--follow has no end"),
        (["--to", "x", "--from", "noon"], "--from noon is no ISO 8601 time"),
        (["--to", "x", "--expect", "0:1:" + "0" * 64], "--expect belongs to --check"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], told: str) -> None:
    refused = export(*arguments)

    assert refused.exit_code == 2
    assert told in " ".join(refused.stderr.replace("│", " ").split())


async def test_what_is_not_there_is_told(end: int, out: Path) -> None:
    del end
    for arguments, told in (
        (("--to", out, "--shard", 7), "There is no shard 7; there are: 0"),
        (("--to", out, "--from", "2030-01-01"), "There is no event to export"),
        (("--check", out), "out is no folder"),
    ):
        result = await run(*arguments)
        assert isinstance(result.exception, ToolError)
        assert told in str(result.exception)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exchange.tools.analysts.export", None)
    monkeypatch.delattr("exchange.tools.analysts.export", raising=False)

    result = export("--to", "x")

    assert isinstance(result.exception, ToolError)
    assert "pip install '.[analysis]'" in str(result.exception)
    assert "which make setup installs into .venv" in str(result.exception)
