"""What does an order cost on two shards with two matchers, beside one?

Workload: ``exchange load`` over the stream, 100 connections, as fast as it goes; on an exchange of
one shard with one matcher, then on one of two with two, whose loads go to an instrument of each at
once. What is compared is the processor time per order of all processes together, since both have
the same two cores.

Not included: shards on machines of their own, an instrument that moves, TLS, a network.
"""

import asyncio
from dataclasses import dataclass

import httpx

from bench.load import CONNECTIONS, begin_load, report_of
from bench.runner import Findings, Goal, ask, parser_of, table_of
from bench.spent import Spent
from bench.venue import Bench, running

WARM_UP_S = 5


@dataclass(frozen=True, slots=True)
class Sharded:
    """What an exchange of some shards did; processor time in microseconds, by process."""

    shards: int
    rate: float
    us_per_order: dict[str, float]

    @property
    def us(self) -> float:
        """Of all processes together."""
        return sum(self.us_per_order.values())


async def measure(seconds: int) -> list[Sharded]:
    """Measure one shard, then two."""
    return [await sharded(shards, seconds) for shards in (1, 2)]


async def sharded(shards: int, seconds: int) -> Sharded:
    """Load an exchange of some shards, each with an instrument of its own."""
    async with running(shards=shards) as bench:
        instruments = [await register(bench, shard) for shard in range(shards)]
        await loaded(bench, instruments, WARM_UP_S)
        spent = Spent(bench.processes)
        spent.begin()
        accepted, rate = await loaded(bench, instruments, seconds)
        spent.end(accepted)
    return Sharded(shards, rate, spent.us_per_order())


async def register(bench: Bench, shard: int) -> str:
    """Register an instrument on a shard and return its name."""
    name = f"ON{shard}-USD"
    rules = {"price_scale": 2, "quantity_scale": 8, "tick_size": 0.01, "lot_size": 0.00000001}
    body = {"instrument": name, "base": f"ON{shard}", "quote": "USD", "shard": shard, **rules}
    async with httpx.AsyncClient(base_url=bench.url) as http:
        (await http.post("/instruments", json=body)).raise_for_status()
    return name


async def loaded(bench: Bench, instruments: list[str], seconds: int) -> tuple[int, float]:
    """Send orders for all instruments at once; return how many were accepted, and the rate."""
    each = CONNECTIONS // len(instruments)
    loads = [
        await begin_load(bench.url, seconds, websocket=True, connections=each, instrument=name)
        for name in instruments
    ]
    found = await asyncio.gather(*map(report_of, loads))
    accepted = sum(round(one["orders"] * one["success_rate"]) for one in found)
    return accepted, sum(float(one["orders_per_second"]) for one in found)


def findings(measured: list[Sharded]) -> Findings:
    """Return both, and how many times the one costs what the other does."""
    one, two = measured
    table = table_of("cpu us per order", "1 shard", "2 shards")
    names = sorted({_kind(name) for each in measured for name in each.us_per_order})
    for name in names:
        table.add_row(name, *(f"{_of_kind(each, name):,.0f}" for each in measured))
    table.add_row("all", *(f"{each.us:,.0f}" for each in measured))
    table.add_row("orders/s", *(f"{each.rate:,.0f}" for each in measured))
    return Findings(
        f"{CONNECTIONS} connections over the stream",
        [table],
        [Goal("an order on two shards, of one", two.us / one.us, 1.15, at_most=True)],
    )


def _kind(process: str) -> str:
    """Return what a process is: matcher-0 and matcher-1 are matchers."""
    return process.rpartition("-")[0] or process


def _of_kind(sharded: Sharded, kind: str) -> float:
    return sum(us for name, us in sharded.us_per_order.items() if _kind(name) == kind)


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, default=15, help="of load on each exchange")
    ask(parser, lambda o: asyncio.run(measure(o.seconds)), findings)


if __name__ == "__main__":
    main()
