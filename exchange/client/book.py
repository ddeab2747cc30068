"""A book that is exactly that of the exchange: a snapshot, then the levels that change."""

from decimal import Decimal
from heapq import nlargest, nsmallest
from typing import Final

from exchange.client.answers import Level
from exchange.client.messages import BookTold

SNAPSHOT: Final = "snapshot"

Sides = dict[str, dict[Decimal, Decimal]]


class Gap(Exception):
    """A message is missing, so what is followed has to begin anew on another connection."""


class Book:
    """The quantity at each price of an instrument; empty until it was told for the first time.

    ``sequence`` is that of the last event that the book has. It is never half of a book: a
    snapshot that comes in parts takes the place of the former one when the last part is there.
    """

    def __init__(self, instrument: str) -> None:
        self.instrument = instrument
        self.sequence = 0
        self.timestamp = ""
        self.sides: Sides = {"bids": {}, "asks": {}}
        self._coming: Sides = {"bids": {}, "asks": {}}
        self._part = 0

    def take(self, told: BookTold) -> bool:
        """Apply a message; return whether the book is another one now.

        Raises:
            Gap: It does not follow the one before.
        """
        if told.kind == SNAPSHOT:
            return self._take_part(told)
        if told.prev_sequence > self.sequence or not self.timestamp:
            raise Gap(f"what follows sequence {self.sequence} of the book is missing")
        if told.sequence <= self.sequence:
            return False  # a repetition
        _set(self.sides, told)
        self.sequence, self.timestamp = told.sequence, told.timestamp
        return True

    def levels(self, side: str, count: int) -> list[Level]:
        """Return the best levels of ``bids`` or ``asks``, best first."""
        best = nlargest if side == "bids" else nsmallest
        found: list[Level] = []
        cumulative = Decimal(0)
        for price in best(count, self.sides[side]):
            quantity = self.sides[side][price]
            cumulative += quantity
            found.append(Level(price, quantity, cumulative))
        return found

    def _take_part(self, told: BookTold) -> bool:
        if told.part == 1:
            self._coming = {"bids": {}, "asks": {}}
        elif told.part != self._part + 1:
            raise Gap(f"part {self._part + 1} of the book is missing")
        _set(self._coming, told)
        self._part = told.part
        if told.part < told.parts:
            return False
        self.sides, self._part = self._coming, 0
        self.sequence, self.timestamp = told.sequence, told.timestamp
        return True


def _set(sides: Sides, told: BookTold) -> None:
    for side, levels in ((sides["bids"], told.bids), (sides["asks"], told.asks)):
        for level in levels:
            if level.quantity:
                side[level.price] = level.quantity
            else:
                side.pop(level.price, None)
