"""Consecutive events of one shard, as a projection applies them in one step."""

from collections.abc import Sequence

from msgspec import Struct

from exchange.log.events import DecidedEvent


class Batch(Struct, frozen=True):
    """The events of ``shard`` above ``after`` up to ``up_to``, whose last is of ``time_ms``.

    Those that an operator lets the definition pass over are not among ``events``.
    """

    shard: int
    after: int
    up_to: int
    time_ms: int
    events: Sequence[DecidedEvent]

    @property
    def first_half(self) -> "Batch":
        """The first half of the events, at least one, and what is passed over before them."""
        half = self.events[: len(self.events) // 2]
        last = half[-1]
        return Batch(self.shard, self.after, last.position, last.event.time_ms, half)
