"""Which errors blame the store, and are waited out; and which blame the event, and stop a model.

A store that is away, fails over, is out of memory, or lacks a grant or a migration is waited for.
The projector then goes on from the checkpoint stored there. The event is blamed only if the store
says that a value is wrong: PostgreSQL by the class of its error, Redis by the answer of our own
scripts. Such an event would fail again for ever, so it is not retried.
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
BACKOFF_MAX_S: Final = 2.0  # so that a store that is back is used within the 5 s that we promise

# The SQLSTATE classes that blame a value: cardinality, data, integrity, program limit exceeded.
VALUE_CLASSES: Final = frozenset({"21", "22", "23", "54"})
MALFORMED: Final = "MALFORMED"  # our scripts' errors begin so when they refuse a batch


def is_store_failure(error: BaseException) -> bool:
    """Tell whether the store is to blame for ``error``, so that a later try may succeed."""
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__:
        return is_store_failure(error.orig.__cause__)  # the driver's own error says more
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] not in VALUE_CLASSES
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # which it is for a value that cannot be encoded
    # The driver raises this when a connection was cut between two messages.
    if isinstance(error, asyncpg.InternalClientError):
        return True
    if isinstance(error, ResponseError):
        return not str(error).startswith(MALFORMED)
    return isinstance(error, OSError | TimeoutError | SQLAlchemyError | RedisError)


class Outage:
    """A store's absence: logged once, waited out with growing delays, ended by a success."""

    def __init__(self, who: str, fields: Mapping[str, object]) -> None:
        self._who = who
        self._fields = fields
        self._delay_s = 0.0

    async def wait(self, error: BaseException) -> None:
        """Wait before the next try; ``error`` is the error of the last one."""
        heed_cancellation()
        if not self._delay_s:
            logger.warning(
                "%s waits for its store", self._who, extra={**self._fields, "error": repr(error)}
            )
        self._delay_s = min(max(BACKOFF_MIN_S, 2 * self._delay_s), BACKOFF_MAX_S)
        await asyncio.sleep(self._delay_s)

    def over(self) -> None:
        """Note that the store answers. Cheap to call after each success."""
        if self._delay_s:
            self._delay_s = 0.0
            logger.info("%s has its store back", self._who, extra=self._fields)
