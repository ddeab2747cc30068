"""A standby takes over: at once after a kill -9, within seconds after a freeze."""

import asyncio
import signal
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from exchange.config import Settings
from exchange.stack.host.child import ManagedProcess
from tests.faults.test_kills import check_everything
from tests.load import Load
from tests.running import INSTRUMENTS, Exchange, running

pytestmark = pytest.mark.anyio

AFTER_KILL_S = 2.0
AFTER_FREEZE_S = 5.0
COMMANDS_BETWEEN = 20
EXIT_TIMEOUT_S = 30.0

READ_EPOCH = "select epoch from head where shard = 0"


@pytest.fixture
def with_standby(settings: Settings) -> Settings:
    return replace(settings, standbys=1)


async def test_a_standby_takes_over_from_a_killed_and_from_a_frozen_matcher(
    with_standby: Settings, tmp_path: Path
) -> None:
    async with running(with_standby, tmp_path) as exchange:
        async with Load(exchange.urls, [str(INSTRUMENTS[0]["instrument"])]) as load:
            await load.until_resolved(COMMANDS_BETWEEN)
            first, second = await leader_and_standby(exchange)
            killed_s = await take_over_s(load, with_standby.database_url, first.kill())
            await load.until_resolved(COMMANDS_BETWEEN)
            await first.start()
            await until_following(first)
            frozen_s = await take_over_s(load, with_standby.database_url, freeze(second))
            second.signal(signal.SIGCONT)
            code = await asyncio.wait_for(second.wait(), EXIT_TIMEOUT_S)
            await load.until_resolved(COMMANDS_BETWEEN)
        await check_everything(with_standby, load)

    assert killed_s < AFTER_KILL_S
    assert frozen_s < AFTER_FREEZE_S
    assert code != 0


async def leader_and_standby(exchange: Exchange) -> tuple[ManagedProcess, ManagedProcess]:
    """Return the two matchers by what they do: of two that start at once, either may lead."""
    matcher, standby = exchange.matchers[0], exchange.standbys[0]
    async with asyncio.timeout(EXIT_TIMEOUT_S):
        while True:
            for first, second in ((matcher, standby), (standby, matcher)):
                if "Standing by" in second.log_path.read_text():
                    return first, second
            await asyncio.sleep(0.05)


async def until_following(standby: ManagedProcess) -> None:
    """Wait until a second matcher has said that it stands by."""
    async with asyncio.timeout(EXIT_TIMEOUT_S):
        while "Standing by" not in standby.log_path.read_text():
            await asyncio.sleep(0.05)


async def freeze(process: ManagedProcess) -> None:
    process.signal(signal.SIGSTOP)


async def take_over_s(load: Load, database_url: str, fault: Awaitable[None]) -> float:
    """Do a fault and return after how many seconds another writer has decided an order."""
    connection = await asyncpg.connect(database_url)
    try:
        epoch = await connection.fetchval(READ_EPOCH)
        begun_s = time.monotonic()
        await fault
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            while await connection.fetchval(READ_EPOCH) == epoch:
                await asyncio.sleep(0.01)
        await load.until_resolved(1)
        return time.monotonic() - begun_s
    finally:
        await connection.close()
