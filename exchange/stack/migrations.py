"""The database's schema, brought up to date by Alembic in this process."""

import asyncio

import asyncpg
from alembic import command
from alembic.config import Config

from exchange.config import PROJECT
from exchange.stack.errors import StackError


async def migrate(sqlalchemy_url: str) -> None:
    """Upgrade the database at ``sqlalchemy_url`` to the newest schema.

    Raises:
        StackError: The database cannot be reached.
    """
    config = Config(PROJECT / "alembic.ini")
    config.attributes["sqlalchemy_url"] = sqlalchemy_url
    try:
        # env.py runs an event loop of its own, so it needs a thread without one.
        await asyncio.to_thread(command.upgrade, config, "head")
    except (OSError, asyncpg.PostgresError) as error:
        raise StackError(
            f"PostgreSQL cannot be reached or refuses: {error}. Check DATABASE_URL."
        ) from error
