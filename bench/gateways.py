"""What does a second gateway on the machine bring, and what does a gateway do with retries alone?

Workload: that of ``bench.orders``, single orders over HTTP by wrk, on an exchange of two gateways.
In turns: 100 connections to the first alone; 100 to each of both at once. Then retries: orders that
the first gateway took in a warm-up (some ``--placed`` of them) are sent again to the second, which
has never seen them, drawn evenly from all; it reads the answers from the log. Beside them fresh
orders over as many connections, in turns.

The limit of two gateways is the machine: how much of its processors is used is in the table, wrk
counted. That of retries is the rate of fresh orders.

Not included: gateways on machines of their own, TLS, a network.
"""

import asyncio
import math
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import psutil

from bench.runner import Findings, Goal, ask, parser_of, spread, table_of
from bench.venue import running, tell
from bench.wrk import CONNECTIONS, Round, require_wrk, wrk
from exchange.tools.market.waits import Wait, buckets, picture

PLACED: Final = 100_000
WARM_UP_S: Final = 5
BOTH: Final = "How long orders to two gateways waited"
AGAIN: Final = "How long retries waited"


@dataclass(frozen=True, slots=True)
class Turn:
    """What the gateways that were loaded in one turn did, and how much of the machine was used."""

    gateways: list[Round]
    cores_used: float

    @property
    def rate(self) -> float:
        """Orders a second, of all gateways."""
        return sum(one.rate for one in self.gateways)

    @property
    def p50_ms(self) -> float:
        """Of the slower gateway."""
        return max(one.p50_ms for one in self.gateways)

    @property
    def fairness(self) -> float:
        """The slower gateway's rate as a part of the faster one's."""
        rates = [one.rate for one in self.gateways]
        return min(rates) / max(rates)


@dataclass(frozen=True, slots=True)
class Measured:
    """The turns, and of how many orders the retries were drawn."""

    placed: int = 0
    one: list[Turn] = field(default_factory=list)
    two: list[Turn] = field(default_factory=list)
    fresh: list[Turn] = field(default_factory=list)
    retries: list[Turn] = field(default_factory=list)
    waits: dict[str, list[Wait]] = field(default_factory=dict)  # of two gateways, and of retries


async def turn(
    urls: list[str],
    run: str,
    seconds: int,
    drawn_from: int = 0,
    waits: list[Wait] | None = None,
) -> Turn:
    """Load some gateways at once."""
    cores = psutil.cpu_count() or 1
    psutil.cpu_percent()
    rounds = await asyncio.gather(
        *(
            wrk(
                url,
                f"{run}-{number}" if not drawn_from else run,
                seconds,
                drawn_from=drawn_from,
                waits=waits,
            )
            for number, url in enumerate(urls)
        )
    )
    return Turn(rounds, psutil.cpu_percent() / 100 * cores)


async def measure(rounds: int, seconds: int, placed: int) -> Measured:
    """Measure in turns, after a warm-up that does not count."""
    async with running(gateways=2) as bench:
        first, second = bench.urls
        await wrk(second, "warm-2", WARM_UP_S)
        warm = await wrk(first, "warm-1", WARM_UP_S)
        tell(f"Placing some {placed:,} orders to send again")
        loaded = await wrk(first, "placed", math.ceil(placed / warm.rate))
        # The last of each connection may not have been sent.
        measured = Measured(loaded.requests - CONNECTIONS)
        both, again = (measured.waits.setdefault(name, []) for name in (BOTH, AGAIN))
        for number in range(rounds):
            measured.one.append(await turn([first], f"one-{number}", seconds))
            measured.two.append(await turn([first, second], f"two-{number}", seconds, 0, both))
            measured.fresh.append(await turn([second], f"fresh-{number}", seconds))
            retried = await turn([second], "placed", seconds, measured.placed, again)
            measured.retries.append(retried)
    return measured


def findings(measured: Measured) -> Findings:
    """Return the medians over the rounds."""
    table = table_of("", "rate/s", "p50 ms", "slower / faster", "cores used", "errors")
    for name, turns in (
        ("one gateway", measured.one),
        ("two gateways", measured.two),
        ("fresh orders to the second", measured.fresh),
        ("retries to the second", measured.retries),
    ):
        errors = sum(one.refused + one.broken for turn in turns for one in turn.gateways)
        table.add_row(
            name,
            spread([turn.rate for turn in turns]),
            f"{median(turn.p50_ms for turn in turns):.0f}",
            f"{median(turn.fairness for turn in turns):.2f}",
            f"{median(turn.cores_used for turn in turns):.2f}",
            str(errors),
        )
    one, two, fresh, retries = (
        median(turn.rate for turn in turns)
        for turns in (measured.one, measured.two, measured.fresh, measured.retries)
    )
    fresh_ms, retries_ms = (
        median(turn.p50_ms for turn in turns) for turns in (measured.fresh, measured.retries)
    )
    return Findings(
        f"{len(measured.one)} rounds in turns, {CONNECTIONS} connections to a gateway;"
        f" retries of {measured.placed:,} orders",
        [table],
        [
            Goal("two gateways, of the rate of one", two / one, 1),
            Goal("cores used with two", median(turn.cores_used for turn in measured.two), 1.75),
            Goal("the slower of two, of the faster", median(t.fairness for t in measured.two), 0.9),
            Goal("retries, of the rate of fresh orders", retries / fresh, 1),
            Goal("p50 of retries, of that of fresh orders", retries_ms / fresh_ms, 1, at_most=True),
        ],
        [picture(buckets(waits), title) for title, waits in measured.waits.items()],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of each part of a round")
    parser.add_argument("--placed", type=int, default=PLACED, help="orders to send again, some")
    require_wrk()
    ask(parser, lambda o: asyncio.run(measure(o.rounds, o.seconds, o.placed)), findings)


if __name__ == "__main__":
    main()
