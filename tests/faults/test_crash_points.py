"""Real processes that kill themselves at every boundary of their loops, under load.

The simulation has the same points (``tests/simulation/test_crash_points.py``) with many more
interleavings; here Kafka, PostgreSQL and Redis are real. One exchange serves all points.
"""

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from exchange.config import Settings
from exchange.stack.process import ManagedProcess
from tests.faults.crashing import MATCHER_POINTS, PROJECTOR_POINTS
from tests.faults.test_kills import COMMANDS_BETWEEN, check_everything
from tests.load import Load
from tests.processes import running

pytestmark = pytest.mark.anyio

COUNTDOWN = 3  # so that the log moves between two kills
DEAD_WITHIN_S = 30.0


@pytest.mark.long
@pytest.mark.timeout(240)  # fourteen starts of a process, on a busy machine
async def test_a_kill_at_any_boundary_loses_and_doubles_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    async with running(settings, tmp_path) as exchange:
        async with Load(exchange.urls, ["BTC-USD", "ETH-EUR"]) as load:
            await load.until_resolved(COMMANDS_BETWEEN)
            await asyncio.gather(
                die_at_each(exchange.matchers[0], MATCHER_POINTS),
                die_at_each(exchange.projector, PROJECTOR_POINTS),
            )
            await load.until_resolved(COMMANDS_BETWEEN)
        await check_everything(settings, load)


async def die_at_each(process: ManagedProcess, points: Iterable[str]) -> None:
    """Let a process come to each point, one after the other, and die there."""
    plain = process.argv
    program = (plain[0], "-m", "tests.faults.crashing")
    arguments = plain[plain.index("exchange") + 1 :]
    await process.kill()
    for point in points:
        process.argv = (*program, point, str(COUNTDOWN), *arguments)
        await process.start()
        code = await asyncio.wait_for(process.wait(), DEAD_WITHIN_S)
        assert code == -signal.SIGKILL, f"{point}: {process.last_words()}"
    process.argv = plain
    await process.start()
