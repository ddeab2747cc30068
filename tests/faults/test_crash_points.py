"""Real processes that kill themselves at every boundary of their loops, under load.

The simulation has the same points (``tests/simulation/test_crash_points.py``) with many more
interleavings; here Kafka, PostgreSQL and Redis are real. One exchange serves all points.
"""

import asyncio
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncpg
import httpx
import pytest

from exchange.config import Settings
from exchange.log.identity import keyed_command_id
from exchange.stack.host.child import ManagedProcess
from tests.checks import check_log, events_by_command
from tests.faults.crashing import GATEWAY_POINTS, MATCHER_POINTS, PROJECTOR_POINTS
from tests.faults.test_kills import COMMANDS_BETWEEN, check_everything
from tests.load import REQUEST_TIMEOUT_S, Load
from tests.running import Exchange, running

pytestmark = pytest.mark.anyio

COUNTDOWN = 3  # so that the log moves between two kills
DEAD_WITHIN_S = 30.0
ORDER = {
    "client_id": "client",
    "instrument": "BTC-USD",
    "side": "buy",
    "type": "limit",
    "price": 70_000,
    "quantity": 1,
}


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


@pytest.mark.long
async def test_an_order_whose_gateway_died_has_one_effect_when_it_is_sent_again(
    settings: Settings, tmp_path: Path
) -> None:
    async with running(settings, tmp_path) as exchange:
        replayed = [await order_through_a_death(exchange, point) for point in GATEWAY_POINTS]
    connection = await asyncpg.connect(settings.database_url)
    by_command = events_by_command(await check_log(connection))
    await connection.close()

    effects = [by_command[keyed_command_id("client", point)] for point in GATEWAY_POINTS]
    assert [[e.type for e in events] for events in effects] == [
        ["OrderAccepted", "OrderRested"] for _ in GATEWAY_POINTS
    ]
    # What was only queued may have been sent or not.
    assert (replayed[0], replayed[2]) == (False, True)


async def order_through_a_death(exchange: Exchange, point: str) -> bool:
    """Send an order to a gateway that dies of it and again to the next; was it known there?"""
    gateway, url = exchange.gateways[0], f"{exchange.urls[0]}/orders"
    plain, order = gateway.argv, {**ORDER, "idempotency_key": point}
    await gateway.kill()
    gateway.argv = crashing(plain, point, 1)
    await gateway.start()
    await exchange.until_healthy()
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S) as http:
        with pytest.raises(httpx.TransportError):
            await http.post(url, json=order)
        assert await asyncio.wait_for(gateway.wait(), DEAD_WITHIN_S) == -signal.SIGKILL, point
        gateway.argv = plain
        await gateway.start()
        await exchange.until_healthy()
        answer = await http.post(url, json=order)
    assert answer.is_success, f"{point}: {answer.text}"
    return "Idempotent-Replayed" in answer.headers


async def die_at_each(process: ManagedProcess, points: Iterable[str]) -> None:
    """Let a process come to each point, one after the other, and die there."""
    plain = process.argv
    await process.kill()
    for point in points:
        process.argv = crashing(plain, point, COUNTDOWN)
        await process.start()
        code = await asyncio.wait_for(process.wait(), DEAD_WITHIN_S)
        assert code == -signal.SIGKILL, f"{point}: {process.last_words()}"
    process.argv = plain
    await process.start()


def crashing(argv: Sequence[str], point: str, countdown: int) -> Sequence[str]:
    """Return the command line of a process that kills itself at a point."""
    program = (argv[0], "-m", "tests.faults.crashing", point, str(countdown))
    return (*program, *argv[argv.index("exchange") + 1 :])
