"""The stores that the commands on read models work on, and who gives the command."""

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from exchange.config import Settings
from exchange.log.replay import Undecodable
from exchange.ports import LogCorrupt
from exchange.processes.pool import engine_of
from exchange.processes.running import redis_client
from exchange.tools.terminal import ToolError, connect
from projections.builder.comparing.shadow import TooManyRows
from projections.builder.reading import CannotFold
from projections.lifecycle.changes import By, Refused
from projections.lifecycle.definitions import Definitions
from projections.registry import READ_MODELS, Projection, all_projections
from projections.stores.checkpoints import ReadModelUnavailable

POOL_MAX: Final = 2
NAME_SHOWN_MAX: Final = 40
OPERATOR_MAX: Final = 100  # a user and a machine
REASON_MAX: Final = 1_000  # a paragraph; it is kept for ever, and shown in a table
# The last two are what the driver raises where a connection was cut.
POSTGRES_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Stores:
    """Connections to the stores, and this build's definitions of the read models."""

    settings: Settings
    connection: asyncpg.Connection
    redis: Redis
    definitions: Definitions[Projection]

    async def another(self) -> asyncpg.Connection:
        """Return a further connection to PostgreSQL."""
        return await connect(self.settings.database_url)


@asynccontextmanager
async def stores(settings: Settings | None = None) -> AsyncIterator[Stores]:
    """Connect to the stores of the settings, by default those of the environment.

    Raises:
        ToolError: PostgreSQL does not answer.
    """
    settings = settings or Settings.load()
    async with AsyncExitStack() as opened:
        connection = await connect(settings.database_url)
        opened.callback(connection.terminate)
        engine = await opened.enter_async_context(engine_of(settings, POOL_MAX))
        redis = await opened.enter_async_context(redis_client(settings))
        yield Stores(settings, connection, redis, Definitions(all_projections(engine, redis)))


def answered(work: Callable[[Stores], Awaitable[Answer]]) -> Answer:
    """Do ``work`` on the stores; what stands against it becomes an error of one line."""

    async def run() -> Answer:
        async with stores() as opened:
            return await work(opened)

    with telling_failures():
        return asyncio.run(run())


@contextmanager
def telling_failures() -> Iterator[None]:
    """Turn what stands against work on the stores into an error of one line.

    Raises:
        ToolError: A change was refused, a store failed, or the log is damaged.
    """
    try:
        yield
    except Refused as error:
        raise ToolError(refusal(error)) from error
    except (ReadModelUnavailable, TooManyRows, Undecodable) as error:
        raise ToolError(str(error)) from error
    except CannotFold as error:
        raise ToolError(f"The rules cannot apply the event at {error}") from error
    except LogCorrupt as error:
        raise ToolError(f"The log is damaged: {error}: see make verify.") from error
    except asyncpg.UndefinedTableError as error:
        raise ToolError(f"The database is older than this build ({error}): migrate it.") from error
    except (*POSTGRES_ERRORS, SQLAlchemyError, OSError) as error:
        raise ToolError(f"PostgreSQL: {failure(error)}") from error
    except RedisError as error:
        raise ToolError(f"Redis: {error}") from error


def refusal(error: Refused) -> str:
    """Return what to say of a change that was refused; the error says why."""
    return f"Refused, nothing was changed: {error}"


def failure(error: Exception) -> str:
    """Return an error of PostgreSQL in one line: its message first, then the detail."""
    cause = getattr(error, "orig", None) or error
    message = " ".join(str(cause).split()) or type(cause).__name__
    return message.replace(" DETAIL:", "; detail:").replace(" HINT:", "; hint:")


def checked(name: str) -> str:
    """Return the name of a read model.

    Raises:
        ToolError: There is none of this name.
    """
    if name not in READ_MODELS:
        shown = name if len(name) <= NAME_SHOWN_MAX else f"{name[:NAME_SHOWN_MAX]}…"
        raise ToolError(f"There is no projection {shown!r}; there are: {', '.join(READ_MODELS)}.")
    return name


def operator(reason: str = "", name: str = "") -> By:
    """Return who gives the command, and why: by default ``OPERATOR``, or the user on this machine.

    Raises:
        ToolError: One of them cannot be shown in a line of a table for ever.
    """
    name = name or os.environ.get("OPERATOR") or f"{getpass.getuser()}@{socket.gethostname()}"
    _check_kept("OPERATOR", name, OPERATOR_MAX)
    _check_kept("REASON", reason, REASON_MAX)
    return By(name, reason or None)


def _check_kept(what: str, text: str, characters_max: int) -> None:
    """Refuse what is kept for ever and would break the tables that show it."""
    if len(text) > characters_max:
        raise ToolError(
            f"{what} has {len(text):,} characters; at most {characters_max:,} are kept."
        )
    if not text.isprintable():
        first = next(one for one in text if not one.isprintable())
        raise ToolError(f"{what} has a character that cannot be printed, {first!a}.")
