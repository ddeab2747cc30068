"""The read models as they were at a moment: what each query of the live ones said then.

What is folded is begun at a kept state and goes on with the events after it. What only grows is
asked of the live tables by position; they have to have passed the moment. The live model reads
what each shard had decided, so an answer is the same for ever.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.engine import FIRST_CYCLE
from exchange.log.moments import Moment
from exchange.log.reader import read_placed_shards
from exchange.ports import StoredEvent
from projections import book, orders, positions, settlement, ticker, vwap
from projections.folding import Fold
from projections.orders import Order
from projections.past.folded import Tell, fold_up_to, tell_nobody
from projections.past.states import STATE_EVENTS
from projections.stores.checkpoints import Live, ReadModelStale, read_live, stale_text
from projections.stores.postgres import driver_connection

DAY_MINUTES: Final = 24 * 60


class TickerParts(Struct, frozen=True):
    """What a ticker is made of: the last trade, the best levels, the minutes of the last day."""

    last: ticker.LastTrades
    book: book.StoredBook
    minutes: list[vwap.Bucket]


class Past:
    """Answers as of ``moment``.

    Args:
        engine: Connections to the database.
        moment: The moment.
        shards: How many shards there are, with those that have decided nothing yet.
        every: At which multiples of a position the states of folds are kept.
        tell: Is told how far a fold is.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        moment: Moment,
        shards: int,
        *,
        every: int = STATE_EVENTS,
        tell: Tell = tell_nobody,
    ) -> None:
        self._engine, self.moment, self._shards = engine, moment, shards
        self._every, self._tell = every, tell
        self._folded: dict[int, dict[str, Fold]] = {}  # by shard and projection
        self._taking: dict[int, int] | None = None  # the first cycle of each shard in settlement

    async def book(self, shard: int, instrument: str, levels: int) -> book.StoredBook:
        """Return what ``read_book`` said."""
        folds = await self._folds(shard, book.NAME)
        return book.book_as_of(folds[book.NAME], self.moment.at(shard), instrument, levels)

    async def ticker(self, shard: int, instrument: str) -> TickerParts:
        """Return what a ticker was made of; its last 24 hours end at the moment."""
        names = (ticker.NAME, book.NAME, vwap.NAME)
        folds, at = await self._folds(shard, *names), self.moment.at(shard)
        now = self.moment.now_ms // vwap.MINUTE_MS
        async with self._rows(vwap.NAME, shard) as (connection, live):
            minutes = await vwap.list_buckets_as_of(
                connection,
                live,
                folds[vwap.NAME],
                instrument,
                first=now - DAY_MINUTES + 1,
                last=now,
                interval=1,
                limit=DAY_MINUTES,
            )
        last = ticker.last_trades_as_of(folds[ticker.NAME], at, [instrument])
        return TickerParts(last, book.book_as_of(folds[book.NAME], at, instrument, 1), minutes)

    async def buckets(
        self, shard: int, instrument: str, *, first: int, last: int, interval: int, limit: int
    ) -> list[vwap.Bucket]:
        """Return what ``list_buckets`` said."""
        folds = await self._folds(shard, vwap.NAME)
        async with self._rows(vwap.NAME, shard) as (connection, live):
            return await vwap.list_buckets_as_of(
                connection,
                live,
                folds[vwap.NAME],
                instrument,
                first=first,
                last=last,
                interval=interval,
                limit=limit,
            )

    async def positions(
        self, client_id: str
    ) -> tuple[list[positions.ClientPosition], dict[str, int]]:
        """Return what ``list_positions`` said, and the last price of each instrument in it."""
        folds = {
            shard: await self._folds(shard, positions.NAME, ticker.NAME)
            for shard in self.moment.places
        }
        held = positions.positions_as_of(
            (some[positions.NAME] for some in folds.values()), client_id
        )
        marks = {}
        for one in held:
            trade = folds[one.shard][ticker.NAME].last_trade(one.instrument)
            if trade is not None:  # unless an operator let tickers pass over it
                marks[one.instrument] = trade.price
        return held, marks

    async def order(self, order_id: str) -> Order | None:
        """Return what ``get_order`` said."""
        async with self._rows(orders.NAME) as (connection, live):
            return await orders.get_order_as_of(connection, live, self.moment.positions, order_id)

    async def orders(self, client_id: str, **asked: Any) -> list[Order]:
        """Return what ``list_orders`` said; ``asked`` is what it takes."""
        latest_ms = max((place.time_ms for place in self.moment.places.values()), default=0)
        async with self._rows(orders.NAME) as (connection, live):
            return await orders.list_orders_as_of(
                connection, live, self.moment.positions, latest_ms, client_id, **asked
            )

    async def order_history(self, order: Order, *, after: int = 0, limit: int) -> list[StoredEvent]:
        """Return what ``order_history`` said."""
        at = self.moment.at(order.shard)
        async with self._rows(orders.NAME, order.shard) as (connection, live):
            return await orders.order_history(
                connection, live, order.order_id, after=after, up_to=at.position, limit=limit
            )

    async def open_cycle(self) -> int:
        """Return the first cycle that not all its shards had cut."""
        return settlement.open_cycle_as_of(*await self._cycles())

    async def cycles(self, *, first: int, last: int) -> list[settlement.Cycle]:
        """Return what ``list_cycles`` said."""
        folds, firsts = await self._cycles()
        async with self._rows(settlement.NAME) as (connection, live):
            return await settlement.list_cycles_as_of(
                connection, live, folds, firsts, first=first, last=last
            )

    async def obligations(
        self, cycle: int, *, client_id: str | None = None, after: str = "", limit: int
    ) -> list[settlement.Obligation]:
        """Return what ``list_obligations`` said."""
        folds, _ = await self._cycles()
        async with self._rows(settlement.NAME) as (connection, live):
            return await settlement.list_obligations_as_of(
                connection, live, folds, cycle, client_id=client_id, after=after, limit=limit
            )

    async def _cycles(self) -> tuple[dict[int, settlement.SettlementFold], dict[int, int]]:
        """Return the fold and the first cycle of each shard that took part in settlement.

        Those are the shards that were there from the beginning, and those that had been placed.
        """
        if self._taking is None:
            self._taking = await self._firsts()
        folds = {
            shard: (await self._folds(shard, settlement.NAME))[settlement.NAME]
            for shard in self._taking
        }
        return folds, self._taking

    async def _firsts(self) -> dict[int, int]:
        async with driver_connection(self._engine) as connection:
            placed = await read_placed_shards(connection)
            at = self.moment.at(0).position
            by_then = await read_placed_shards(connection, up_to=at) if placed else {}
        begun = {shard for shard, place in self.moment.places.items() if place.position}
        taking = ({*range(self._shards)} - placed.keys()) | begun | by_then.keys()
        return {shard: by_then.get(shard, FIRST_CYCLE) for shard in sorted(taking)}

    async def _folds(self, shard: int, *names: str) -> Mapping[str, Any]:
        folds = self._folded.setdefault(shard, {})
        missing = [name for name in names if name not in folds]
        if missing:
            position = self.moment.at(shard).position
            async with driver_connection(self._engine) as connection:
                folds |= await fold_up_to(
                    connection, missing, shard, position, every=self._every, tell=self._tell
                )
        return folds

    @asynccontextmanager
    async def _rows(self, name: str, *shards: int) -> AsyncIterator[tuple[AsyncConnection, Live]]:
        """Lend a connection that sees one state of the live model, which has passed the moment.

        Raises:
            ReadModelStale: It has not.
            ReadModelUnavailable: There is no live generation.
        """
        wanted = self._wanted(shards)
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="REPEATABLE READ")
            live = await read_live(connection, name)
            if any(live.reached.get(shard, 0) < at for shard, at in wanted.items()):
                raise ReadModelStale(stale_text(name, live.reached, wanted))
            yield connection, live

    def _wanted(self, shards: Sequence[int]) -> dict[int, int]:
        every = self.moment.positions
        return every if not shards else {shard: self.moment.at(shard).position for shard in shards}
