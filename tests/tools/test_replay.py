"""``exchange replay``: the events of two shards in order, those that are asked, and mistakes."""

import json
import os
import pathlib
import pty
import random
import subprocess
import sys
from typing import Any, NamedTuple

import anyio
import pytest
from typer.testing import CliRunner, Result

from exchange.analyst import events as replaying
from exchange.cli import app
from exchange.log.documents.text import timestamp
from exchange.ports import StoredEvent
from exchange.tools.terminal import ToolError
from tests.projections.logs import OFFSET_MS, START_MS, LogWriter, registrations

pytestmark = pytest.mark.anyio


async def run(*arguments: object) -> Result:
    command = ["replay", *map(str, arguments)]
    return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, command))


async def documents(*arguments: object) -> list[dict[str, Any]]:
    found = await run(*arguments, "--json")
    assert found.exit_code == 0, (found.output, found.exception)
    return [json.loads(line) for line in found.stdout.splitlines()]


def named(one: dict[str, Any], *fields: str) -> set[Any]:
    return {one.get(field) for field in fields}


class Log(NamedTuple):
    """The events of two shards, and the chain after the last of each."""

    events: dict[int, list[StoredEvent]]
    chains: dict[int, str]


@pytest.fixture
async def log(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Write a log of two shards, and let it be read in many parts."""
    monkeypatch.setenv("ANALYTICS_DATABASE_URL", database_url)
    monkeypatch.setattr(replaying, "PART_EVENTS", 50)
    written = Log({}, {})
    for shard in (0, 1):
        async with LogWriter.open(database_url, shard) as writer:
            events = await writer.append(registrations(shard))
            events += await writer.append_random(random.Random(shard), 150)
            written.events[shard], written.chains[shard] = events, writer.head.chain.hex()
    return written


async def test_events_are_replayed_in_order_and_as_asked(log: Log) -> None:
    every = await documents()
    keys = [(one["time"], one["shard"], one["position"]) for one in every]
    assert keys == sorted(keys)
    assert len(every) == sum(map(len, log.events.values()))
    assert {one["shard"]: one["chain"] for one in every} == log.chains  # after the last of each

    trades = [one for one in every if one["type"] == "TradeExecuted"]
    client = trades[0]["maker_client_id"]
    order = trades[0]["taker_order_id"]
    clients = ("client_id", "taker_client_id", "maker_client_id", "asked_by")
    orders = ("order_id", "taker_order_id", "maker_order_id")
    assert await documents("--type", "TradeExecuted") == trades
    assert await documents("--client", client) == [e for e in every if client in named(e, *clients)]
    assert await documents("--order", order) == [e for e in every if order in named(e, *orders)]
    assert await documents("--instrument", "SMALL-1", "--from", "1:70") == [
        e for e in every if e["instrument"] == "SMALL-1" and e["position"] > 70
    ]
    begin, end = (timestamp(START_MS + OFFSET_MS * offset) for offset in (20, 60))
    assert await documents("--from", begin, "--to", end) == [
        e for e in every if begin < e["time"] <= end
    ]
    assert await documents("--from", "0:60", "--to", "now", "--shard", 0) == [
        e for e in every if e["shard"] == 0 and e["position"] > 60
    ]
    assert await documents("--from", "0:3", "--to", "0:60", "--shard", 0) == [
        e for e in every if e["shard"] == 0 and 3 < e["position"] <= 60
    ]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--from", "0:10", "--to", "0:5", "--shard", "0"), "up to --to, which is 0:5."),
        (("--from", "2100-01-01"), "There is no event after --from"),
        (("--instrument", "NOPE", "--shard", "1"), "No event is of --instrument NOPE; "),
        (("--client", "nobody", "--json"), "No event is of --client nobody; "),
    ],
)
async def test_where_nothing_is_shown_it_is_said_why(
    log: Log, arguments: tuple[str, ...], why: str
) -> None:
    del log
    found = await run(*arguments)

    assert (found.exit_code, found.stdout) == (0, "")
    assert why in found.stderr


async def test_lines_fit_and_mistakes_and_closed_pipes_end_in_words(log: Log) -> None:
    table = (await run("--shard", 1)).stdout.splitlines()
    assert [line.split()[0] for line in table] == [f"1:{one.position}" for one in log.events[1]]
    assert max(map(len, table)) > 160, "nothing is cut where there is no terminal"
    assert not any("…" in line for line in table)
    assert "time" not in table[0].split("SMALL-1")[1]

    assert isinstance((await run("--to", "2100-01-01")).exception, ToolError)
    assert "There is no shard 7" in str((await run("--shard", 7)).exception)
    assert "is no type of event" in (await run("--type", "Trade")).output

    piped = await anyio.to_thread.run_sync(_into_a_closed_pipe)
    assert b"Traceback" not in piped
    assert b"Error" not in piped
    full = await anyio.to_thread.run_sync(_onto_a_full_disk)
    assert full.startswith(b"The replay ends here: "), full
    assert b"Traceback" not in full


async def test_a_terminal_has_each_line_and_a_file_beside_it_too(
    log: Log, tmp_path: pathlib.Path
) -> None:
    """The display of progress takes no line; fields without room stand below, whole."""
    arguments = ["replay", "--from", "0:0", "--to", "0:9", "--shard", "0"]
    places = [f"0:{one.position}" for one in log.events[0][:9]]
    file = tmp_path / "lines"

    shown = await anyio.to_thread.run_sync(_in_a_terminal, arguments, None)
    await anyio.to_thread.run_sync(_in_a_terminal, arguments, file)

    lines = shown.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == places
    assert max(map(len, lines)) <= 100
    assert "…" not in shown
    written = [line.split() for line in file.read_text().splitlines()]
    assert shown.split() == [word for line in written for word in line]
    assert [line.split()[0] for line in file.read_text().splitlines()] == places


def _in_a_terminal(arguments: list[str], file: pathlib.Path | None) -> str:
    """Return what a terminal shows of a command, whose output goes there too or into a file."""
    terminal, end = pty.openpty()
    with file.open("wb") if file else os.fdopen(os.dup(end), "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "exchange", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=end,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
    os.close(end)
    shown = b""
    with process, os.fdopen(terminal, "rb", buffering=0) as reader:
        while True:
            try:
                read = reader.read(65_536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not read:
                break
            shown += read
    assert process.returncode == 0, shown
    return shown.decode()


def _onto_a_full_disk() -> bytes:
    """Return what a replay says that cannot be written."""
    command = [sys.executable, "-m", "exchange", "replay", "--json"]
    with pathlib.Path("/dev/full").open("wb") as disk:
        return subprocess.run(command, stdout=disk, stderr=subprocess.PIPE, check=False).stderr


def _into_a_closed_pipe() -> bytes:
    """Return what a replay says whose reader is gone before it writes."""
    command = [sys.executable, "-m", "exchange", "replay", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        return process.communicate(timeout=60)[1]
