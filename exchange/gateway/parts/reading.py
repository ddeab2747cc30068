"""Reading the log and the read models: how fresh, how long, and what if they are away.

``log_connection`` is for the log, ``model_connection`` for what one statement tells of the read
models, ``moment_connection`` for rows of one, ``heavy_connection`` for a query that may read many,
and ``from_redis`` for Redis. All bound how long a query may take, and turn a store that fails into
503 ``read.unavailable``.

Rows are of the moment at which the generation that is read was live. One that is live no more may
follow the log further than the one that took over, and the next answer would be an older one.

``Freshness`` lets a read wait for what its client has seen (``min_sequence``), or for all that was
decided before the question, so that "not found" is never said too early.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.gateway.http.parameters import MIN_SEQUENCE
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import location
from exchange.log.events import DecidedEvent, UnknownEvent, load_event
from exchange.log.reader import read_heads
from exchange.ports import StoredEvent
from exchange.waiting import within
from projections.stores.checkpoints import ReadModelStale, ReadModelUnavailable, SequenceWaits
from projections.stores.failures import is_store_failure
from projections.stores.postgres import driver_connection
from projections.stores.redis import cannot_read
from projections.stores.waits import TooManyWait

QUERY_WAIT_S: Final = 2.0  # a read takes milliseconds; the bound is what clients care to wait
CATCH_UP_WAIT_MS: Final = 1_000  # a healthy projector is 100 ms behind at most
REDIS_WAIT_S: Final = 1.0  # a book takes a millisecond
SHARDS_IN_SEQUENCE_MAX: Final = 256

T = TypeVar("T")


@asynccontextmanager
async def model_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection for a statement on read models.

    Raises:
        Problem: 503, Postgres is away or too slow, or the model is not there.
    """
    with answering():
        async with asyncio.timeout(QUERY_WAIT_S), engine.connect() as connection:
            yield connection


@asynccontextmanager
async def moment_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection whose queries all see the database as it was at the first one.

    Raises:
        Problem: As ``model_connection``.
    """
    async with model_connection(engine) as connection:
        yield await connection.execution_options(isolation_level="REPEATABLE READ")


@asynccontextmanager
async def heavy_connection(
    engine: AsyncEngine, heavy_reads: asyncio.Semaphore
) -> AsyncIterator[AsyncConnection]:
    """Lend a connection as ``moment_connection``, for a query that may take long.

    ``heavy_reads`` bounds how many are under way at once.

    Raises:
        Problem: 503, no turn came in time, or as ``model_connection``.
    """
    try:
        async with asyncio.timeout(QUERY_WAIT_S):
            await heavy_reads.acquire()
    except TimeoutError as error:
        raise Problem(Code.BUSY, "Too many long reads are under way; try again.") from error
    try:
        async with moment_connection(engine) as connection:
            yield connection
    finally:
        heavy_reads.release()


@asynccontextmanager
async def log_connection(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """Lend a driver's connection for queries on the log.

    Raises:
        Problem: 503, Postgres is away or too slow.
    """
    with answering():
        async with asyncio.timeout(QUERY_WAIT_S), driver_connection(engine) as driver:
            yield driver


async def from_redis(model: str, read: Coroutine[Any, Any, T]) -> T:
    """Return what ``read`` finds in a read model in Redis.

    Raises:
        Problem: 503, Redis is away or too slow, or the model is not there.
    """
    with answering():
        try:
            return await within(REDIS_WAIT_S, read)
        except TimeoutError as error:
            raise cannot_read(model, error) from error


def loaded(stored: Iterable[StoredEvent], **fields: object) -> list[DecidedEvent]:
    """Decode events of the log.

    Raises:
        Problem: 503 with ``fields``, another version of the software wrote one of them.
    """
    try:
        return [load_event(event) for event in stored]
    except UnknownEvent as error:
        detail = f"This gateway cannot read it: {error}. One that is upgraded can."
        raise Problem(Code.GATEWAY_OLDER, detail, headers=None, **fields) from error


@contextmanager
def answering() -> Iterator[None]:
    """Turn the failures of a store or a read model into problems for the client."""
    try:
        yield
    except TooManyWait as error:
        raise Problem(Code.BUSY, f"{error}; try again.") from error
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
            Problem: 503, the model did not see them in time or is not there.
        """
        beyond_nothing = {shard: position for shard, position in wanted.items() if position}
        if not beyond_nothing:
            return
        with answering():
            await self._waits.reach(projection, beyond_nothing, timeout_ms=timeout_ms)

    async def catch_up(self, projection: str) -> None:
        """Wait until a read model has seen everything that is in the log now.

        Raises:
            Problem: 503, the model did not see it in time or is not there.
        """
        async with log_connection(self._engine) as connection:
            heads = await read_heads(connection)
        await self.reach(projection, heads)


def min_sequence(parameters: Mapping[str, str], shard: int, shards: int) -> int:
    """Return the position of ``shard`` that ``min_sequence`` asks for, 0 if it asks for none.

    Raises:
        Problem: 422, see ``min_sequences``.
    """
    text = parameters.get("min_sequence")
    if text is not None and ":" not in text:
        text = f"{shard}:{text}"
    return positions_of(text, shards).get(shard, 0)


def min_sequences(parameters: Mapping[str, str], shards: int) -> dict[int, int]:
    """Return the positions that ``min_sequence`` asks for, by shard.

    The parameter is a list of ``shard:position``, joined by commas. Of a shard that is named twice
    the higher position counts. With only one shard, a position alone will do.

    Raises:
        Problem: 422, the parameter has another form, names a shard that does not exist, or gives a
            position alone although there are several shards.
    """
    if shards == 1:
        position = min_sequence(parameters, 0, shards)
        return {0: position} if position else {}
    return positions_of(parameters.get("min_sequence"), shards)


def positions_of(text: str | None, shards: int, name: str = MIN_SEQUENCE.name) -> dict[int, int]:
    """Return the positions in a parameter of this ``name``, by shard.

    Raises:
        Problem: 422, it has another form than ``shard:position,…``, or names a shard that does not
            exist.
    """
    parts = [] if text is None else text.split(",")
    if len(parts) > SHARDS_IN_SEQUENCE_MAX:
        raise invalid(name, "names too many shards")
    positions: dict[int, int] = {}
    for shard, position in (location(part, name) for part in parts):
        if shard >= shards:
            raise invalid(name, f"there is no shard {shard}, the last is {shards - 1}")
        positions[shard] = max(position, positions.get(shard, 0))
    return positions
