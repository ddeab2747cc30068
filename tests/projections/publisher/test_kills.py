"""kill -9 of the publisher and of the reader in ``docs/analytics.md``: every position, once.

Both are processes, and are killed at moments of no meaning while there is much to do.
"""

import asyncio
import random
import re
import sqlite3
import sys
import uuid
from contextlib import closing
from dataclasses import replace
from decimal import Context, Decimal
from pathlib import Path
from typing import Final

import anyio
import asyncpg
import pytest
from confluent_kafka import Message

from exchange.config import PROJECT, Settings
from exchange.log.reader import read_heads
from exchange.stack.host.child import ManagedProcess
from tests.projections.logs import LogWriter, registrations
from tests.projections.publisher.topics import (
    TIMEOUT_S,
    assert_topic_is_the_log,
    document_of,
    until_published,
)

pytestmark = pytest.mark.anyio

EXACT: Final = Context(prec=100)
COMMANDS_AT_ONCE: Final = 1_000
COMMANDS_BETWEEN: Final = 100
KILLED_WITHIN_S: Final = 2.0  # a process begins its work within a second


@pytest.mark.parametrize(
    ("kills", "commands"),
    [(2, 1_000), pytest.param(20, 40_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])],
)
async def test_publisher_and_reader_are_killed_and_every_position_is_there_once(
    settings: Settings, tmp_path: Path, kills: int, commands: int
) -> None:
    chance, topic = random.Random(kills), f"events.{uuid.uuid4().hex}"
    settings = replace(settings, kafka_events_topic=topic)
    connection = await asyncpg.connect(settings.database_url)
    publisher, reader = processes(settings, tmp_path)
    async with LogWriter.open(settings.database_url) as writer:
        await writer.append(registrations(0))
        for _ in range(commands // COMMANDS_AT_ONCE):
            await writer.append_random(chance, COMMANDS_AT_ONCE)
        await publisher.start()
        await until_begun(connection, topic)
        await reader.start()
        for _ in range(kills):
            await writer.append_random(chance, COMMANDS_BETWEEN)
            await asyncio.sleep(KILLED_WITHIN_S * chance.random())
            for process in (publisher, reader):
                await process.kill()
                await process.start()
        await until_published(connection, topic)
    try:
        await until_read(tmp_path / "vwap.db", await read_heads(connection), reader)
        records = await assert_topic_is_the_log(connection, settings.kafka_bootstrap_servers, topic)
    finally:
        await asyncio.gather(publisher.stop(), reader.stop())
    assert sums_of(tmp_path / "vwap.db") == sums_in(records[0])
    await connection.close()


async def test_the_reader_says_that_there_is_no_such_topic(
    settings: Settings, tmp_path: Path
) -> None:
    processes(settings, tmp_path)
    arguments = (settings.kafka_bootstrap_servers, "nosuch", str(tmp_path / "vwap.db"))

    ended = await anyio.run_process(
        [sys.executable, str(tmp_path / "vwap.py"), *arguments], check=False
    )

    assert (ended.returncode, ended.stderr) == (1, b"there is no topic nosuch\n")


def processes(settings: Settings, directory: Path) -> tuple[ManagedProcess, ManagedProcess]:
    """Return a publisher and the reader of ``docs/analytics.md``."""
    page = (PROJECT / "docs/analytics.md").read_text()
    code = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert code is not None
    script = directory / "vwap.py"
    script.write_text(code[1])
    arguments = (settings.kafka_bootstrap_servers, settings.kafka_events_topic)

    def process(name: str, *argv: str) -> ManagedProcess:
        return ManagedProcess(
            name,
            (sys.executable, *argv),
            log_path=directory / f"{name}.log",
            pid_path=directory / f"{name}.pid",
            env=settings.environment(),
            cwd=PROJECT,
        )

    return (
        process("publisher", "-m", "exchange", "publisher"),
        process("reader", str(script), *arguments, str(directory / "vwap.db")),
    )


async def until_begun(connection: asyncpg.Connection, topic: str) -> None:
    """Wait until there is a topic to read."""
    begun = "select exists (select from publications where topic = $1)"
    async with asyncio.timeout(TIMEOUT_S):
        while not await connection.fetchval(begun, topic):
            await asyncio.sleep(0.05)


async def until_read(file: Path, heads: dict[int, int], reader: ManagedProcess) -> None:
    """Wait until the reader has all of the log."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with closing(sqlite3.connect(file)) as store:
                if dict(store.execute("select shard, position from places")) == heads:
                    return
            assert reader.running, reader.last_words()
            await asyncio.sleep(0.05)


def sums_of(file: Path) -> dict[str, tuple[Decimal, Decimal]]:
    """Return the reader's volume and turnover of each instrument."""
    with closing(sqlite3.connect(file)) as store:
        rows = store.execute("select instrument, volume, turnover from vwap").fetchall()
    return {name: (Decimal(volume), Decimal(turnover)) for name, volume, turnover in rows}


def sums_in(records: list[Message]) -> dict[str, tuple[Decimal, Decimal]]:
    """Return what they are, from the units in the topic."""
    sums: dict[str, tuple[int, int]] = {}
    scales: dict[str, tuple[int, int]] = {}
    for event in map(document_of, records):
        name = event["instrument"]
        if event["type"] == "InstrumentRegistered":
            scales[name] = event["price_scale"], event["quantity_scale"]
        if event["type"] == "TradeExecuted":
            volume, turnover = sums.get(name, (0, 0))
            quantity, price = event["quantity_units"], event["price_units"]
            sums[name] = volume + quantity, turnover + quantity * price
    assert sums
    return {
        name: (
            EXACT.scaleb(Decimal(volume), -scales[name][1]),
            EXACT.scaleb(Decimal(turnover), -sum(scales[name])),
        )
        for name, (volume, turnover) in sums.items()
    }
