"""Which shard an instrument lives in and how its amounts convert: remembered for ever.

Scales, base, quote and shard never change, so an entry is never stale, and there are no more
entries than instruments. An instrument that is not remembered is looked up by its registration in
the log, which has it before the registration is answered. A read model could be behind.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Raw, Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import InstrumentRegistered, TradeExecuted, trade_id
from exchange.gateway.http.amounts import AVERAGE_DECIMALS, amount, ratio
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.responses import TradeView
from exchange.gateway.parts.reading import QUERY_WAIT_S, loaded, log_connection
from exchange.log.documents.text import decimal, timestamp
from exchange.log.events import DecidedEvent
from exchange.log.identity import registration_command_id
from exchange.log.reader import find_command
from exchange.transport.messages import Depth

MISSES_MAX: Final = 2  # questions to the log at once; each takes a millisecond


class Listing(Struct, frozen=True):
    """What never changes about an instrument; its methods write integers as clients read them."""

    instrument: str
    shard: int
    base: str
    quote: str
    price_scale: int
    quantity_scale: int

    @property
    def cost_scale(self) -> int:
        """The scale of a price times a quantity."""
        return self.price_scale + self.quantity_scale

    def price(self, units: int) -> Raw:
        return amount(units, self.price_scale)

    def quantity(self, units: int) -> Raw:
        return amount(units, self.quantity_scale)

    def cost(self, units: int) -> Raw:
        """Write a sum of prices times quantities."""
        return amount(units, self.cost_scale)

    def average_price(self, total: int, count: int) -> Raw:
        """Write ``total / count``: a cost by a quantity, or a sum of prices by their number."""
        decimals = self.price_scale + AVERAGE_DECIMALS
        return Raw(ratio(total, count, self.price_scale, decimals=decimals).encode())

    def level(self, level: tuple[int, int] | None) -> tuple[Raw | None, Raw | None]:
        """Write the price of a level and the quantity at it; both None without a level."""
        return (None, None) if level is None else (self.price(level[0]), self.quantity(level[1]))


class Listings:
    """The instruments that this gateway knows; others are looked up through ``engine``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._known: dict[str, Listing] = {}
        self._misses = asyncio.Semaphore(MISSES_MAX)

    def asking(self, engine: AsyncEngine) -> "Listings":
        """Return listings that share what is remembered and look up through another engine."""
        others = Listings(engine)
        others._known = self._known
        return others

    async def get(self, instrument: str) -> Listing:
        """Return an instrument's listing.

        Raises:
            Problem: 404 if nobody registered it, 503 if the log cannot be read.
        """
        if instrument not in self._known:
            await self._ask(instrument)
        if instrument not in self._known:
            raise Problem(
                Code.INSTRUMENT_NOT_FOUND,
                f"Nobody registered {instrument}; GET /instruments lists what can be traded.",
            )
        return self._known[instrument]

    async def of(self, instruments: Iterable[str]) -> dict[str, Listing]:
        """Return the listings of several instruments.

        Raises:
            Problem: As ``get``.
        """
        return {name: await self.get(name) for name in set(instruments)}

    async def _ask(self, instrument: str) -> None:
        try:
            async with (
                asyncio.timeout(QUERY_WAIT_S),
                self._misses,
                log_connection(self.engine) as connection,
            ):
                stored = await find_command(connection, registration_command_id(instrument))
        except TimeoutError as error:
            raise Problem(Code.READ_UNAVAILABLE, "The log cannot be asked in time.") from error
        self.learn(loaded(stored))

    def learn(self, events: Sequence[DecidedEvent]) -> None:
        """Remember the instruments that these events registered."""
        for decided in events:
            event = decided.event
            if isinstance(event, InstrumentRegistered):
                self._known[event.instrument] = listing_of(decided.shard, event)


def listing_of(shard: int, event: InstrumentRegistered) -> Listing:
    """Return the listing that a shard's event registered."""
    return Listing(
        event.instrument,
        shard,
        event.base,
        event.quote,
        event.price_scale,
        event.quantity_scale,
    )


def trade_view(decided: DecidedEvent, listing: Listing) -> TradeView:
    """Return what clients see of a trade."""
    event = decided.event
    assert isinstance(event, TradeExecuted), event
    return TradeView(
        trade_id=trade_id(decided.shard, decided.position),
        buy_order_id=event.buy_order_id,
        sell_order_id=event.sell_order_id,
        price=listing.price(event.price),
        quantity=listing.quantity(event.quantity),
        taker_side=event.taker_side,
        timestamp=timestamp(event.time_ms),
        sequence=decided.position,
    )


class BookNow(Struct, frozen=True):
    """A book as a JSON object, and the position that it is of."""

    position: int
    text: Raw


def book_members(depth: Depth, listing: Listing) -> str:
    """Write the two sides of a book as the members ``bids`` and ``asks``, without braces."""
    bids, asks = _levels(depth.bids, listing), _levels(depth.asks, listing)
    return f'"bids":[{",".join(bids)}],"asks":[{",".join(asks)}]'


def _levels(levels: Sequence[tuple[int, int]], listing: Listing) -> Iterable[str]:
    price_scale, quantity_scale = listing.price_scale, listing.quantity_scale
    cumulative = 0
    for price, quantity in levels:
        cumulative += quantity
        yield (
            f'{{"price":{decimal(price, price_scale)}'
            f',"quantity":{decimal(quantity, quantity_scale)}'
            f',"cumulative":{decimal(cumulative, quantity_scale)}}}'
        )
