"""One child process: started, watched, restarted and stopped.

Read ``ManagedProcess``. What always holds: a child has a session of its own, so a Ctrl-C in the
terminal reaches only its parent; its output goes to a file; while it may be running a pid file says
so, with the time it started, so that a later run can stop what a killed parent left behind
(``stop_orphans``) and never touches a process that was given the same number since. Stopping always
ends: the signal, a bounded wait, SIGKILL. Starting and stopping exclude each other, so that no stop
misses a child that is just being started.
"""

import asyncio
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from exchange.stack.host.errors import StackError

logger = logging.getLogger(__name__)

LOG_BYTES_MAX = 50_000_000  # of one process's file; a second file has what was moved out
LOG_CHECK_S = 10.0  # a process that writes 5 MB a second doubles its file meanwhile
STOP_TIMEOUT_S = 10.0  # every process here stops within two seconds when it is healthy
START_TIME_TOLERANCE_S = (
    2.0  # the system's boot time, which start times count from, may be adjusted
)
LOG_TAIL_BYTES = 4096  # enough for the last message of a log
BELONGS_TO_MESSAGE: Final = re.compile(r"\b(DETAIL|HINT|CONTEXT|STATEMENT|QUERY):")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a process that died is started again."""

    first_s: float = 0.2
    longest_s: float = 10.0  # the longest wait after the cause was mended
    healthy_after_s: float = 30.0  # up for this long means that the cause is gone

    def next_s(self, last_s: float, up_s: float) -> float:
        """Return the next wait, after one of ``last_s`` (0: none yet) and ``up_s`` of running."""
        if last_s == 0 or up_s >= self.healthy_after_s:
            return self.first_s
        return min(last_s * 2, self.longest_s)


@dataclass(frozen=True, slots=True)
class Account:
    """Another user whom a child runs as."""

    uid: int
    gid: int


def run_as(account: Account | None) -> dict[str, Any]:
    """Return what ``subprocess`` takes to run a child as ``account``."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


# How a run of a process ended: its exit code (negative: the signal), or why it could not start.
Ending = int | OSError


class PidFile(msgspec.Struct, frozen=True):
    """What a later run needs to know to stop a process that it did not start."""

    pid: int
    started_at: float
    stop_signal: int


def last_message(lines: Sequence[str]) -> str:
    """Return the last line, with those before it that it belongs to; "" if there is none.

    PostgreSQL writes detail and hint on lines of their own, below the message.
    """
    at = len(lines) - 1
    while at > 0 and BELONGS_TO_MESSAGE.search(lines[at]):
        at -= 1
    return " ".join(lines[max(0, at) :])


