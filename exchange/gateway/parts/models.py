"""Reads of the models in Redis that several resources and the answers to orders share.

Each waits until its model has seen a position, then reads, and refuses a model that stands still.
Read ``of_live``: Redis cannot tell which generation is live, so the database is asked before a read
and after it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from msgspec import Raw

from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.gateway.http.parameters import LEVELS
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import check_id
from exchange.gateway.parts.context import Gateway
from exchange.gateway.parts.listings import BookNow, Listing, book_members
from exchange.gateway.parts.reading import CATCH_UP_WAIT_MS, answering, from_redis, model_connection
from exchange.transport.messages import Depth
from exchange.waiting import Shared, within
from projections import ticker
from projections.book import NAME as BOOK
from projections.book import StoredBook, read_book
from projections.stores.checkpoints import Live, read_live
from projections.ticker import LastTrades, read_last_trades

BOOK_WAIT_S: Final = 0.25  # an order is answered without its book rather than late
READS_MAX: Final = 3  # of one question; operators do not switch a model twice within a second

T = TypeVar("T")


async def book_after(gateway: Gateway, listing: Listing, sequence: int) -> Raw | None:
    """Return the book at or after a position for the answer to an order, None if it is late."""
    if gateway.health.is_away("redis"):
        return None
    try:
        return (await within(BOOK_WAIT_S, _book_after(gateway, listing, sequence))).text
    except (Problem, TimeoutError):
        return None


async def _book_after(gateway: Gateway, listing: Listing, sequence: int) -> BookNow:
    """Return the book as it is, which is read and written once for all who ask meanwhile.

    Only where that has not seen the position it is waited for.
    """
    if listing.instrument not in gateway.books:
        gateway.books[listing.instrument] = Shared(partial(_book_now, gateway, listing))
    now = await gateway.books[listing.instrument].ask()
    if now.position >= sequence:
        return now
    return await _book_now(gateway, listing, sequence)


async def _book_now(gateway: Gateway, listing: Listing, sequence: int = 0) -> BookNow:
    view = await read_depth(gateway, listing, sequence, LEVELS.default)
    return BookNow(view.position, Raw(f"{{{sides(view, listing)}}}".encode()))


async def listing_of(gateway: Gateway, parameters: Mapping[str, str]) -> Listing:
    """Return the listing of the ``instrument`` parameter, or of the default one."""
    instrument = parameters.get("instrument", INSTRUMENT_DEFAULT)
    return await gateway.listings.get(check_id(instrument, "instrument"))


async def read_depth(gateway: Gateway, listing: Listing, sequence: int, levels: int) -> StoredBook:
    """Return a book at or after a position.

    Raises:
        Problem: 503, the model is not there, is behind, or did not see the position in time.
    """

    async def read(live: Live) -> StoredBook:
        await reach_in_redis(gateway, live, listing.shard, sequence)
        reading = read_book(gateway.redis, live, listing.shard, listing.instrument, levels)
        view = await from_redis(BOOK, reading)
        check_current(gateway, listing.shard, BOOK, view.position)
        return view

    return await of_live(gateway, BOOK, read)


async def of_live(gateway: Gateway, model: str, read: Callable[[Live], Awaitable[T]]) -> T:
    """Return what ``read`` finds in the generation of a model in Redis that is still live then.

    After a switch the former generation follows the log by itself, so what was read of it may be
    newer than what the next answer comes from, or fail for want of its keys: it is read again.

    Raises:
        Problem: 503, no generation is live, or the database is away; and what ``read`` raises.
    """
    live = await _live(gateway, model)
    for _ in range(READS_MAX):
        found = await _found(read(live))
        before, live = live, await _live(gateway, model)
        if live.generation != before.generation:
            continue
        if isinstance(found, Problem):
            raise found
        return found
    raise Problem(Code.READ_UNAVAILABLE, f"The {model} was switched again and again.")


async def _live(gateway: Gateway, model: str) -> Live:
    async with model_connection(gateway.engine) as connection:
        return await read_live(connection, model)


async def _found(reading: Awaitable[T]) -> T | Problem:
    try:
        return await reading
    except Problem as problem:
        return problem


async def reach_in_redis(gateway: Gateway, live: Live, shard: int, position: int) -> None:
    """Wait until a read model in Redis has seen a position; 0 asks for none.

    Raises:
        Problem: 503, the model did not see it in time or is not there.
    """
    if not position:
        return
    with answering():
        await gateway.model_waits.reach(
            live.projection, live.generation, shard, position, timeout_ms=CATCH_UP_WAIT_MS
        )


def check_current(gateway: Gateway, shard: int, model: str, position: int) -> None:
    """Refuse the answer of a model in Redis that no projector keeps up.

    Raises:
        Problem: 503, the model has not seen what a healthy one has seen by now.
    """
    if position < gateway.health.due(shard):
        raise Problem(Code.READ_STALE, f"The {model} is behind, at {position}.")


def sides(view: StoredBook, listing: Listing) -> str:
    """Return the members ``bids`` and ``asks`` of a JSON object, in decimals."""
    return book_members(Depth(view.position, view.bids, view.asks), listing)


async def last_trades(
    gateway: Gateway, live: Live, shard: int, instruments: Sequence[str]
) -> LastTrades:
    """Return the last trades of some of a shard's instruments, to be read by ``of_live``.

    Raises:
        Problem: 503, the model is not there or is behind, or Redis is away.
    """
    read = read_last_trades(gateway.redis, live, shard, instruments)
    last = await from_redis(ticker.NAME, read)
    check_current(gateway, shard, ticker.NAME, last.position)
    return last
