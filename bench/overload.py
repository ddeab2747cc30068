"""What happens at four fifths of the maximum, and when twice of it is offered?

Workload: ``exchange load --batch 100`` finds how much is taken when everybody waits for answers
(batches over HTTP, a few connections, budgets off). Then it sends four fifths of that at intended
times, while memory and descriptors of each process and the lag of each read model are sampled; then
twice of it; then four fifths again, in which the matcher is stopped (SIGSTOP) for ten seconds.

A probe sends single orders and cancels beside each, ten of each a second, on an instrument where
nobody else trades, and keeps what they were told: whether a refusal has ``Retry-After``, how long
accepted ones took, and, after the matcher goes on, when the first order is accepted again.

Not included: the stream, several gateways, a network.
"""

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import psutil

from bench.batches import BATCH, BATCH_CONNECTIONS, UNLIMITED
from bench.lag import Lag, sampler
from bench.load import begin_load, report_of
from bench.runner import Findings, Goal, ask, histogram, p99, parser_of, table_of
from bench.venue import Bench, running, tell

WARM_UP_S: Final = 5
FIND_S: Final = 15
STEADY: Final = 0.8
TWICE: Final = 2.0
OFFERING_CONNECTIONS: Final = 200  # twice the orders that a gateway has places for
PROBED: Final = {
    "instrument": "PROBE-USD",
    "base": "PROBE",
    "quote": "USD",
    "price_scale": 2,
    "quantity_scale": 0,
    "tick_size": 0.01,
    "lot_size": 1,
}
FROZEN_S: Final = 10.0
FROZEN_AFTER_S: Final = 5.0
RECOVERED_S: Final = 20.0  # how long the probe goes on after the matcher does
PROBE_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 10.0
FLAT: Final = 1.15  # of what a process had before: buffers grow a little at first


@dataclass(slots=True)
class Told:
    """What a probe's orders, or cancels, were told."""

    accepted_s: list[float] = field(default_factory=list)
    accepted_at_s: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    without_retry_after: int = 0
    pending: int = 0

    @property
    def count(self) -> int:
        return len(self.accepted_s) + self.pending + sum(self.refused.values())

    @property
    def p99_ms(self) -> float:
        """How long the slowest hundredth of the accepted ones took at least."""
        return p99(self.accepted_s) * 1000

    @property
    def share(self) -> float:
        """How many of all were accepted."""
        return len(self.accepted_s) / self.count if self.count else 0.0

    def add(self, answer: httpx.Response, begun_s: float) -> None:
        if answer.status_code in (200, 201):
            self.accepted_s.append(time.monotonic() - begun_s)
            self.accepted_at_s.append(time.monotonic())
        elif answer.status_code == httpx.codes.ACCEPTED:
            self.pending += 1
        else:
            code = answer.json()["code"]
            self.refused[code] = self.refused.get(code, 0) + 1
            if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
                self.without_retry_after += 1


@dataclass(slots=True)
class Phase:
    """What one load and the probe beside it found."""

    offered: float
    taken: float = 0.0
    orders: Told = field(default_factory=Told)
    cancels: Told = field(default_factory=Told)


@dataclass(slots=True)
class Measured:
    """The maximum, what each phase found, and how much each process grew in the first."""

    most: float
    steady: Phase
    twice: Phase
    frozen: Phase
    recovered_s: float
    grown: dict[str, float]
    descriptors: dict[str, int]
    lag: Lag


class Probe:
    """Sends an order and the cancel of an earlier one, again and again, until cancelled."""

    def __init__(self, url: str, phase: Phase) -> None:
        self._url = url
        self._phase = phase
        self._resting: list[str] = []

    async def run(self) -> None:
        """Send at a steady pace, whatever becomes of what was sent before."""
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(
                base_url=self._url, timeout=PROBE_TIMEOUT_S, limits=limits, verify=False
            ) as http,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                tasks.create_task(self._order(http))
                if self._resting:
                    tasks.create_task(self._cancel(http, self._resting.pop(0)))
                await asyncio.sleep(PROBE_S)

    async def _order(self, http: httpx.AsyncClient) -> None:
        body = {
            "client_id": "probe",
            "instrument": PROBED["instrument"],
            "side": "buy",
            "type": "limit",
            "price": "1",
            "quantity": "1",
        }
        begun_s = time.monotonic()
        answer = await http.post("/orders", json=body)
        self._phase.orders.add(answer, begun_s)
        if answer.status_code == httpx.codes.CREATED:
            self._resting.append(answer.json()["order"]["order_id"])

    async def _cancel(self, http: httpx.AsyncClient, order_id: str) -> None:
        begun_s = time.monotonic()
        answer = await http.post(f"/orders/{order_id}/cancel", json={"client_id": "probe"})
        self._phase.cancels.add(answer, begun_s)
        if answer.status_code in (429, 503):
            self._resting.append(order_id)


async def offer(bench: Bench, rate: float, seconds: float, *, connections: int) -> Phase:
    """Send orders at a rate, 0 for as fast as they are answered, with the probe beside them."""
    phase = Phase(rate)
    probing = asyncio.create_task(Probe(bench.url, phase).run())
    loading = await begin_load(
        bench.url, seconds, websocket=False, rate=rate, connections=connections, batch=BATCH
    )
    found = await report_of(loading)
    probing.cancel()
    with suppress(asyncio.CancelledError):
        await probing
    phase.taken = found["orders_per_second"]
    return phase


