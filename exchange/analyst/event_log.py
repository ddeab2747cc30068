"""What questions about events share: which events are asked for, and who waits for the next.

``EventLog`` bounds how many wait and how many take lines. The budget is that of reads of the past,
counted in this process alone: gateways have spent it for what they pass on, and pass on no events.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.analyst.asking import Analyst, answering_all, check_one
from exchange.analyst.events import TYPES, Span, Wanted
from exchange.domain.values import Id
from exchange.gateway.http.addresses import Network
from exchange.gateway.http.parameters import Parameter, Sequences, Time, Uuid
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import check_id, moment_ms
from exchange.gateway.parts.limits import NO_LIMITS, Limits, RateLimiter
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import positions_of
from exchange.log.moments import NotReached, check_passed, position_at
from exchange.log.reader import read_heads
from exchange.waiting import Shared
from projections.stores.postgres import driver_connection

WAITING_MAX: Final = 200  # each is a connection and a task
STREAMS_MAX: Final = 2  # each holds a connection to the database as long as its client reads

SHARD: Final = Parameter("shard", int, "only events of this shard")
AFTER: Final = Parameter("after", Sequences, "only events after these positions: next of a page")
AFTER_TIME: Final = Parameter("after_time", Time, "only events after this time")
UP_TO_TIME: Final = Parameter("up_to_time", Time, "only events at or before this time")
INSTRUMENT: Final = Parameter("instrument", Id, "only events of this instrument")
TYPE: Final = Parameter("type", str, "only events of this type", example="TradeExecuted")
CLIENT: Final = Parameter("client_id", Id, "only events that name this client")
ORDER: Final = Parameter("order_id", Id, "only events that name this order")
COMMAND: Final = Parameter("command_id", Uuid, "only events that this command caused")
NAMES: Final = (INSTRUMENT, CLIENT, ORDER)
CHOOSING: Final = (SHARD, AFTER, AFTER_TIME, UP_TO_TIME, TYPE, COMMAND, *NAMES)


class Ranges(Struct, frozen=True):
    """Which events are asked for, by shard; those of ``growing`` end where the log does now."""

    spans: Mapping[int, Span]
    growing: Set[int]

    @property
    def ends(self) -> dict[int, int]:
        return {shard: end for shard, (_, end) in self.spans.items()}


class EventLog:
    """What the questions about events share.

    Args:
        engine: Connections to the database.
        analyst: Whose turns the questions take.
        shards: How many partitions the topic has.
        limits: How much an address may ask for.
        proxies: Networks of trusted proxies, whose ``X-Forwarded-For`` is believed.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        analyst: Analyst,
        shards: int,
        *,
        limits: Limits = NO_LIMITS,
        proxies: Sequence[Network] = (),
    ) -> None:
        self.engine, self.analyst, self.shards = engine, analyst, shards
        self.metrics, self.limiter, self.proxies = Metrics(), RateLimiter(None, limits), proxies
        self.looking = asyncio.Lock()  # who waits looks one at a time, and holds up no question
        self.streams = 0
        self._waiting: dict[asyncio.Event, Set[int]] = {}
        self._looks = Shared(self._look)

    @property
    def waiting(self) -> int:
        """How many wait for an event."""
        return len(self._waiting)

    def wake(self, shard: int) -> None:
        """Let those who wait for an event of a shard look again."""
        for news, shards in self._waiting.items():
            if shard in shards:
                news.set()

    @asynccontextmanager
    async def awaited(self, shards: Set[int]) -> AsyncIterator[asyncio.Event]:
        """Lend an event that is set when there is something new of one of the shards.

        Raises:
            Problem: 503, too many others wait.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Problem(Code.BUSY, "Too many wait for events here; try again.")
        news = asyncio.Event()
        self._waiting[news] = shards
        try:
            yield news
        finally:
            del self._waiting[news]

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Take one of the places of those who take lines.

        Raises:
            Problem: 503, there is none.
        """
        if self.streams >= STREAMS_MAX:
            raise Problem(Code.BUSY, "Too many take lines of events here; try again.")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def heads(self) -> Mapping[int, int]:
        """Return each shard's head, asked once for all who want to know it now.

        Raises:
            Problem: 503, the log cannot be read.
        """
        return await self._looks.ask()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection to the log.

        Raises:
            Problem: 503, it cannot be read.
        """
        with answering_all():
            async with driver_connection(self.engine) as connection:
                yield connection

    async def _look(self) -> Mapping[int, int]:
        async with self.connection() as connection:
            return await read_heads(connection)


def wanted_of(asked: Mapping[str, str]) -> Wanted:
    """Return which events a query chooses of those that are read.

    Raises:
        Problem: 422, a name or a command can be none, or there is no such type.
    """
    for parameter in NAMES:
        if parameter.name in asked:
            check_id(asked[parameter.name], parameter.name)
    check_one(asked, TYPE.name, TYPES)
    return Wanted(
        instrument=asked.get(INSTRUMENT.name),
        client=asked.get(CLIENT.name),
        order=asked.get(ORDER.name),
        type=asked.get(TYPE.name),
        command=_command(asked.get(COMMAND.name)),
    )


def _command(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise invalid(COMMAND.name, "must be a UUID") from None


async def ranges_of(
    connection: asyncpg.Connection, asked: Mapping[str, str], shards: int
) -> Ranges:
    """Return which events of each shard a query asks for.

    Raises:
        Problem: 422, a shard or a position is not there; 409, a shard has not passed a time up to
            which events are asked for.
    """
    heads = dict.fromkeys(range(shards), 0) | await read_heads(connection)
    check_one(asked, SHARD.name, list(map(str, sorted(heads))))
    after = positions_of(asked.get(AFTER.name), max(heads, default=0) + 1, AFTER.name)
    since_ms, until_ms = moment_ms(asked, AFTER_TIME.name), moment_ms(asked, UP_TO_TIME.name)
    spans, growing = {}, set()
    for shard, head in sorted(heads.items()):
        if asked.get(SHARD.name, str(shard)) != str(shard):
            continue
        begin, end = after.get(shard, 0), head
        if begin > head:
            raise invalid(AFTER.name, f"shard {shard} ends at {head}")
        if since_ms is not None:
            begin = max(begin, await position_at(connection, shard, since_ms, head))
        if until_ms is not None:
            end = await position_at(connection, shard, until_ms, head)
            try:
                await check_passed(connection, shard, until_ms, end, head)
            except NotReached as error:
                raise Problem(Code.NOT_REACHED, str(error)) from error
        else:
            growing.add(shard)
        spans[shard] = (min(begin, end), end)
    return Ranges(spans, growing)
