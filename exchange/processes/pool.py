"""The pool of connections to PostgreSQL that gateway and projector use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from exchange.config import Settings

POOL_WAIT_S: Final = 2  # then a reader gets an error, not a longer wait
STORE_TIMEOUT_S: Final = 5  # connecting to Postgres


@asynccontextmanager
async def engine_of(
    settings: Settings, connections: int, wait_s: float = POOL_WAIT_S, **session: str
) -> AsyncIterator[AsyncEngine]:
    """Lend a pool of ``connections``, whose sessions have the settings ``session``.

    Whoever finds all of them taken waits for ``wait_s`` at most.
    """
    engine = create_async_engine(
        settings.sqlalchemy_url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_s,
        connect_args={
            "timeout": STORE_TIMEOUT_S,
            "server_settings": {"application_name": "exchange", "jit": "off", **session},
        },
    )
    try:
        yield engine
    finally:
        await engine.dispose()
