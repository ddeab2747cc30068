"""One child process: when it is started again, and that nothing of it survives."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from exchange.stack.host import child as child_module
from exchange.stack.host.child import (
    Backoff,
    Ending,
    ManagedProcess,
    PidFile,
    bound_log,
    last_message,
    stop_orphans,
)
from exchange.stack.host.errors import StackError

pytestmark = pytest.mark.anyio

SLEEP = "import time; time.sleep(60)"
IGNORE_TERM = (
    f"import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
)
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print(child.pid, flush=True)
child.wait()
"""
WRITER = """
import itertools, time
for n in itertools.count():
    print(n, "x" * 1_000, flush=True)
    time.sleep(0.001)
"""
QUICK = Backoff(first_s=0.01, longest_s=0.04, healthy_after_s=30)

Make = Callable[..., ManagedProcess]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make processes of Python code, which end with the test."""
    made: list[ManagedProcess] = []

    def make_process(code: str, **options: object) -> ManagedProcess:
        process = ManagedProcess(
            "child",
            (sys.executable, "-c", code),
            log_path=tmp_path / "child.log",
            pid_path=tmp_path / "child.pid",
            **options,  # type: ignore[arg-type]
        )
        made.append(process)
        return process

    yield make_process
    for process in made:
        await process.kill()


async def until_said(process: ManagedProcess) -> str:
    """Wait for the first line that the process prints."""
    while not (said := process.log_path.read_text()).endswith("\n"):
        await asyncio.sleep(0.01)
    return said.splitlines()[0]


async def test_a_process_that_dies_is_started_again_later_each_time(make: Make) -> None:
    delays: list[tuple[Ending, float]] = []
    four = asyncio.Event()

    def note(_: ManagedProcess, ending: Ending, delay_s: float) -> None:
        delays.append((ending, delay_s))
        if len(delays) == 4:
            four.set()

    process = make("raise SystemExit(3)", backoff=QUICK)
    await process.start()
    watch = asyncio.create_task(process.keep_running(note))
    await four.wait()
    await process.stop()
    await watch

    assert delays == [(3, 0.01), (3, 0.02), (3, 0.04), (3, 0.04)]


def test_a_process_that_was_up_for_long_starts_from_the_first_delay() -> None:
    backoff = Backoff()

    assert backoff.next_s(last_s=10.0, up_s=29.9) == 10.0
    assert backoff.next_s(last_s=10.0, up_s=30.0) == 0.2


async def test_a_killed_process_is_started_again(make: Make) -> None:
    process = make(SLEEP, backoff=QUICK)
    restarted = asyncio.Event()
    await process.start()
    first = process.pid
    watch = asyncio.create_task(process.keep_running(lambda *_: restarted.set()))

    process.signal(signal.SIGKILL)
    await restarted.wait()
    while process.starts < 2:
        await asyncio.sleep(0.01)

    assert process.running
    assert process.pid != first
    await process.stop()
    await watch


async def test_stop_ends_the_watch_even_while_it_waits_to_start_again(make: Make) -> None:
    process = make("raise SystemExit(1)", backoff=Backoff(first_s=60, longest_s=60))
    ended = asyncio.Event()
    await process.start()
    watch = asyncio.create_task(process.keep_running(lambda *_: ended.set()))
    await ended.wait()

    await process.stop()
    await watch

    assert process.starts == 1


@pytest.mark.parametrize("end", [ManagedProcess.stop, ManagedProcess.kill])
async def test_a_stop_that_meets_a_start_again_misses_no_child(
    make: Make, monkeypatch: pytest.MonkeyPatch, end: Callable[[ManagedProcess], Awaitable[None]]
) -> None:
    process = make(SLEEP, backoff=QUICK)
    await process.start()
    spawning, children = asyncio.Event(), []
    spawn = asyncio.create_subprocess_exec

    async def spawn_slowly(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        spawning.set()
        await asyncio.sleep(0.1)
        children.append(await spawn(*argv, **options))
        return children[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn_slowly)
    watch = asyncio.create_task(process.keep_running())
    process.signal(signal.SIGKILL)
    await spawning.wait()
    async with asyncio.timeout(5):
        await end(process)
        await watch

    assert not process.running
    assert [child.returncode is None for child in children] == [False]


async def test_a_start_that_the_system_refuses_counts_as_a_death(
    make: Make, tmp_path: Path
) -> None:
    told: list[tuple[type, float]] = []
    process = make(SLEEP, backoff=QUICK)
    await process.start()
    here = process.log_path.parent
    process.log_path = tmp_path / "later" / "child.log"

    def note(_: ManagedProcess, ending: Ending, delay_s: float) -> None:
        told.append((type(ending), delay_s))
        if len(told) == 3:
            process.log_path, process.pid_path = here / "child.log", tmp_path / "later" / "pid"
        if len(told) == 4:
            (tmp_path / "later").mkdir()

    watch = asyncio.create_task(process.keep_running(note))
    process.signal(signal.SIGKILL)
    async with asyncio.timeout(5):
        while len(told) < 4 or not process.running:
            await asyncio.sleep(0.01)

    missing = FileNotFoundError
    assert told == [(int, 0.01), (missing, 0.02), (missing, 0.04), (missing, 0.04)]
    await process.stop()
    await watch


async def test_a_child_without_a_pid_file_does_not_live_on(make: Make, tmp_path: Path) -> None:
    process = make(SLEEP)
    process.pid_path = tmp_path / "missing" / "child.pid"
    others = set(psutil.Process().children())

    with pytest.raises(StackError, match=r"child cannot be started: .*No such file"):
        await process.start()

    assert not process.running
    assert set(psutil.Process().children()) <= others


async def test_a_process_that_does_not_stop_is_killed(make: Make) -> None:
    process = make(IGNORE_TERM, stop_timeout_s=0.2)
    await process.start()
    await until_said(process)
    pid = process.pid

    await process.stop()

    assert not psutil.pid_exists(pid)


async def test_what_a_killed_process_had_started_dies_with_it(make: Make) -> None:
    process = make(PARENT)
    await process.start()
    grandchild = psutil.Process(int(await until_said(process)))

    await process.kill()

    psutil.wait_procs([grandchild], timeout=5)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


async def test_ctrl_c_in_the_terminal_does_not_reach_a_child(make: Make) -> None:
    process = make(SLEEP)
    await process.start()

    assert os.getsid(process.pid) == process.pid != os.getsid(0)


async def test_readiness_fails_at_once_with_the_last_words_of_a_process_that_died(
    make: Make,
) -> None:
    process = make("raise SystemExit('no room')")
    await process.start()

    with pytest.raises(StackError, match=r"child stopped while starting: no room \(see .*log\)"):
        await process.until_ready(asyncio.sleep(60), timeout_s=60)


async def test_the_last_words_of_an_exception_group_are_its_last_error(make: Make) -> None:
    process = make("raise ExceptionGroup('both', [ValueError('crossed')])")
    await process.start()
    await process.wait()

    assert process.last_words() == f"ValueError: crossed (see {process.log_path})"


def test_an_error_of_postgresql_is_told_with_its_message_before_the_detail() -> None:
    lines = [
        "at work",
        "asyncpg.CheckViolationError: it is refused",
        "DETAIL:  Row 1.",
        "HINT: No.",
    ]

    assert last_message(lines) == " ".join(lines[1:])
    assert last_message(lines[:1]) == "at work"
    assert last_message([]) == ""


async def test_readiness_fails_when_the_time_is_up(make: Make) -> None:
    process = make(SLEEP)
    await process.start()

    with pytest.raises(StackError, match="child was not ready after 0 s"):
        await process.until_ready(asyncio.sleep(60), timeout_s=0.05)


async def test_the_pid_file_lasts_as_long_as_the_process(make: Make) -> None:
    process = make(SLEEP)
    assert process.pid_path is not None

    await process.start()
    written = msgspec.json.decode(process.pid_path.read_bytes(), type=PidFile)
    await process.stop()

    assert written.stop_signal == signal.SIGTERM
    assert not process.pid_path.exists()


async def test_an_orphan_is_stopped_even_if_it_is_frozen(make: Make) -> None:
    process = make(SLEEP)
    await process.start()
    assert process.pid_path is not None
    process.signal(signal.SIGSTOP)

    stopped = await asyncio.to_thread(stop_orphans, [process.pid_path])

    assert stopped == ["child"]
    await process.wait()  # its code is lost to whoever of the two waited second
    assert not process.pid_path.exists()


async def test_a_process_that_has_an_orphans_number_by_chance_is_left_alone(make: Make) -> None:
    process = make(SLEEP)
    await process.start()
    assert process.pid_path is not None
    an_hour_ago = PidFile(process.pid, time.time() - 3600, signal.SIGTERM)
    process.pid_path.write_bytes(msgspec.json.encode(an_hour_ago))

    assert stop_orphans([process.pid_path]) == []

    assert process.running
    assert not process.pid_path.exists()


def test_a_large_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 3)
    log = tmp_path / "child.log"
    log.write_text("1234")

    bound_log(log)

    assert log.read_text() == ""
    assert (tmp_path / "child.log.1").read_text() == "1234"


async def test_a_log_is_bounded_while_its_process_goes_on_writing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 10_000)
    monkeypatch.setattr(child_module, "LOG_CHECK_S", 0.01)
    process = make(WRITER)
    earlier = process.log_path.with_suffix(".log.1")
    await process.start()
    watch = asyncio.create_task(process.keep_running())

    async with asyncio.timeout(30):
        while not earlier.exists():
            await asyncio.sleep(0.01)
        set_aside = earlier.read_bytes()
        while earlier.read_bytes() == set_aside:  # it went on, and was set aside again
            assert process.starts == 1
            await asyncio.sleep(0.01)

    await process.stop()
    await watch
    assert set_aside.startswith(b"0 ")
    assert not earlier.read_bytes().startswith(b"0 ")
