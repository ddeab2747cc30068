"""What caused an error: the store, which is waited for, or the event."""

from typing import Any

import asyncpg
import pytest
from redis._parsers.base import BaseParser  # noqa: PLC2701  makes errors as a server does
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.stores.failures import is_store_failure


def answered(text: str) -> Exception:
    """Return what the client makes of an answer of Redis."""
    parser: Any = BaseParser
    error: Exception = parser.parse_error(text)
    return error


@pytest.mark.parametrize(
    "answer",
    [
        "ERR max number of clients reached",
        "ERR Error running script: the script was killed",
        "BUSY Redis is busy running a script",
        "CLUSTERDOWN The cluster is down",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "EXECABORT Transaction discarded because of previous errors.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "NOREPLICAS Not enough good replicas to write.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "UNKILLABLE Sorry the script already executed write commands",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
    ],
)
def test_what_redis_says_of_itself_is_waited_out(answer: str) -> None:
    assert is_store_failure(answered(answer))


def test_what_our_script_refuses_is_the_events() -> None:
    assert not is_store_failure(answered("MALFORMED book level"))


@pytest.mark.parametrize(
    ("error", "is_stores"),
    [
        (asyncpg.DeadlockDetectedError, True),
        (asyncpg.DiskFullError, True),
        (asyncpg.ReadOnlySQLTransactionError, True),
        (asyncpg.InvalidPasswordError, True),
        (asyncpg.InsufficientPrivilegeError, True),
        (asyncpg.UndefinedTableError, True),
        (asyncpg.UndefinedColumnError, True),
        (asyncpg.InternalServerError, True),
        (asyncpg.NumericValueOutOfRangeError, False),
        (asyncpg.UniqueViolationError, False),
        (asyncpg.CardinalityViolationError, False),
        (asyncpg.ProgramLimitExceededError, False),
    ],
)
def test_postgres_tells_by_its_class_whether_a_value_is_to_blame(
    error: type[asyncpg.PostgresError], is_stores: bool
) -> None:
    assert is_store_failure(error("said the server")) is is_stores


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("statement", "is_stores"),
    [
        ("select * from nobody_migrated", True),
        ("select 1 / 0", False),
        ("select (:value)::int", False),
    ],
)
async def test_an_error_is_judged_alike_through_sqlalchemy(
    engine: AsyncEngine, statement: str, is_stores: bool
) -> None:
    parameters = {"value": "x"} if ":value" in statement else {}
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text(statement), parameters)

    assert is_store_failure(raised.value) is is_stores
