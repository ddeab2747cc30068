"""How many orders a second does one gateway take over the stream, and how long does each wait?

Workload: ``exchange load --websocket`` (30 % at the market, uniform prices, 100 clients, a key
each), 100 connections, each with one order under way, in a process of its own; one gateway, one
matcher and one projector with every read model, all on this machine. An answer means that the
order is decided and durable.

In turns with it the same generator sends the same mix over HTTP, so the ratio is what the stream
saves; the HTTP figures here are lower than those of ``bench.orders``, whose generator costs less.

Not included: TLS, a network, more than one gateway, several orders under way on a connection.
The loop is closed: a stall shows in the rate and the highest latency, less in the percentiles.
"""

import asyncio
from statistics import median

from bench.load import CONNECTIONS, Found, each, load, waits_of
from bench.runner import Findings, ask, parser_of, spread, table_of
from bench.venue import running
from exchange.tools.market.waits import picture

WARM_UP_S = 3
WAYS = ("http", "stream")


async def measure(rounds: int, seconds: int) -> dict[str, list[Found]]:
    """Measure both ways in turns, after a warm-up of each that does not count."""
    found: dict[str, list[Found]] = {way: [] for way in WAYS}
    async with running() as bench:
        for number in range(rounds + 1):
            for way in WAYS:
                length_s = seconds if number else WARM_UP_S
                measured = await load(bench.url, length_s, websocket=way == "stream")
                if number:
                    found[way].append(measured)
    return found


def findings(found: dict[str, list[Found]]) -> Findings:
    """Return the medians over the rounds."""
    table = table_of("", "rate/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "not accepted")
    base = median(each(found["http"], "orders_per_second"))
    for way in WAYS:
        rates = each(found[way], "orders_per_second")
        times = [f"{median(each(found[way], 'latency_ms', p)):.0f}" for p in ("p50", "p95", "p99")]
        lost = sum(one["orders"] * (1 - one["success_rate"]) for one in found[way])
        table.add_row(way, spread(rates), f"{median(rates) / base:.2f}", *times, f"{lost:.0f}")
    return Findings(
        f"{len(found['http'])} rounds in turns, {CONNECTIONS} connections",
        [table],
        pictures=[picture(waits_of(found[way]), f"How long orders waited: {way}") for way in WAYS],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of HTTP and stream, in turns")
    parser.add_argument("--seconds", type=int, default=10, help="of each round")
    ask(parser, lambda o: asyncio.run(measure(o.rounds, o.seconds)), findings)


if __name__ == "__main__":
    main()
