"""All processes together: the order in which they stop, and what is reported of deaths."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from exchange.stack.host.child import Backoff, ManagedProcess
from exchange.stack.host.interrupts import Interrupts
from exchange.stack.services.services import LocalServices
from exchange.stack.supervisor import Supervisor
from exchange.waiting import unless

pytestmark = pytest.mark.anyio

# Each child says in one common file that it runs, and that it was asked to stop.
CHILD = """
import signal, sys, time
name, path = sys.argv[1:]
def note(what):
    with open(path, "a") as file:
        file.write(f"{name} {what}\\n")
def stop(*_):
    time.sleep(0.05)
    note("stops")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
note("runs")
time.sleep(60)
"""
NO_SERVICES = LocalServices(None, None, None)

MakeChild = Callable[[str], ManagedProcess]


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    path = tmp_path / "diary"
    path.touch()
    return path


@pytest.fixture
async def make(tmp_path: Path, diary: Path) -> AsyncIterator[MakeChild]:
    made: list[ManagedProcess] = []

    def make_child(name: str) -> ManagedProcess:
        argv = (sys.executable, "-c", CHILD, name, str(diary))
        process = ManagedProcess(
            name, argv, log_path=tmp_path / f"{name}.log", backoff=Backoff(first_s=0.01)
        )
        made.append(process)
        return process

    yield make_child
    for process in made:
        await process.kill()


async def until(diary: Path, lines: int) -> list[str]:
    while len(noted := diary.read_text().splitlines()) < lines:
        await asyncio.sleep(0.01)
    return noted


async def test_the_tiers_stop_one_after_the_other(make: MakeChild, diary: Path) -> None:
    tiers = ((make("gateway-1"), make("gateway-2")), (make("matcher"),), (make("projector"),))
    supervisor = Supervisor(NO_SERVICES, tiers, lambda *_: None)
    await supervisor.start_processes()
    await until(diary, 4)

    await supervisor.stop()

    stops = diary.read_text().splitlines()[4:]
    assert sorted(stops[:2]) == ["gateway-1 stops", "gateway-2 stops"]
    assert stops[2:] == ["matcher stops", "projector stops"]


async def test_a_death_is_told_and_mended(make: MakeChild, diary: Path) -> None:
    told: list[tuple[str, str, float]] = []
    matcher = make("matcher")
    supervisor = Supervisor(NO_SERVICES, ((matcher,),), lambda *report: told.append(report))
    await supervisor.start_processes()
    await until(diary, 1)

    matcher.signal(signal.SIGKILL)
    await until(diary, 2)

    assert [(name, delay_s) for name, _, delay_s in told] == [("matcher", 0.01)]
    assert told[0][1].startswith("was killed by signal 9 (see ")
    await supervisor.stop()


async def test_a_start_that_fails_is_told_and_tried_again(make: MakeChild, diary: Path) -> None:
    told: list[str] = []
    matcher = make("matcher")
    argv = matcher.argv

    def report(_: str, how: str, __: float) -> None:
        told.append(how)
        matcher.argv = argv if len(told) == 2 else ("/no/such/program",)

    supervisor = Supervisor(NO_SERVICES, ((matcher,),), report)
    await supervisor.start_processes()
    await until(diary, 1)
    matcher.signal(signal.SIGKILL)
    await until(diary, 2)

    assert told[1].startswith("could not be started: [Errno 2] No such file")
    await supervisor.stop()


async def test_kill_ends_everything_without_asking(make: MakeChild, diary: Path) -> None:
    matcher = make("matcher")
    supervisor = Supervisor(NO_SERVICES, ((matcher,),), lambda *_: None)
    await supervisor.start_processes()
    await until(diary, 1)

    await supervisor.kill()

    assert not matcher.running
    assert diary.read_text().splitlines() == ["matcher runs"]


async def test_an_interrupt_cancels_what_is_under_way() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        done = await unless(interrupts.first, asyncio.sleep(60))

    assert not done


async def test_a_signal_that_arrives_twice_at_once_is_one_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr("exchange.stack.host.interrupts.time.monotonic", lambda: now_s)
    interrupts = Interrupts()

    interrupts.interrupt()
    interrupts.interrupt()
    assert (interrupts.first.is_set(), interrupts.second.is_set()) == (True, False)
    now_s = 101.0
    interrupts.interrupt()
    assert interrupts.second.is_set()


async def test_no_reason_is_quoted_of_a_process_that_was_asked_to_end(
    make: MakeChild, diary: Path, tmp_path: Path
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    process = make("matcher")
    supervisor = Supervisor(NO_SERVICES, ((process,),), lambda _, how, __: told.put_nowait(how))
    await supervisor.start_processes()
    await until(diary, 1)

    process.signal(signal.SIGTERM)

    assert await told.get() == f"ended with exit code 0 (see {tmp_path / 'matcher.log'})"
    await supervisor.stop()
