"""The pool lends no connection that is broken, in a transaction, or closed by the server."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.stores.postgres import driver_connection
from tests.projections.conftest import CATCH_UP_TIMEOUT_MS

pytestmark = pytest.mark.anyio

READ_PID = "select pg_backend_pid()"


async def test_a_connection_that_failed_is_not_lent_again(engine: AsyncEngine) -> None:
    failed: list[int] = []

    async def fail_in_a_transaction() -> None:
        async with driver_connection(engine) as driver:
            failed.append(await driver.fetchval(READ_PID))
            await driver.execute("begin")
            raise LookupError

    with pytest.raises(LookupError):
        await fail_in_a_transaction()

    async with driver_connection(engine) as driver:
        assert await driver.fetchval(READ_PID) not in failed
        assert not driver.is_in_transaction()


async def test_a_connection_that_the_server_closed_is_replaced(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async with driver_connection(engine) as driver:
        first = await driver.fetchval(READ_PID)
    async with driver_connection(engine) as driver:
        assert await driver.fetchval(READ_PID) == first, "the pool keeps it"

    await connection.execute("select pg_terminate_backend($1)", first)
    async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
        while not driver.is_closed():  # the end has not come here yet
            await asyncio.sleep(0.01)

    async with driver_connection(engine) as driver:
        assert await driver.fetchval(READ_PID) != first