async def freeze(bench: Bench, rate: float) -> tuple[Phase, float]:
    """Stop the matcher for a while under load; return how long orders then had to wait."""
    whole_s = FROZEN_AFTER_S + FROZEN_S + RECOVERED_S
    offering = asyncio.create_task(offer(bench, rate, whole_s, connections=OFFERING_CONNECTIONS))
    matcher = next(p for p in bench.processes if p.name.startswith("matcher"))
    await asyncio.sleep(FROZEN_AFTER_S)
    os.kill(_pid(matcher), signal.SIGSTOP)
    await asyncio.sleep(FROZEN_S)
    os.kill(_pid(matcher), signal.SIGCONT)
    going_on_s = time.monotonic()
    phase = await offering
    later = [at_s for at_s in phase.orders.accepted_at_s if at_s > going_on_s]
    return phase, min(later, default=going_on_s + RECOVERED_S) - going_on_s


def _pid(process: Any) -> int:
    assert process._child is not None
    pid: int = process._child.pid
    return pid


def sizes(bench: Bench) -> Iterator[tuple[str, int, int]]:
    """Yield the resident memory and the descriptors of each process of the exchange."""
    for process in bench.processes:
        if process._child is not None:
            found = psutil.Process(process._child.pid)
            yield process.name, found.memory_info().rss, found.num_fds()


async def measure(steady_s: float, twice_s: float) -> Measured:
    """Find the maximum, then offer parts and multiples of it."""
    async with running(**UNLIMITED) as bench:
        async with httpx.AsyncClient(base_url=bench.url, verify=False) as http:
            (await http.post("/instruments", json=PROBED)).raise_for_status()
        await offer(bench, 0, WARM_UP_S, connections=BATCH_CONNECTIONS)
        most = (await offer(bench, 0, FIND_S, connections=BATCH_CONNECTIONS)).taken
        tell(f"{most:,.0f} orders/s at most")
        lag = Lag()
        before = {name: (memory, fds) for name, memory, fds in sizes(bench)}
        async with sampler(bench.settings, lag) as sampling:
            sampling.set()
            steady = await offer(bench, STEADY * most, steady_s, connections=OFFERING_CONNECTIONS)
            sampling.clear()
        after = {name: (memory, fds) for name, memory, fds in sizes(bench)}
        tell("Twice as much")
        twice = await offer(bench, TWICE * most, twice_s, connections=OFFERING_CONNECTIONS)
        tell("With the matcher stopped")
        frozen, recovered_s = await freeze(bench, STEADY * most)
    return Measured(
        most,
        steady,
        twice,
        frozen,
        recovered_s,
        {name: after[name][0] / before[name][0] for name in before},
        {name: after[name][1] - before[name][1] for name in before},
        lag,
    )


def findings(measured: Measured) -> Findings:
    """Return what was taken and refused in each phase."""
    steady, twice = measured.steady, measured.twice
    phases = {"four fifths": steady, "twice": twice, "matcher stopped": measured.frozen}
    table = table_of("", "offered/s", "taken/s", "p99 ms", "orders taken", "cancels taken")
    for name, phase in phases.items():
        orders, cancels = phase.orders, phase.cancels
        figures = (phase.offered, phase.taken, orders.p99_ms)
        shares = (f"{orders.share:.0%}", f"{cancels.share:.0%}")
        table.add_row(name, *(f"{value:,.0f}" for value in figures), *shares)
    told = [told for phase in phases.values() for told in (phase.orders, phase.cancels)]
    codes = Counter[str]()
    for one in told:
        codes.update(one.refused)
    refused = ", ".join(f"{count} {code}" for code, count in codes.items()) or "none"
    name, grown = max(measured.grown.items(), key=lambda one: one[1])
    slowest = max(p99(seconds) for seconds in measured.lag.seconds.values())
    ratio = twice.orders.p99_ms / steady.orders.p99_ms
    cancels_more = twice.cancels.share - twice.orders.share
    silent = sum(one.without_retry_after for one in told)
    descriptors = max(measured.descriptors.values())
    limits: list[tuple[str, float, float]] = [
        ("p99 of a taken order at twice, of that at four fifths", ratio, 3),
        ("refusals without Retry-After", silent, 0),
        ("seconds until an order is taken after the stop", measured.recovered_s, 5),
        ("memory at four fifths, of what the process had before", grown, FLAT),
        ("descriptors more than before at four fifths", descriptors, OFFERING_CONNECTIONS),
        ("p99 of the slowest projection's lag at four fifths, s", slowest, 1),
    ]
    return Findings(
        f"{measured.most:,.0f} orders/s at most, in batches of {BATCH}; times and shares are the"
        " probe's",
        [table, f"the probe was refused: {refused}; the process that grew most: {name}"],
        [
            *(Goal(what, reached, wanted, at_most=True) for what, reached, wanted in limits),
            Goal("cancels taken at twice, less orders taken", cancels_more, 0),
        ],
        [
            histogram((1_000 * s for s in phase.orders.accepted_s), f"The probe's orders: {name}")
            for name, phase in phases.items()
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--steady", type=float, default=600, help="seconds at four fifths")
    parser.add_argument("--twice", type=float, default=30, help="seconds at twice the maximum")

    def measured(options: argparse.Namespace) -> Measured:
        return asyncio.run(measure(options.steady, options.twice))

    ask(parser, measured, findings)


if __name__ == "__main__":
    main()
