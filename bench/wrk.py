"""wrk as the generator of single orders over HTTP, and what it measures."""

import asyncio
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exchange.tools.market.waits import Wait

CONNECTIONS = 100
LUA = Path(__file__).with_name("orders.lua")


@dataclass(frozen=True, slots=True)
class Round:
    """What wrk measured in one round; times in milliseconds."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    refused: int
    broken: int
    generator_cpu: float


def require_wrk() -> None:
    """End with one line if wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install it, for example with `apt-get install wrk`.")


async def wrk(
    url: str,
    run: str,
    seconds: int,
    connections: int = CONNECTIONS,
    *,
    drawn_from: int = 0,
    waits: list[Wait] | None = None,
) -> Round:
    """Run the generator once.

    Args:
        url: Of the gateway.
        run: Begins the orders' keys; the orders of two runs of a name are the same.
        seconds: How long.
        connections: At once; each has one order under way.
        drawn_from: Send orders of that run again, drawn from as many of its first ones; 0: no.
        waits: Gets how long the requests waited, in parts of half a percent.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    argv += ["-s", str(LUA), url, "--", run, "1", str(drawn_from)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = msgspec.json.decode(output.splitlines()[-1])
    if waits is not None:
        told = found["waits_us"]
        waits.extend((wait_us / 1e3, found["requests"] / len(told)) for wait_us in told)
    elapsed_s = found["duration_us"] / 1e6
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(
        rate=found["requests"] / elapsed_s,
        **{f"{name}_ms": found[f"{name}_us"] / 1e3 for name in ("p50", "p95", "p99", "max")},
        requests=found["requests"],
        refused=found["refused"],
        broken=found["broken"],
        generator_cpu=cpu_s / elapsed_s,
    )
