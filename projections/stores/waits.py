"""Waiting until read models have seen a position: one question at a time serves all who wait.

Read ``PositionWaits.reach``. However many wait, one question at a time is under way, some
100 a second, and a wait ends when its time is up, whether or not the store has answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Final, Generic, TypeVar

from exchange.waiting import heed_cancellation

# Projectors do not notify of checkpoints: every NOTIFY makes commits queue for one lock, the
# matcher's too. Asking often costs one query per interval and process, and only while one waits.
WAIT_POLL_S: Final = 0.01
POLL_S_OF_WAITER: Final = 0.000_05  # looking at one takes 2 µs, so all of them 4 % of a core
WAITERS_MAX: Final = 1_000  # then they are looked at every 50 ms; later would be noticed

Place = TypeVar("Place", bound=Hashable)


class TooManyWait(Exception):
    """So many wait already that one more is better told to come again."""


class _Waiter(Generic[Place]):
    """One who waits; ``found`` is the last answer, None before the first."""

    __slots__ = ("error", "found", "over", "wanted")

    def __init__(self, wanted: Mapping[Place, int]) -> None:
        self.wanted = wanted
        self.found: Mapping[Place, int] | None = None
        self.error: Exception | None = None
        self.over = asyncio.Event()

    def answer(self, found: Mapping[Place, int]) -> None:
        self.found = found
        if has_reached(found, self.wanted):
            self.over.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()


class PositionWaits(Generic[Place]):
    """Waits of this process; ``ask`` tells where places are, and leaves out what is not there."""

    def __init__(self, ask: Callable[[Set[Place]], Awaitable[Mapping[Place, int]]]) -> None:
        self._ask = ask
        self._waiters: set[_Waiter[Place]] = set()
        self._new: list[_Waiter[Place]] = []
        self._joined = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    async def reach(self, wanted: Mapping[Place, int], *, timeout_ms: int) -> Mapping[Place, int]:
        """Wait until every place has its position, or until the time is up.

        Returns:
            Where places are, as last told; those that are not there are left out.

        Raises:
            TooManyWait: So many do.
            TimeoutError: Nothing was told in time.
            Exception: What asking failed with.
        """
        if len(self._waiters) >= WAITERS_MAX:
            raise TooManyWait(f"{WAITERS_MAX} wait already")
        waiter = _Waiter(wanted)
        self._waiters.add(waiter)
        self._new.append(waiter)
        self._joined.set()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_all())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_ms / 1000):
                    await waiter.over.wait()
        finally:
            self._waiters.remove(waiter)
        if waiter.error is not None:
            raise waiter.error
        if waiter.found is None:
            raise TimeoutError("nothing was told in time")
        return waiter.found

    async def _ask_for_all(self) -> None:
        """Ask until nobody waits: for all now and then, at once for those who have just come."""
        now_s = asyncio.get_running_loop().time
        all_at_s = now_s()
        while self._waiters:
            asked, self._new = self._new, []
            self._joined.clear()
            if now_s() >= all_at_s:
                asked = list(self._waiters)
                all_at_s = now_s() + max(WAIT_POLL_S, POLL_S_OF_WAITER * len(asked))
            await self._answer(asked)
            heed_cancellation()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(all_at_s):
                    await self._joined.wait()

    async def _answer(self, asked: Sequence[_Waiter[Place]]) -> None:
        try:
            found = await self._ask({place for waiter in asked for place in waiter.wanted})
        except Exception as error:
            for waiter in asked:
                waiter.fail(error)
        else:
            for waiter in asked:
                waiter.answer(found)


def has_reached(found: Mapping[Place, int], wanted: Mapping[Place, int]) -> bool:
    """Tell whether every place is where it is wanted; one that is not there is nowhere."""
    return all(found.get(place, -1) >= position for place, position in wanted.items())
