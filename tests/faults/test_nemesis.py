"""Some faults of ``make faults``, others in each run, and what a plan promises."""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from exchange.stack.host.child import ManagedProcess
from tests.conftest import scratch
from tests.faults.nemesis import has_frozen, has_killed
from tests.faults.report import document, report
from tests.faults.run import Options, run
from tests.faults.schedule import COUNTS, EVERYTHING, KINDS, plan

MINUTES_LONG = 0.5
MINUTES_SHORT = 0.1
MORE_OF_SERVICES = 2
# Other tests and perhaps other work keep both cores busy. ``make faults`` has the machine to itself
# and judges by what the exchange promises.
HEAL_BUSY_MAX_S = 90.0
WANTED_IN_20_MINUTES = {
    "kill matcher": 100,
    "freeze matcher": 30,
    "kill standby": 30,
    "kill gateway": 30,
    "kill projector": 30,
    "kill builder": 50,
    "kill publisher": 30,
    "restart Kafka": 10,
    "restart PostgreSQL": 10,
    "restart Redis": 10,
    "flush Redis": 10,
    EVERYTHING: 10,
}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that PostgreSQL's own user may reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="exchange-faults-", dir=scratch()))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.anyio
@pytest.mark.timeout(480)
async def test_some_faults_break_no_invariant(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault of each kind of process, and more of services; which ones the seed decides."""
    seed = random.randrange(10_000)
    await _assert_all_holds(
        Options(MINUTES_SHORT, seed, _some_kinds(random.Random(seed))), directory, monkeypatch
    )


@pytest.mark.anyio
@pytest.mark.long
@pytest.mark.timeout(480)
async def test_every_fault_breaks_no_invariant(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _assert_all_holds(Options(MINUTES_LONG, random.randrange(10_000)), directory, monkeypatch)


async def _assert_all_holds(
    options: Options, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.checkers.HEAL_MAX_S", HEAL_BUSY_MAX_S)
    # Whatever stays away is told before the time of the test is up.
    monkeypatch.setattr("tests.faults.run.QUIET_TIMEOUT_S", HEAL_BUSY_MAX_S + 10)
    print(f"seed {options.seed}, {', '.join(options.kinds)}")
    evidence = await run(options, directory)

    made = report(evidence, seed=options.seed, minutes=options.minutes)

    assert made.failures == {}, document(made)
    assert {row.fault for row in made.rows} == set(options.kinds)
    assert sum(row.lost + row.doubled for row in made.rows) == 0


def _some_kinds(chance: random.Random) -> tuple[str, ...]:
    lanes: dict[str, list[str]] = {}
    for kind, (lane, _) in COUNTS.items():
        lanes.setdefault(lane, []).append(kind)
    kinds = {chance.choice(of_lane) for of_lane in lanes.values()}
    return tuple(sorted(kinds | set(chance.sample(lanes["services"], MORE_OF_SERVICES))))


@pytest.mark.anyio
@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_run_that_ends_early_is_judged_and_fails(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.run.QUIET_TIMEOUT_S", 0.0)

    evidence = await run(Options(0.1, 1, ("flush Redis",)), directory)
    made = report(evidence, seed=1, minutes=0.1)

    assert "answers within 0.0 s" in made.failures["X"]
    assert made.events == len(evidence.log) > 0
    assert made.rows[0].fault == "flush Redis"


@pytest.mark.anyio
@pytest.mark.parametrize("strike", [has_killed, has_frozen])
async def test_a_process_that_has_just_ended_by_itself_is_no_victim(
    tmp_path: Path, strike: Callable[[ManagedProcess], Awaitable[bool]]
) -> None:
    struck, ended = (
        ManagedProcess(name, ["sleep", seconds], tmp_path / name)
        for name, seconds in (("struck", "60"), ("ended", "0"))
    )
    await struck.start()
    await ended.start()
    time.sleep(0.2)  # noqa: ASYNC251  the loop must not notice the end

    assert ended.running
    assert not await strike(ended)
    assert await strike(struck)

    await struck.kill()


def test_a_plan_is_what_its_seed_and_its_minutes_say() -> None:
    assert plan(5, seed=1) == plan(5, seed=1)
    assert plan(5, seed=1) != plan(5, seed=2)


def test_twenty_minutes_have_as_many_faults_as_are_wanted() -> None:
    planned = _counted(20)

    assert [kind for kind, wanted in WANTED_IN_20_MINUTES.items() if planned[kind] < wanted] == []


def test_the_briefest_run_has_each_fault_once() -> None:
    assert set(_counted(0.1)) == set(KINDS)


def test_a_run_may_be_limited_to_some_faults() -> None:
    assert set(_counted(20, ("flush Redis", "kill gateway"))) == {"flush Redis", "kill gateway"}


def _counted(minutes: float, kinds: tuple[str, ...] = KINDS) -> Counter[str]:
    bursts = plan(minutes, seed=1, kinds=kinds)
    counted = Counter(f.kind for burst in bursts for lane in burst.lanes.values() for f in lane)
    counted[EVERYTHING] = sum(burst.kill_everything for burst in bursts)
    return +counted
