"""``exchange load`` as the generator of orders, in a process of its own, and what it reports."""

import asyncio
import statistics
import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec

from exchange.config import PROJECT
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.tools.market.waits import Wait

CONNECTIONS = 100

Found = dict[str, Any]


async def load(
    base_url: str,
    seconds: float,
    *,
    websocket: bool,
    rate: float = 0,
    connections: int = CONNECTIONS,
) -> Found:
    """Run the load and return what it reports."""
    loading = await begin_load(
        base_url, seconds, websocket=websocket, rate=rate, connections=connections
    )
    return await report_of(loading)


async def begin_load(
    base_url: str,
    seconds: float,
    *,
    websocket: bool,
    rate: float = 0,
    connections: int = CONNECTIONS,
    instrument: str = INSTRUMENT_DEFAULT,
    batch: int = 1,
) -> asyncio.subprocess.Process:
    """Start the load, which ends after some seconds, or when it is interrupted."""
    argv = [sys.executable, "-m", "exchange", "load", "--json", "--base-url", base_url]
    argv += ["--total", "0", "--duration", str(seconds), "--connections", str(connections)]
    argv += ["--instrument", instrument, "--rate", str(rate), "--batch", str(batch)]
    if websocket:
        argv.append("--websocket")
    return await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, cwd=PROJECT)


async def report_of(process: asyncio.subprocess.Process) -> Found:
    """Wait for the end of a load and return what it reports."""
    output, _ = await process.communicate()
    found: Found = msgspec.json.decode(output)
    return found


def each(rounds: list[Found], *keys: str) -> list[float]:
    """Return a figure of every round."""
    values: list[Any] = rounds
    for key in keys:
        values = [value[key] for value in values]
    return [float(value) for value in values]


def waits_of(rounds: list[Found]) -> list[Wait]:
    """Return how long the orders of all rounds waited, by the bounds that a load reports."""
    orders: Counter[float] = Counter()
    for found in rounds:
        orders.update({bucket["up_to"]: bucket["orders"] for bucket in found["histogram_ms"]})
    return sorted(orders.items())


def median(rounds: list[Found], *keys: str) -> float:
    """Return the median of a figure over the rounds."""
    return statistics.median(each(rounds, *keys))
