"""How a process runs and ends: at a signal, with an error, or refused at the start."""

import asyncio
import os
import re
import signal
import subprocess
import sys

import pytest

from exchange.config import PROJECT
from exchange.processes.running import cancelled_by, serve_until_stopped

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@BOTH
def test_a_process_that_has_something_to_finish_is_told_of_a_signal(number: int) -> None:
    told: list[str] = []

    async def work(stopping: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await stopping.wait()
        told.append("finished")

    serve_until_stopped(work)

    assert told == ["finished"]


@BOTH
def test_a_process_that_can_end_at_any_moment_is_cancelled_by_a_signal(number: int) -> None:
    told: list[str] = []

    async def main() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            told.append("closed")

    serve_until_stopped(lambda stopping: cancelled_by(stopping, main()))

    assert told == ["closed"]


def test_a_process_that_fails_says_so() -> None:
    async def main() -> None:
        raise OSError("no memory")

    with pytest.raises(OSError, match="no memory"):
        serve_until_stopped(lambda stopping: cancelled_by(stopping, main()))


def test_an_optimised_python_is_refused() -> None:
    command = [sys.executable, "-O", "-m", "exchange", "verify"]

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)

    assert (done.returncode, done.stdout) == (1, "")
    assert "PYTHONOPTIMIZE" in done.stderr


def test_one_module_alone_handles_the_signals_of_a_process() -> None:
    handlers = re.compile(r"add_signal_handler|signal\.signal\(")
    owners = [
        path.name
        for folder in ("exchange/processes", "exchange/gateway", "projections")
        for path in (PROJECT / folder).rglob("*.py")
        if handlers.search(path.read_text())
    ]

    assert owners == ["running.py"]
