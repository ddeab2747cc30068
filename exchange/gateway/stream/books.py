"""A book as a subscriber has it: the quantity at each price, from a snapshot and the events after.

Read ``LiveBook.apply``: it changes the levels and tells which ones, with their quantities
afterwards, so that a delta never needs the one before it.
"""

from collections.abc import Iterable, Mapping, Sequence

from exchange.codec import DecidedEvent
from exchange.domain.values import Side
from projections.book import BookView, Level, level_change


class LiveBook:
    """All levels of one book after the event at ``position``."""

    def __init__(self, view: BookView) -> None:
        self.position = view.position
        self.time_ms = view.time_ms
        self._sides = {Side.BUY: dict(view.bids), Side.SELL: dict(view.asks)}

    def apply(self, events: Iterable[DecidedEvent]) -> dict[Side, dict[int, int]]:
        """Apply events that come after the book's position; return the levels that changed.

        The events are all those of the shard's or of the instrument's, without a gap.
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
        found = self._sides[side]
        if not found:
            return None
        price = max(found) if side is Side.BUY else min(found)
        return price, found[price]

    def levels(self, side: Side) -> Sequence[Level]:
        """Return all levels of a side, best first."""
        return sorted(self._sides[side].items(), reverse=side is Side.BUY)

    def _changed(self, side: Side, before: Mapping[int, int]) -> dict[int, int]:
        """Return the levels that are not as they were: one that came and went is left out."""
        found = self._sides[side]
        return {
            price: found.get(price, 0) for price in before if found.get(price, 0) != before[price]
        }

    def _change(self, side: Side, price: int, change: int) -> None:
        found = self._sides[side]
        quantity = found.get(price, 0) + change
        assert quantity >= 0, f"{change} at {price}, where only {quantity - change} rests"
        if quantity:
            found[price] = quantity
        else:
            del found[price]
