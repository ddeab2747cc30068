"""What may go wrong on the way to a server and back, drawn by the seed.

A ``StormyLink`` connects one simulated process to the servers. A request may be late, lost, or
carried out and not acknowledged. The server finishes what it began, even if the process is killed
or frozen. Each request has four named points at which a process can be killed:
``before insert``, ``sent insert`` (the server may still do it), ``done insert`` (it did,
and nobody knows) and ``after insert``.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TypeVar

from tests.fakes import Link
from tests.simulation.loop import Process, SimulatedLoop

T = TypeVar("T")

SERVERS = Context()  # of no process: neither killed nor frozen


@dataclass
class Weather:
    """How bad it is: probabilities, and the longest way to a server."""

    chance: Random
    delay_s_max: float = 0.002
    lost_before: float = 0.0
    lost_after: float = 0.0
    calm: bool = False

    @staticmethod
    def of(chance: Random) -> "Weather":
        """Draw one; in many runs a fault does not happen at all, so that others go further."""
        return Weather(
            chance,
            delay_s_max=chance.choice([0.0, 0.002, 0.02, 0.3]),
            lost_before=chance.choice([0.0, 0.0, 0.01, 0.05]),
            lost_after=chance.choice([0.0, 0.0, 0.01, 0.05]),
        )

    def strikes(self, probability: float) -> bool:
        return not self.calm and self.chance.random() < probability

    def delay_s(self) -> float:
        return 0.0005 if self.calm else self.chance.random() * self.delay_s_max


@dataclass
class Crash:
    """Kills the process that comes to ``point`` for the ``countdown``-th time."""

    point: str
    countdown: int = 1
    struck: bool = False

    def strikes(self, point: str) -> bool:
        if point != self.point or self.struck:
            return False
        self.countdown -= 1
        self.struck = self.countdown == 0
        return self.struck


class StormyLink(Link):
    """A process's way to the servers."""

    def __init__(
        self,
        loop: SimulatedLoop,
        weather: Weather,
        process: Process | None = None,
        crash: Crash | None = None,
    ) -> None:
        self._loop = loop
        self._weather = weather
        self._process = process
        self._crash = crash

    async def call(self, what: str, effect: Callable[[], T]) -> T:
        await self._reach(f"before {what}")
        if self._weather.strikes(self._weather.lost_before):
            raise ConnectionError(f"{what}: the connection was cut")
        answer: asyncio.Future[T] = self._loop.create_future()
        serve = partial(self._serve, what, effect, answer)
        self._loop.call_later(self._weather.delay_s(), serve, context=SERVERS)
        self._may_die(f"sent {what}")
        result = await answer
        await self._reach(f"after {what}")
        return result

    def _serve(self, what: str, effect: Callable[[], T], answer: "asyncio.Future[T]") -> None:
        try:
            result = effect()
        except Exception as error:
            self._answer(answer, error=error)
            return
        self._may_die(f"done {what}")
        if self._weather.strikes(self._weather.lost_after):
            self._answer(answer, error=ConnectionError(f"{what}: no answer came"))
        else:
            self._answer(answer, result)

    def _answer(
        self,
        answer: "asyncio.Future[T]",
        result: T | None = None,
        error: Exception | None = None,
    ) -> None:
        def arrive() -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        self._loop.call_later(self._weather.delay_s(), arrive, context=SERVERS)

    async def _reach(self, point: str) -> None:
        """Pass a point, or stay there for ever."""
        self._may_die(point)
        if self._process is not None and not self._process.runs:
            await asyncio.sleep(0)  # held here: frozen until thawed, killed for good

    def _may_die(self, point: str) -> None:
        if self._crash is not None and self._process is not None and self._crash.strikes(point):
            self._process.kill()
