"""A comparison of a generation with the log: ``exchange verify-projection``, in a process below.

It takes a processor for minutes, which the desk does not have, and goes last of all. One runs at a
time. A desk that ends, ends it: no row was changed, and it can be begun again. Who asked for it and
why is a row in ``operations``.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any, Final

from exchange.config import Settings
from exchange.tools.projections.changes import Changed
from exchange.tools.projections.stores import Stores
from exchange.tools.terminal import counted
from projections.lifecycle.changes import By, Life, Refused, note_operation
from projections.lifecycle.generations import generations_of

VERIFY: Final = "verify"

NICENESS: Final = "5"  # more than the desk: whoever serves or looks goes first
LINES_MAX: Final = 5  # of what it says of its progress
LINE_CHARACTERS_MAX: Final = 500
ENDED_S: Final = 5.0  # a process that was asked to end has nothing to finish


class Comparisons:
    """Runs comparisons, and tells of the last one."""

    def __init__(self, settings: Settings) -> None:
        self._environment = settings.environment()
        self._told: dict[str, Any] | None = None
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._running: asyncio.Task[None] | None = None

    @property
    def told(self) -> dict[str, Any] | None:
        """Which comparison is the last one, how far it is or how it ended; None if none was."""
        return self._told and {**self._told, "lines": list(self._lines)}

    async def begin(
        self, opened: Stores, projection: str, generation: int | None, by: By
    ) -> Changed:
        """Begin to compare a generation, by default the live one, and note who asked and why.

        Raises:
            Refused: Another comparison runs, or there is no such generation.
        """
        if self._running is not None and not self._running.done():
            assert self._told is not None
            what = f"{self._told['projection']} {self._told['generation']}"
            raise Refused(f"{what} is being compared with the log; one at a time.")
        life = Life(projection, await generations_of(opened.connection, projection))
        target = life.live if generation is None else life.get(generation)
        if target is None or not target.is_built:
            raise Refused(f"{projection} has no such generation whose rows are complete.")
        number = target.generation
        note = (opened.connection, by, VERIFY, projection, number, number)
        await note_operation(*note)
        self._lines.clear()
        self._told = {
            "projection": projection,
            "generation": number,
            "operator": by.operator,
            "begun_ms": time.time_ns() // 1_000_000,
            "ended": None,
        }
        self._running = asyncio.create_task(self._run(projection, number, by))
        told = f"Generation {number} of {projection} is being compared with the log."
        return Changed(projection, [number], told)

    async def close(self) -> None:
        """End the comparison that runs."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self, projection: str, number: int, by: By) -> None:
        child = await asyncio.create_subprocess_exec(
            *("nice", "-n", NICENESS, sys.executable, "-m", "exchange"),
            *("verify-projection", projection),
            *("--generation", str(number), "--json"),
            env={**self._environment, "OPERATOR": by.operator},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        out, code = b"", 1
        try:
            reading = asyncio.create_task(self._read(child.stderr))
            out = await child.stdout.read()
            await reading
            code = await child.wait()
        finally:
            await _end(child)
            assert self._told is not None
            self._told["ended"] = ended(out, code, list(self._lines))

    async def _read(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            text = line.decode(errors="replace").strip()[:LINE_CHARACTERS_MAX]
            if text:
                self._lines.append(text)


def ended(out: bytes, code: int, lines: list[str]) -> dict[str, Any]:
    """Return how a comparison ended: whether all rows are the same, and a sentence."""
    try:
        found = json.loads(out)
    except ValueError:
        why = lines[-1] if lines else f"exit code {code}"
        return {"same": None, "message": f"It could not be compared: {why}"}
    rows = counted(found["rows"], "row")
    if found["different"]:
        verb = "differs" if found["different"] == 1 else "differ"
        told = f"{found['different']:,} of {rows} {verb} from the log"
    else:
        told = f"{rows}, none differs from the log, digest {found['digest']}"
    at = ",".join(f"{shard}:{position}" for shard, position in sorted(found["positions"].items()))
    return {"same": not found["different"], "message": f"At {at}: {told}."}


async def _end(child: asyncio.subprocess.Process) -> None:
    """End a process that still runs: it only reads, and has nothing to finish."""
    if child.returncode is not None:
        return
    child.terminate()
    try:
        async with asyncio.timeout(ENDED_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
