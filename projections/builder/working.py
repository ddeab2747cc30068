"""How a builder's loops work: over one connection until it is lost, and alone on a projection.

A session that neither answers nor ends would hold a loop for ever. So what only looks is bounded
(``asking``), also beside what may take long. Then the loop goes on over another connection.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from exchange.waiting import heed_cancellation
from projections.stores.failures import Outage, is_store_failure

POLL_S: Final = 0.25
ANSWERS_WITHIN_S: Final = 30.0  # a look takes milliseconds; a store silent for longer is away

LOCK_CLASS: Final = 0x4255494C  # "BUIL"
TRY_LOCK: Final = "select pg_try_advisory_lock($1, hashtext($2))"
UNLOCK: Final = "select pg_advisory_unlock($1, hashtext($2))"

Connect = Callable[[], Awaitable[asyncpg.Connection]]

Step = Callable[[asyncpg.Connection], Awaitable[bool]]
"""Does what there is to do; tells whether there was anything."""


def asking() -> asyncio.Timeout:
    """Bound statements that take milliseconds; a store that is silent for longer is away."""
    return asyncio.timeout(ANSWERS_WITHIN_S)


async def work(connect: Connect, step: Step, who: str) -> None:
    """Repeat a step until cancelled, and wait while its store is away."""
    outage = Outage(who, {})
    while True:
        try:
            await _work_over_one(connect, step, outage)
        except Exception as error:
            if not is_store_failure(error):
                raise
            await outage.wait(error)
        heed_cancellation()


async def _work_over_one(connect: Connect, step: Step, outage: Outage) -> None:
    connection = await connect()
    try:
        while True:
            if not await step(connection):
                await asyncio.sleep(POLL_S)
            outage.over()
            heed_cancellation()
    finally:
        connection.terminate()


@asynccontextmanager
async def alone(connection: asyncpg.Connection, projection: str) -> AsyncIterator[bool]:
    """Keep other builders from a projection; yield False if one of them has it."""
    async with asking():
        is_mine = await connection.fetchval(TRY_LOCK, LOCK_CLASS, projection)
    try:
        yield is_mine
    except TimeoutError:
        connection.terminate()  # it would not answer to the unlocking either, which its end does
        raise
    finally:
        if is_mine and not connection.is_closed():
            async with asking():
                await connection.execute(UNLOCK, LOCK_CLASS, projection)
