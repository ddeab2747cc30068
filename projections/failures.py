"""Which errors are a store's, to be waited out, and which are the event's, to stop at.

A store that is away comes back and the projector goes on from what is stored there.
Anything else would fail again for ever, so it must not be retried.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

import asyncpg
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from exchange.cancellation import heed_cancellation
from exchange.event_log import SERVER_CLASSES

logger = logging.getLogger(__name__)

BACKOFF_MIN_S: Final = 0.1
CONNECTION_CLASS: Final = "08"  # of SQLSTATEs
BACKOFF_MAX_S: Final = 2.0  # a store that is back is used well within the 5 s we promise

# What Redis answers with when it is its own state that keeps it from doing what was asked.
_REDIS_STATES: Final = ("OOM", "LOADING", "READONLY", "BUSY", "MISCONF")


def is_store_failure(error: BaseException) -> bool:
    """Tell whether ``error`` may pass when a store comes back."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in SERVER_CLASSES | {CONNECTION_CLASS}
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # that one is a value that cannot be encoded
    # The driver's own confusion over a connection that was cut between two messages.
    if isinstance(error, asyncpg.InternalClientError):
        return True
    if isinstance(error, ResponseError):
        return _is_state_of_redis(error)
    if isinstance(error, DBAPIError) and _is_of_a_value(error):
        return False
    return isinstance(error, OSError | TimeoutError | SQLAlchemyError | RedisError)


def _is_state_of_redis(error: ResponseError) -> bool:
    # The client takes the prefix from those that it has classes for.
    known = isinstance(error, ReadOnlyError | OutOfMemoryError)
    return known or str(error).startswith(_REDIS_STATES)


def _is_of_a_value(error: DBAPIError) -> bool:
    """Tell whether the statement or what was given to it is to blame."""
    if isinstance(error, DataError | ProgrammingError | IntegrityError):
        return True
    # SQLAlchemy puts the driver's into none of these classes.
    return isinstance(error.orig and error.orig.__cause__, asyncpg.DataError)


class Outage:
    """A store's absence: told of once, waited out longer and longer, over with a success."""

    def __init__(self, who: str, fields: Mapping[str, object]) -> None:
        self._who = who
        self._fields = fields
        self._delay_s = 0.0

    async def wait(self, error: BaseException) -> None:
        """Wait before trying again; ``error`` is what the last try ended with."""
        heed_cancellation()
        if not self._delay_s:
            logger.warning(
                "%s waits for its store", self._who, extra={**self._fields, "error": repr(error)}
            )
        self._delay_s = min(max(BACKOFF_MIN_S, 2 * self._delay_s), BACKOFF_MAX_S)
        await asyncio.sleep(self._delay_s)

    def over(self) -> None:
        """Note that the store answers; costs nothing when it did so before."""
        if self._delay_s:
            self._delay_s = 0.0
            logger.info("%s has its store back", self._who, extra=self._fields)
