"""The channel ``orders`` of one instrument, which may be later than the other channels.

An update of an order may need the read model, which may be behind. Books, trades and other
instruments do not wait for that: the events queue up here, in their order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.log.events import DecidedEvent
from projections.orders import Order

logger = logging.getLogger(__name__)

WAITING_EVENTS_MAX: Final = 20_000  # some 20 MB; the model is waited for 1 s at most

Offer = Callable[[Sequence[DecidedEvent], Mapping[str, Order]], None]


class OrdersLane:
    """A queue of events, which are offered once their orders are known."""

    def __init__(self, known: KnownOrders, offer: Offer, fail: Callable[[Problem], None]) -> None:
        self._known = known
        self._offer = offer
        self._fail = fail
        self._waiting: deque[Sequence[DecidedEvent]] = deque()
        self.task: asyncio.Task[None] | None = None

    @property
    def begins_at(self) -> int | None:
        """The position of the first event that waits, None if none does."""
        return self._waiting[0][0].position if self._waiting else None

    def put(self, events: Sequence[DecidedEvent]) -> None:
        """Offer the events: at once if all their orders are known, otherwise later."""
        known = None if self._waiting else self._known.recall(events)
        if known is not None:
            self._offer(events, known)
            return
        self._waiting.append(events)
        if sum(map(len, self._waiting)) > WAITING_EVENTS_MAX:
            self._give_up(Problem(Code.READ_STALE, "The orders cannot be asked for in time."))
        elif self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run(), name="orders of an instrument")

    async def _run(self) -> None:
        try:
            while self._waiting:
                events = self._waiting[0]
                known = await self._known.learn(events)
                if not self._waiting:  # given up during the wait
                    return
                self._waiting.popleft()
                self._offer(events, known)
        except Problem as problem:
            self._give_up(problem)
        except Exception:
            logger.exception("Orders could not be told")
            self._give_up(Problem(Code.INTERNAL, "The mistake was logged."))

    def _give_up(self, problem: Problem) -> None:
        self._waiting.clear()
        self._fail(problem)
