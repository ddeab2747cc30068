"""``promtool``, which checks Prometheus' files: the one in PATH, or Debian's, unpacked for us.

Nobody need be root or install anything: apt fetches the package, whose signature it checks, into a
directory of this checkout, and only the program is kept. Where there is no apt, a line says what to
install.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exchange.config import PROJECT
from exchange.stack.host.errors import StackError

KEPT: Final = PROJECT / ".run" / "promtool" / "promtool"
FETCH_TIMEOUT_S: Final = 300  # 33 MB on a slow line
MISSING: Final = (
    "promtool is missing: install Prometheus (macOS: brew install prometheus; Fedora: dnf install"
    " golang-github-prometheus), or put the promtool of any release since 2.42 into PATH."
)


def promtool() -> str:
    """Return the path of ``promtool``, after fetching it if need be.

    Raises:
        StackError: It is not there, and cannot be fetched here.
    """
    found = shutil.which("promtool")
    if found is not None:
        return found
    if not KEPT.is_file():
        _fetch()
    return str(KEPT)


def _fetch() -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise StackError(MISSING)
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT.parent, prefix="unfinished-") as name:
        directory = Path(name)
        package = _download(directory)
        _run("dpkg-deb", "--extract", str(package), "unpacked", directory=directory)
        # In one step, so that an interrupted fetch leaves nothing that looks finished.
        (directory / "unpacked" / "usr" / "bin" / "promtool").rename(KEPT)


def _download(directory: Path) -> Path:
    """Return the package, by the machine's own lists or, if it has none, by lists of ours."""
    lists, cache = directory / "lists", directory / "cache"
    for made in (lists / "partial", cache / "archives" / "partial"):
        made.mkdir(parents=True)
    ours = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}")
    said = _run("apt-get", "download", "prometheus", directory=directory)
    if not any(directory.glob("*.deb")):
        # A source that is away is an error of apt's, though another one may have the package.
        _run("apt-get", *ours, "update", directory=directory)
        said = _run("apt-get", *ours, "download", "prometheus", directory=directory)
    found = next(directory.glob("*.deb"), None)
    if found is None:
        raise StackError(f"{MISSING} Fetching Debian's package failed: {said}")
    return found


def _run(*argv: str, directory: Path) -> str:
    """Run a command and return what it said, whether or not it did what it should."""
    environ = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        argv,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FETCH_TIMEOUT_S,
        check=False,
    )
    return done.stdout.strip()


def check(arguments: Sequence[str]) -> str:
    """Return what ``promtool`` finds wrong, empty if nothing."""
    done = subprocess.run(
        [promtool(), *arguments], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