@dataclass(slots=True)
class ManagedProcess:
    """A child process that can be started, stopped and started again."""

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    account: Account | None = None
    pid_path: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = STOP_TIMEOUT_S
    backoff: Backoff = field(default_factory=Backoff)
    starts: int = 0
    _child: asyncio.subprocess.Process | None = None
    _started_s: float = 0.0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was not started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Start the process; it may take a while until it does its work (see ``until_ready``).

        Raises:
            StackError: The system refuses to.
        """
        async with self._changing:
            assert not self.running, f"{self.name} is running already"
            self._stopping.clear()
            try:
                await self._spawn()
            except OSError as error:
                raise StackError(f"{self.name} cannot be started: {error}") from error

    async def _spawn(self) -> None:
        self._started_s = time.monotonic()
        bound_log(self.log_path)
        with self.log_path.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
                **run_as(self.account),
            )
        self.starts += 1
        try:
            self._write_pid_file(self._child.pid)
        except OSError:
            await self._end()  # a later run could not find it
            raise

    async def wait(self) -> int:
        """Wait until the process has ended and return its exit code (negative: the signal)."""
        assert self._child is not None, f"{self.name} was not started"
        return await self._child.wait()

    async def until_ready(self, probe: Awaitable[None], timeout_s: float) -> None:
        """Wait for ``probe``, but no longer than the process lives.

        Raises:
            StackError: The process ended first, or the time is up.
        """
        probing = asyncio.ensure_future(probe)
        ending = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait(
                {probing, ending}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if probing.done():
                probing.result()
            elif ending.done():
                raise StackError(f"{self.name} stopped while starting: {self.last_words()}")
            else:
                raise StackError(
                    f"{self.name} was not ready after {timeout_s:.0f} s: see {self.log_path}"
                )
        finally:
            probing.cancel()
            ending.cancel()
            await asyncio.gather(probing, ending, return_exceptions=True)

    def last_words(self) -> str:
        """Return the last message of the log and where the rest is."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
        spoken = [words for line in lines if (words := line.strip(" |+-"))]  # frames of tracebacks
        return f"{last_message(spoken) or 'it said nothing'} (see {self.log_path})"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; nothing happens when it has ended."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self) -> None:
        """Ask the process to end, wait, then kill what is left of its session."""
        async with self._changing:
            self._stopping.set()
            if self._child is None:
                return
            self.signal(self.stop_signal)
            try:
                await asyncio.wait_for(self._child.wait(), self.stop_timeout_s)
            except TimeoutError:
                logger.warning("Killing a process that did not stop", extra={"child": self.name})
            await self._end()

    async def kill(self) -> None:
        """End the process and every process of its session at once."""
        async with self._changing:
            self._stopping.set()
            await self._end()

    async def _end(self) -> None:
        if self._child is None:
            return
        _kill_session(self._child.pid)
        await self._child.wait()
        self._child = None
        if self.pid_path:
            self.pid_path.unlink(missing_ok=True)

    async def keep_running(
        self, on_exit: Callable[["ManagedProcess", Ending, float], None] = lambda *_: None
    ) -> None:
        """Start the process again whenever it ends, until ``stop`` or ``kill``.

        Args:
            on_exit: Told of each end: the process, how it ended, the seconds until the next start.
        """
        delay_s = 0.0
        ending = await self._ending()
        while not self._stopping.is_set():
            delay_s = self.backoff.next_s(delay_s, time.monotonic() - self._started_s)
            on_exit(self, ending, delay_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
                return
            ending = await self._run_again()

    async def _run_again(self) -> Ending:
        try:
            async with self._changing:
                if self._stopping.is_set():
                    return 0
                await self._spawn()
        except OSError as error:  # a full disk, say: it may be mended
            return error
        return await self._ending()

    async def _ending(self) -> Ending:
        waiting = asyncio.ensure_future(self.wait())
        try:
            while not (await asyncio.wait({waiting}, timeout=LOG_CHECK_S))[0]:
                await self._bound_log()
        finally:
            waiting.cancel()
        code = waiting.result()
        if not self._stopping.is_set():
            _kill_session(self.pid)  # workers that outlive their parent hold its port
        return code

    async def _bound_log(self) -> None:
        try:
            await asyncio.to_thread(bound_log, self.log_path)
        except OSError:
            logger.warning("A log was not set aside", extra={"child": self.name}, exc_info=True)

    def _write_pid_file(self, pid: int) -> None:
        if self.pid_path is None:
            return
        with suppress(psutil.NoSuchProcess):  # it ended already: nothing to find later
            entry = PidFile(pid, psutil.Process(pid).create_time(), self.stop_signal)
            unfinished = self.pid_path.with_suffix(".new")
            unfinished.write_bytes(msgspec.json.encode(entry))
            unfinished.rename(self.pid_path)


def bound_log(log: Path) -> None:
    """Move the content of a large log to ``.log.1``, over what that held, and empty the log.

    The process that writes it goes on in the same file, which it has open for appending. Lines that
    are written during the copy are lost.
    """
    if not log.exists() or log.stat().st_size <= LOG_BYTES_MAX:
        return
    try:
        shutil.copyfile(log, log.with_suffix(".log.1"))
    finally:
        os.truncate(log, 0)  # also if the disk is full


def stop_orphans(pid_paths: Sequence[Path], timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
    """Stop the processes that ``pid_paths`` name and that still run; delete the files.

    Returns:
        The names of those that ran.
    """
    orphans = {path: orphan for path in pid_paths if (orphan := _find_orphan(path))}
    for process, stop_signal in orphans.values():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(stop_signal)
            process.send_signal(signal.SIGCONT)  # a frozen one cannot obey
    processes = [process for process, _ in orphans.values()]
    psutil.wait_procs(processes, timeout=timeout_s)
    for process in processes:
        _kill_session(process.pid)
    psutil.wait_procs(processes, timeout=timeout_s)
    for path in pid_paths:
        path.unlink(missing_ok=True)
    return [path.stem for path in orphans]


def _find_orphan(pid_path: Path) -> tuple[psutil.Process, int] | None:
    try:
        entry = msgspec.json.decode(pid_path.read_bytes(), type=PidFile)
        process = psutil.Process(entry.pid)
        started_at = process.create_time()
    except (psutil.NoSuchProcess, msgspec.DecodeError, FileNotFoundError):
        return None
    if abs(started_at - entry.started_at) > START_TIME_TOLERANCE_S:
        return None
    return process, entry.stop_signal


def _kill_session(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone; macOS: only zombies are left
        os.killpg(pid, signal.SIGKILL)
