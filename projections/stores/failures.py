"""Which errors are a store's, to be waited out, and which are the event's, to stop at.

A store that is away comes back and the projector goes on from what is stored there. So
does one that fails over, is out of memory, or lacks a grant or a migration. The event is
blamed only if the store says that a value is to blame: PostgreSQL by the class of its
error, Redis by the answer of our own scripts. That would fail again for ever, so it must
not be retried.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

import asyncpg
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from exchange.waiting import heed_cancellation

logger = logging.getLogger(__name__)

BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0  # a store that is back is used well within the 5 s we promise

# The SQLSTATE classes that blame a value: cardinality, data, integrity, a limit that it exceeds.
VALUE_CLASSES: Final = frozenset({"21", "22", "23", "54"})
MALFORMED: Final = "MALFORMED"  # how our scripts begin when they refuse a batch


def is_store_failure(error: BaseException) -> bool:
    """Tell whether ``error`` may pass when a store comes back, or is put right."""
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__:
        return is_store_failure(error.orig.__cause__)  # the driver's own, which says more
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] not in VALUE_CLASSES
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # that one is a value that cannot be encoded
    # The driver's own confusion over a connection that was cut between two messages.
    if isinstance(error, asyncpg.InternalClientError):
        return True
    if isinstance(error, ResponseError):
        return not str(error).startswith(MALFORMED)
    return isinstance(error, OSError | TimeoutError | SQLAlchemyError | RedisError)


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
