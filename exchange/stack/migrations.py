"""The database's schema, brought up to date by Alembic in this process."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from exchange.log.writing.writer import pin_durability
from exchange.stack.host.errors import StackError

_PACKAGE = Path(__file__).parent.parent
_INSTALLED = _PACKAGE / "migrations"
MIGRATIONS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "alembic"


async def migrate(sqlalchemy_url: str) -> None:
    """Upgrade the database at ``sqlalchemy_url`` to the newest schema.

    Raises:
        StackError: The database cannot be reached.
    """
    await _check_connection(sqlalchemy_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["sqlalchemy_url"] = sqlalchemy_url
    # env.py runs an event loop of its own, so it needs a thread without one.
    await asyncio.to_thread(command.upgrade, config, "head")


async def check_database(database_url: str, allow_unsafe: Collection[str]) -> None:
    """Refuse a server that could lose orders that were answered.

    Raises:
        UnsafeSettings: A setting is unsafe, and nobody allowed it.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await pin_durability(connection, allow_unsafe)
    finally:
        await connection.close()


async def _check_connection(sqlalchemy_url: str) -> None:
    engine = create_async_engine(sqlalchemy_url, poolclass=NullPool)
    try:
        async with engine.connect():
            return
    except (OSError, DBAPIError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise StackError(
            f"PostgreSQL cannot be used: {reason}. Check DATABASE_URL and that PostgreSQL runs."
        ) from error
    finally:
        await engine.dispose()
