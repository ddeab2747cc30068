"""Reading the log and the read models: how fresh, how long, and what if they are away.

``log_connection`` is for the log, ``model_connection`` for the read models; both turn
a store that fails into 503 ``read.unavailable`` and bound how long a query may take.
``Freshness`` is how a read waits for what its client has seen (``min_sequence``) or
for what was decided before it asked, so that "not found" is never said too early.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.event_log import read_heads
from exchange.gateway.problems import Code, Problem, invalid
from exchange.gateway.requests import place
from projections.checkpoints import ReadModelStale, ReadModelUnavailable, SequenceWaits
from projections.failures import is_store_failure
from projections.postgres import driver_connection

QUERY_WAIT_S: Final = 2.0  # a read takes milliseconds; the client's patience is what counts
CATCH_UP_WAIT_MS: Final = 1_000  # a projector in order is 100 ms behind at most
SHARDS_IN_SEQUENCE_MAX: Final = 256


@asynccontextmanager
async def model_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection for queries on read models.

    Raises:
        Problem: 503, Postgres is away or too slow, or the model is not there.
    """
    with answering():
        async with asyncio.timeout(QUERY_WAIT_S), engine.connect() as connection:
            yield connection


@asynccontextmanager
async def log_connection(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """Lend a driver's connection for queries on the log.

    Raises:
        Problem: 503, Postgres is away or too slow.
    """
    with answering():
        async with asyncio.timeout(QUERY_WAIT_S), driver_connection(engine) as driver:
            yield driver


@contextmanager
def answering() -> Iterator[None]:
    """Turn what a store or a read model may fail with into the answer for the client."""
    try:
        yield
    except ReadModelStale as error:
        raise Problem(Code.READ_STALE, str(error)) from error
    except ReadModelUnavailable as error:
        raise Problem(Code.READ_UNAVAILABLE, str(error)) from error
    except Exception as error:
        if not is_store_failure(error):
            raise
        raise Problem(Code.READ_UNAVAILABLE, "The database does not answer.") from error


class Freshness:
    """Waits of this gateway for the read models."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waits = SequenceWaits(engine)

    async def reach(
        self, projection: str, wanted: Mapping[int, int], timeout_ms: int = CATCH_UP_WAIT_MS
    ) -> None:
        """Wait until a Postgres read model has seen every wanted position.

        Raises:
            Problem: 503, it did not in time or is not there.
        """
        if not wanted:
            return
        with answering():
            await self._waits.reach(projection, wanted, timeout_ms=timeout_ms)

    async def catch_up(self, projection: str) -> None:
        """Wait until a read model has seen all that is in the log now.

        Raises:
            Problem: 503, it did not in time or is not there.
        """
        async with log_connection(self._engine) as connection:
            heads = await read_heads(connection)
        await self.reach(projection, heads)


def min_sequence(parameters: Mapping[str, str], shard: int | None) -> dict[int, int]:
    """Read ``min_sequence``: ``shard:position`` joined by commas, or a position of ``shard``.

    Raises:
        Problem: 422, it has another form, or no shard where several are meant.
    """
    text = parameters.get("min_sequence")
    if text is None:
        return {}
    if ":" not in text and shard is not None:
        text = f"{shard}:{text}"
    parts = text.split(",")
    if len(parts) > SHARDS_IN_SEQUENCE_MAX:
        raise invalid("min_sequence", "names too many shards")
    return dict(place(part, "min_sequence") for part in parts)
