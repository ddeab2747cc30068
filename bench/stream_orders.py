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

import argparse
import asyncio
import statistics
import subprocess
import sys
from typing import Any

import msgspec
from rich.console import Console

from bench.venue import machine, running, table_of
from exchange.config import PROJECT

CONNECTIONS = 100
WARM_UP_S = 3
WAYS = ("http", "stream")

Found = dict[str, Any]


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description="Orders per second over the stream.")
    parser.add_argument("--rounds", type=int, default=3, help="of HTTP and stream, in turns")
    parser.add_argument("--seconds", type=int, default=10, help="of each round")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    found = asyncio.run(measure(options.rounds, options.seconds))
    if options.json:
        print(msgspec.json.encode({"machine": machine(), **found}).decode())
    else:
        show(found)


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


async def load(base_url: str, seconds: float, *, websocket: bool, rate: float = 0) -> Found:
    """Run the load in a process of its own and return what it reports."""
    return await report_of(await begin_load(base_url, seconds, websocket=websocket, rate=rate))


async def begin_load(
    base_url: str, seconds: float, *, websocket: bool, rate: float = 0
) -> asyncio.subprocess.Process:
    """Start the load, which ends after some seconds, or when it is interrupted."""
    argv = [sys.executable, "-m", "exchange", "load", "--json", "--base-url", base_url]
    argv += ["--total", "0", "--duration", str(seconds), "--connections", str(CONNECTIONS)]
    argv += ["--rate", str(rate), *(["--websocket"] if websocket else [])]
    return await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, cwd=PROJECT)


async def report_of(process: asyncio.subprocess.Process) -> Found:
    """Wait for the end of a load and return what it reports."""
    output, _ = await process.communicate()
    found: Found = msgspec.json.decode(output)
    return found


def show(found: dict[str, list[Found]]) -> None:
    """Print the medians over the rounds."""
    console = Console()
    rounds = len(found["http"])
    console.print(f"{rounds} rounds in turns, {CONNECTIONS} connections, {machine()}")
    table = table_of("", "rate/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "not accepted")
    base = median(found["http"], "orders_per_second")
    for way in WAYS:
        rate = median(found[way], "orders_per_second")
        times = [f"{median(found[way], 'latency_ms', p):.0f}" for p in ("p50", "p95", "p99")]
        lost = sum(one["orders"] * (1 - one["success_rate"]) for one in found[way])
        table.add_row(way, f"{rate:,.0f}", f"{rate / base:.2f}", *times, f"{lost:.0f}")
    console.print(table)


def median(rounds: list[Found], *keys: str) -> float:
    """Return the median of a figure over the rounds."""
    values: list[Any] = rounds
    for key in keys:
        values = [value[key] for value in values]
    return float(statistics.median(values))


if __name__ == "__main__":
    main()
