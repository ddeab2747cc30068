"""The commands of operators against a running exchange.

``begun`` starts one as a process of its own; ``run`` spares the second that Python takes to start.
"""

import asyncio
import json
import sys
import threading
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.config import PROJECT
from exchange.tools.terminal import ToolError
from tests.running import Exchange

TIMEOUT_S = 120.0
OPERATOR = "somebody"
WIDTH = 100
ALONE = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it printed as JSON, a document a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def told(self) -> str:
        """What it said, on either stream."""
        return self.out + self.err


def environment_of(exchange: Exchange, operator: str) -> dict[str, str]:
    """Return the variables with which a command finds the exchange."""
    with ALONE:  # a command in another thread changes those of this process meanwhile
        found = exchange.settings.environment()
    return {**found, "BASE_URL": exchange.urls[0], "OPERATOR": operator, "COLUMNS": str(WIDTH)}


async def begun(exchange: Exchange, *arguments: str, operator: str = OPERATOR) -> Process:
    """Start a command as a process."""
    environment = await asyncio.to_thread(environment_of, exchange, operator)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exchange", *arguments),
        cwd=PROJECT,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=PIPE,
        stderr=PIPE,
    )


async def ended(process: Process) -> Ended:
    """Wait for the end of a process."""
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def run(exchange: Exchange, *arguments: str, operator: str = OPERATOR) -> Ended:
    """Run a command to its end, within this process."""
    environment = await asyncio.to_thread(environment_of, exchange, operator)
    return await run_with(environment, *arguments)


async def run_with(environment: dict[str, str], *arguments: str) -> Ended:
    """Run a command to its end, within this process, where it finds what it needs."""

    def invoked() -> Result:
        with ALONE:  # it takes the output of this whole process
            return CliRunner().invoke(app, arguments, env=environment)

    result = await asyncio.to_thread(invoked)
    if isinstance(result.exception, ToolError):  # as ``main`` tells it
        return Ended(1, result.stdout, f"{result.stderr}{result.exception}\n")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


async def done(exchange: Exchange, *arguments: str, operator: str = OPERATOR) -> Ended:
    """Run a command that must succeed, within this process."""
    found = await run(exchange, *arguments, operator=operator)
    assert found.code == 0, (arguments, found)
    return found
