"""A book as a subscriber has it: the quantity at each price, from a snapshot and the events after.

Read ``LiveBook.apply``. It changes levels and returns them with their new quantities, so that a
delta never builds on the one before. The prices of each side are kept sorted: looking for the best
of 100,000 took 4 ms with each event.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

from exchange.domain.values import Side
from exchange.log.events import DecidedEvent
from projections.book import Level, StoredBook, level_change


class LiveBook:
    """All levels of one book after the event at ``position``."""

    def __init__(self, view: StoredBook) -> None:
        self.position = view.position
        self.time_ms = view.time_ms
        self._sides = {Side.BUY: dict(view.bids), Side.SELL: dict(view.asks)}
        self._prices = {side: sorted(levels) for side, levels in self._sides.items()}

    def __len__(self) -> int:
        """Return how many levels there are."""
        return sum(map(len, self._sides.values()))

    def apply(self, events: Iterable[DecidedEvent]) -> dict[Side, dict[int, int]]:
        """Apply events that come after the book's position; return the levels that changed.

        The events are all events of the shard, or all of the instrument, without a gap.
        """
        before: dict[Side, dict[int, int]] = {Side.BUY: {}, Side.SELL: {}}
        for decided in events:
            if decided.position <= self.position:
                continue
            self.position, self.time_ms = decided.position, decided.event.time_ms
            change = level_change(decided.event)
            if change is not None:
                _, side, price, quantity = change
                before[side].setdefault(price, self._sides[side].get(price, 0))
                self._change(side, price, quantity)
        return {side: self._changed(side, quantities) for side, quantities in before.items()}

    def best(self, side: Side) -> Level | None:
        """Return the best level of a side."""
        prices = self._prices[side]
        if not prices:
            return None
        price = prices[-1] if side is Side.BUY else prices[0]
        return price, self._sides[side][price]

    def levels(self, side: Side) -> Sequence[Level]:
        """Return all levels of a side, best first."""
        found, prices = self._sides[side], self._prices[side]
        return [(price, found[price]) for price in (prices[::-1] if side is Side.BUY else prices)]

    def _changed(self, side: Side, before: Mapping[int, int]) -> dict[int, int]:
        """Return the levels that changed. A level that came and went is left out."""
        found = self._sides[side]
        return {
            price: found.get(price, 0) for price in before if found.get(price, 0) != before[price]
        }

    def _change(self, side: Side, price: int, change: int) -> None:
        found, prices = self._sides[side], self._prices[side]
        quantity = found.get(price, 0) + change
        assert quantity >= 0, f"{change} at {price}, where only {quantity - change} rests"
        if quantity and price not in found:
            insort(prices, price)
        if quantity:
            found[price] = quantity
        else:
            del found[price]
            del prices[bisect_left(prices, price)]
