"""The directory of one stack: its data, logs and pid files, held by one supervisor at a time.

The lock is the kernel's (``flock``), so it ends with its holder however that dies; what the holder
started may live on, and ``stop_orphans`` finds it by the pid files.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exchange.stack.host.child import stop_orphans
from exchange.stack.host.errors import StackError

SERVICES = ("kafka", "postgres", "valkey")
RUN = "run"  # what the holder of the lock does: it runs the exchange, and a signal ends it in order
FREE_BYTES_MIN = 200_000_000  # with less, the services stop with errors that are hard to read


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where everything of one stack is kept."""

    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def pids(self) -> Path:
        return self.path / "pids"

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def pid_of(self, name: str) -> Path:
        return self.pids / f"{name}.pid"

    def prepare(self) -> None:
        """Make the directory.

        Raises:
            StackError: It cannot be written to, is another user's, or its disk is full.
        """
        try:
            for directory in (self.path, self.logs, self.pids):
                directory.mkdir(parents=True, exist_ok=True)
            probe = self.path / "writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StackError(
                f"Cannot write to {self.path} ({error.strerror}):"
                " make it writable for this user, or move the project."
            ) from error
        self._check_owner()
        check_space(self.path)

    def _check_owner(self) -> None:
        """Refuse what another user's run has left: it would fail later, one file at a time."""
        if os.geteuid() == 0:
            return
        for path in (*self.path.glob("*"), *self.path.glob("*/*")):
            if path.lstat().st_uid != os.geteuid():
                raise StackError(
                    f"{path} belongs to another user: run as that user, or delete {self.path}."
                )

    @contextmanager
    def locked(self, purpose: str = "") -> Iterator[None]:
        """Hold the directory for this process alone, and note what for.

        Raises:
            StackError: Another process holds it.
        """
        with (self.path / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                pid = next(iter(lock.read().split()), "?")
                raise StackError(
                    f"The exchange is running here already (process {pid}):"
                    " stop it with Ctrl-C where it runs, or make stop, or use another clone."
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()} {purpose}".rstrip())
            lock.flush()
            yield

    def holder(self) -> tuple[int, str] | None:
        """Return the process that holds the directory and what for; None if there is none."""
        try:
            with (self.path / "lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    pid, _, purpose = lock.read().partition(" ")
                    return (int(pid), purpose) if pid.isdecimal() else None
        except FileNotFoundError:
            pass
        return None

    def stop_orphans(self) -> list[str]:
        """Stop what a killed supervisor left running; call only when ``locked``.

        Returns:
            The names of what was still running.
        """
        found = sorted(self.pids.glob("*.pid"))
        services = [path for path in found if path.stem in SERVICES]
        processes = [path for path in found if path.stem not in SERVICES]
        return stop_orphans(processes) + stop_orphans(services)  # each may need what comes after it


def check_space(path: Path) -> None:
    """Refuse a path whose disk has no room for what the services write.

    Raises:
        StackError: Its disk is full.
    """
    free = shutil.disk_usage(path).free
    if free < FREE_BYTES_MIN:
        raise StackError(
            f"The disk of {path} is full ({free // 1_000_000} MB free):"
            f" free at least {FREE_BYTES_MIN // 1_000_000} MB."
        )
