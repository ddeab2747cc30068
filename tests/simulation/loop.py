"""An event loop without a clock: time is virtual, and the next step is drawn by a seed.

Read ``SimulatedLoop``. Of the callbacks that are ready it runs any; when none is, time
jumps to the next timer. Nothing waits and nothing else runs, so one seed gives one run.

A ``Process`` is whatever runs in its context. Frozen, its callbacks are held back; killed,
they are held for ever, at whichever ``await`` they stood.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Ready = tuple[asyncio.Handle, "Process | None"]

STEPS_MAX = 1_000_000  # a run takes some thousands


class Stalled(Exception):
    """Nothing is ready and no timer is left, or the run never ends."""


class Process:
    """What is killed, frozen and thawed as one."""

    def __init__(self, name: str, loop: "SimulatedLoop") -> None:
        self.name = name
        self.alive = True
        self.frozen_s: float | None = None
        self.gone: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._held: list[Ready] = []

    @property
    def runs(self) -> bool:
        return self.alive and self.frozen_s is None

    def hold(self, ready: Ready) -> None:
        self._held.append(ready)

    def freeze(self) -> None:
        if self.frozen_s is None:
            self.frozen_s = self._loop.time()

    def thaw(self) -> None:
        self.frozen_s = None
        if self.alive:
            self._release()

    def kill(self) -> None:
        self.alive = False
        if not self.gone.done():
            self.gone.set_result(None)

    def bury(self) -> None:
        """Let what is left of it run, so that its tasks can be cancelled."""
        self.alive = True
        self.thaw()

    def _release(self) -> None:
        held, self._held = self._held, []
        self._loop.make_ready(held)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedTask(asyncio.Task[Any]):
    """Hashes by its number: a set of tasks is then visited in an order that repeats."""

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs ready callbacks in an order that ``chance`` draws, on virtual time."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self.steps = 0
        self._chance = chance
        self._now_s = 0.0
        self._soon: list[Ready] = []
        self._timers: list[tuple[float, int, Ready]] = []
        self._numbers = itertools.count()
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now_s

    def make_ready(self, ready: list[Ready]) -> None:
        self._soon += ready

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append((handle, _process_of(context)))
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        timer = (max(when, self._now_s), next(self._numbers), (handle, _process_of(context)))
        heapq.heappush(self._timers, timer)
        return handle

    async def run_in_executor(  # type: ignore[override]
        self, _executor: object, function: Callable[..., T], *args: Any
    ) -> T:
        """Call ``function`` as one step: no threads here."""
        await asyncio.sleep(0)
        return function(*args)

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stalled("the run does not end")
        self._let_timers_ring()
        last = len(self._soon) - 1
        chosen = int(self._chance.random() * (last + 1))
        self._soon[chosen], self._soon[last] = self._soon[last], self._soon[chosen]
        handle, process = self._soon.pop()
        if process is not None and not process.runs:
            process.hold((handle, process))
        elif not handle.cancelled():
            handle._run()

    def _let_timers_ring(self) -> None:
        while not self._soon:
            if not self._timers:
                raise Stalled("everything waits for something")
            self._now_s = self._timers[0][0]
            while self._timers and self._timers[0][0] <= self._now_s:
                ready = heapq.heappop(self._timers)[2]
                if not ready[0].cancelled():
                    self._soon.append(ready)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer is passed over when it rings."""

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> SimulatedTask:
        return SimulatedTask(next(self._numbers), coroutine, loop=self, **options)


def _process_of(context: Context | None) -> Process | None:
    return PROCESS.get() if context is None else context.get(PROCESS)
