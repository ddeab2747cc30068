"""Run the migrations: one transaction, one process at a time."""

import asyncio

from alembic import context
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from exchange.config import Settings
from exchange.log.schema import metadata

# Two processes that migrate at once would both create the tables; the second waits here instead.
LOCK = text("select pg_advisory_xact_lock(hashtext('exchange.migrations'))")


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        connection.execute(LOCK)
        context.run_migrations()


async def main() -> None:
    url = context.config.attributes.get("sqlalchemy_url") or Settings.load().sqlalchemy_url
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
