"""The run directory: one holder, and clear words when it cannot be used."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from exchange.stack.host.directory import RUN, RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.stop import stop

HOLD = """
import sys
from pathlib import Path
from exchange.stack.host.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path, purpose: str = "") -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", HOLD, str(path), purpose]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_second_copy_is_refused_and_told_which_process_runs(tmp_path: Path) -> None:
    with (
        held_by_another(tmp_path) as holder,
        pytest.raises(StackError, match=rf"running here already \(process {holder.pid}\)"),
        RunDirectory(tmp_path).locked(),
    ):
        pass


def test_the_lock_ends_with_a_killed_holder(tmp_path: Path) -> None:
    with held_by_another(tmp_path):
        pass

    with RunDirectory(tmp_path).locked():
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_run_is_stopped_from_elsewhere_and_nothing_else_is(tmp_path: Path) -> None:
    assert stop(RunDirectory(tmp_path)) == f"Nothing runs in {tmp_path}."
    with (
        held_by_another(tmp_path, "restore") as restoring,
        pytest.raises(StackError, match=f"process {restoring.pid} holds .* no exchange run"),
    ):
        stop(RunDirectory(tmp_path))

    with held_by_another(tmp_path, RUN) as running:
        told = stop(RunDirectory(tmp_path))
        assert running.wait(30) == -signal.SIGTERM

    assert told.startswith(f"Stopped the exchange (process {running.pid})")
    assert stop(RunDirectory(tmp_path)) == f"Nothing runs in {tmp_path}."


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    in_the_way = tmp_path / "run"
    in_the_way.write_text("a file")  # root may write anywhere, so permissions would not show it

    with pytest.raises(StackError, match=rf"Cannot write to {in_the_way} \(.*make it writable"):
        RunDirectory(in_the_way).prepare()


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=199_999_999))

    with pytest.raises(StackError, match=r"is full \(199 MB free\): free at least 200 MB"):
        RunDirectory(tmp_path).prepare()


def test_what_another_user_left_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunDirectory(tmp_path).prepare()
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)

    with pytest.raises(StackError, match=r"belongs to another user: run as that user, or delete"):
        RunDirectory(tmp_path).prepare()
