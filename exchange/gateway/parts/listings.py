"""Which shard an instrument lives in and how its amounts convert: remembered for ever.

Scales, base, quote and shard never change, so an entry is never stale and the cache
is bounded by the number of instruments. One that is not here is asked of the log by
its registration, which is there before anybody is told that it succeeded; a read
model would have to catch up first.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import InstrumentRegistered
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.reading import loaded, log_connection
from exchange.log.events import DecidedEvent
from exchange.log.identity import registration_command_id
from exchange.log.reader import find_command


class Listing(Struct, frozen=True):
    """What never changes about an instrument."""

    instrument: str
    shard: int
    base: str
    quote: str
    price_scale: int
    quantity_scale: int


class Listings:
    """The instruments that this gateway has met."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[str, Listing] = {}

    async def get(self, instrument: str) -> Listing:
        """Return an instrument's listing.

        Raises:
            Problem: 404 if nobody registered it, 503 if the log cannot be read.
        """
        listing = self._known.get(instrument)
        if listing is not None:
            return listing
        async with log_connection(self._engine) as connection:
            stored = await find_command(connection, registration_command_id(instrument))
        self.learn(loaded(stored))
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

    def learn(self, events: Sequence[DecidedEvent]) -> None:
        """Remember what was registered."""
        for decided in events:
            event = decided.event
            if isinstance(event, InstrumentRegistered):
                self._known[event.instrument] = Listing(
                    event.instrument,
                    decided.shard,
                    event.base,
                    event.quote,
                    event.price_scale,
                    event.quantity_scale,
                )
