"""How those who follow a log hear of a batch: a notification after its commit.

``NOTIFY`` inside the appending transaction would make the commits of all shards wait for one
another, since PostgreSQL queues such commits for one lock of the whole server. So it has a session
of its own, which waits for no disk: a notification is only a hint, and who follows looks by itself
too. One is sent at a time. What is committed meanwhile is in the next one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from exchange.domain.values import Position, Shard
from exchange.log.reader import EVENTS_CHANNEL

logger = logging.getLogger(__name__)

AGAIN_S: Final = 1.0  # after a failure; followers look once a second

NOTIFY: Final = "select pg_notify($1, $2)"


class Waker:
    """Sends one shard's notifications until it is stopped.

    Args:
        shard: Of the log.
        connect: Opens the session; it fails with an error of ``failures`` if the store is away.
        failures: What a store that is away raises. The next notification has a new session then.
    """

    def __init__(
        self,
        shard: Shard,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        failures: tuple[type[Exception], ...],
    ) -> None:
        self._shard = shard
        self._connect = connect
        self._failures = failures
        self._position = Position(0)
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def wake(self, position: Position) -> None:
        """Let followers know, soon, that the log has events up to a position."""
        self._position = position
        self._news.set()

    def stop(self) -> None:
        """Send nothing more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self._tell_until_lost()
            except self._failures as error:
                fields = {"shard": self._shard, "error": repr(error)}
                logger.debug("Cannot notify of events", extra=fields)
                self._news.set()  # what was not told is told then
            await asyncio.sleep(AGAIN_S)

    async def _tell_until_lost(self) -> None:
        connection = await self._connect()
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                told = f"{self._shard}:{self._position}"
                await connection.execute(NOTIFY, EVENTS_CHANNEL, told)
        finally:
            connection.terminate()
