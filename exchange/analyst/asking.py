"""Questions about a moment: which moment it is, and how many are under way at once.

Read ``Analyst.asking``. A question folds up to 200,000 events, which takes a processor for up to a
second. So two are answered at a time, a few wait for their turn, and others are refused at once.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from exchange.analyst.answers import Answer, Asking, Parameters
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.door.caller import Caller
from exchange.gateway.http.callers import caller_of
from exchange.gateway.http.declaration import OPERATIONS, Handler
from exchange.gateway.http.parameters import AS_OF_SEQUENCE, AS_OF_TIME, MIN_SEQUENCE
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import check_id, moment_ms, query
from exchange.gateway.http.responses import JSONBytes
from exchange.gateway.orders.states import listing_of_order
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.reading import answering, positions_of
from exchange.log.events import UnknownEvent
from exchange.log.moments import Moment, NotReached, moment_at, moment_at_time
from exchange.log.reader import read_heads
from projections.past.past import Past
from projections.stores.postgres import driver_connection

UNDER_WAY_MAX: Final = 2  # there is one processor for them all; the second hides waits for the log
WAITING_MAX: Final = 16  # the last of them has its turn before its client gives up
ANSWER_S: Final = 10.0
NUMBER: Final = re.compile(r"[0-9]+")

ShardOf = Callable[[Listings, Parameters], Awaitable[int | None]]


async def of_instrument(listings: Listings, asked: Parameters) -> int | None:
    """Return the shard of the instrument that a question is about."""
    name = check_id(asked.get("instrument", INSTRUMENT_DEFAULT), "instrument")
    return (await listings.get(name)).shard


async def of_order(listings: Listings, asked: Parameters) -> int | None:
    """Return the shard of the order that a question is about."""
    return (await listing_of_order(listings, check_id(asked["order_id"], "order_id"))).shard


async def of_all(_listings: Listings, _asked: Parameters) -> int | None:
    """Return that a question is about all shards."""
    return None


class Analyst:
    """Answers questions about the past.

    Args:
        engine: Connections to the database.
        shards: How many partitions the topic has.
    """

    def __init__(self, engine: AsyncEngine, shards: int) -> None:
        self._engine, self._shards = engine, shards
        self._listings = Listings(engine)
        self._turns = asyncio.Semaphore(UNDER_WAY_MAX)
        self.asked = 0  # how many are under way or wait for their turn
        self.nobody_asks = asyncio.Event()
        self.nobody_asks.set()

    @asynccontextmanager
    async def asking(
        self, asked: Parameters, shard_of: ShardOf, caller: Caller
    ) -> AsyncIterator[Asking]:
        """Lend what an answer is made of, once it is the question's turn.

        Raises:
            Problem: The moment cannot be read or is not in the log yet, too many others ask, the
                answer took too long, or a store is away.
        """
        async with self.turn():
            with answering_all():
                moment = await self._moment(asked, shard_of)
                past = Past(self._engine, moment, self._shards)
                yield Asking(past, caller, self._engine, self._listings)

    @asynccontextmanager
    async def turn(self, *, has_waited: bool = False) -> AsyncIterator[None]:
        """Wait for a question's turn, and bound how long its answer may take.

        One that ``has_waited`` for an event is not refused: they ask one after the other.

        Raises:
            Problem: 503, too many others ask, or the answer took too long.
        """
        if self.asked >= UNDER_WAY_MAX + WAITING_MAX and not has_waited:
            raise Problem(Code.BUSY, "Too many questions about the past are under way; try again.")
        self.asked += 1
        self.nobody_asks.clear()
        limit = asyncio.timeout(ANSWER_S)
        try:
            async with limit, self._turns:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Problem(Code.BUSY, f"The answer took longer than {ANSWER_S:.0f} s.") from error
        finally:
            self.asked -= 1
            if not self.asked:
                self.nobody_asks.set()

    async def _moment(self, asked: Parameters, shard_of: ShardOf) -> Moment:
        sequence, time_ms = asked.get(AS_OF_SEQUENCE.name), moment_ms(asked, AS_OF_TIME.name)
        if (sequence is None) == (time_ms is None):
            detail = f"is to be named, or {AS_OF_TIME.name}, and not both"
            raise invalid(AS_OF_SEQUENCE.name, detail)
        if MIN_SEQUENCE.name in asked:
            raise invalid(MIN_SEQUENCE.name, "is of no use to a question about the past")
        shard = await shard_of(self._listings, asked)
        async with driver_connection(self._engine) as connection:
            try:
                if time_ms is not None:
                    return await moment_at_time(connection, time_ms)
                assert sequence is not None
                positions = await _positions(connection, sequence, shard)
                return await moment_at(connection, positions)
            except NotReached as error:
                raise Problem(Code.NOT_REACHED, str(error)) from error


async def _positions(
    connection: asyncpg.Connection, sequence: str, shard: int | None
) -> dict[int, int]:
    """Return the positions that are asked for; a bare one is of the question's shard."""
    shards = max(await read_heads(connection), default=0) + 1
    if ":" not in sequence:
        if shard is None and shards > 1:
            raise invalid(AS_OF_SEQUENCE.name, "must say of which shard, such as 0:123,1:45")
        if not NUMBER.fullmatch(sequence):
            told = "must be a whole number, the sequence of the shard, or positions: 0:123,1:45"
            raise invalid(AS_OF_SEQUENCE.name, told)
        sequence = f"{shard or 0}:{sequence}"
    return positions_of(sequence, shards, AS_OF_SEQUENCE.name)


def check_one(asked: Parameters, name: str, choices: Sequence[str]) -> None:
    """Refuse a parameter that is given and is none of the choices."""
    if asked.get(name, choices[0] if choices else None) not in choices:
        raise invalid(name, f"must be one of {', '.join(choices)}")


@contextmanager
def answering_all() -> Iterator[None]:
    """Turn what an answer may fail of into problems for the client."""
    with answering():
        try:
            yield
        except UnknownEvent as error:
            detail = f"This process cannot read it: {error}. One that is upgraded can."
            raise Problem(Code.GATEWAY_OLDER, detail) from error


def as_of(live: Handler, answer: Answer, shard_of: ShardOf = of_all) -> Handler:
    """Return the handler that takes what ``live`` takes, and answers what it answered then."""

    @wraps(live)
    async def handler(request: Request) -> JSONBytes:
        asked = {**query(request), **request.path_params}
        analyst: Analyst = request.app.state.analyst
        async with analyst.asking(asked, shard_of, caller_of(request)) as asking:
            return JSONBytes(await answer(asking, asked))

    OPERATIONS[handler] = OPERATIONS[live]
    return handler
