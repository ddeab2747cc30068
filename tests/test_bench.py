"""The benchmarks: each question is asked by a target of make, and says what it measures."""

from dataclasses import replace
from typing import Final

import msgspec
import pytest

from bench.__main__ import ALONE, LONG, SPEED, opening, page
from bench.compare import Compared
from bench.runner import BUSY_SHARE, Goal, Where, spread
from bench.traced import FRAME, TASK, traced
from exchange.config import PROJECT

QUIET: Final = Where("2 cores, Python 3.11", 0.02)
FILES: Final = {
    file.stem
    for file in (PROJECT / "bench").glob("*.py")
    if file.read_text().startswith('"""') and "?\n" in file.read_text()[:200]
}


def test_each_file_that_opens_with_a_question_is_asked() -> None:
    assert set(SPEED + LONG + ALONE) == FILES - {"compare"}


@pytest.mark.parametrize("name", SPEED + LONG + ALONE)
def test_a_question_says_its_workload_and_what_it_leaves_out(name: str) -> None:
    question, text = opening(name)

    assert question.endswith("?")
    assert text.startswith("Workload: ")
    assert "\n\nNot included: " in text


def test_a_busy_machine_gives_no_verdict() -> None:
    goal = Goal("orders, of the floor", 0.7, 0.6)

    assert goal.told(QUIET) == "orders, of the floor: 0.7, wanted at least 0.6: good"
    assert replace(goal, reached=0.5).told(QUIET).endswith("SHORT")
    assert replace(goal, at_most=True).told(QUIET).endswith("wanted at most 0.6: SHORT")
    busy = replace(QUIET, busy_share=2 * BUSY_SHARE)
    assert goal.told(busy) == "orders, of the floor: 0.7, wanted at least 0.6"


def test_the_page_has_every_question_and_where_it_was_asked() -> None:
    written = page(("orders", "lag"), ["## One\n", "## Two\n"], QUIET)

    assert written.startswith("# Benchmarks\n")
    assert "`orders`, `lag`" in written
    assert QUIET.machine in written
    assert written.endswith("## One\n\n## Two\n")


def test_a_difference_within_the_spread_is_no_verdict() -> None:
    noisy = Compared("main", [400, 420, 440, 410, 430, 425], [405, 425, 445, 415, 435, 430])
    clear = Compared("main", [400, 401, 402, 403, 404, 405], [440, 441, 442, 443, 444, 445])

    assert not noisy.is_told_apart
    assert clear.is_told_apart
    assert clear.ratio == pytest.approx(1.0994, abs=1e-4)


def test_several_rounds_show_their_spread() -> None:
    assert spread([1200.4]) == "1,200"
    assert spread([1.25, 1.75, 1.5], 2) == "1.50 (1.25-1.75)"


def test_the_work_of_a_frame_is_that_of_the_tasks_since_the_one_before() -> None:
    def event(name: str, begin_us: int, tid: int = 1, **more: int) -> dict[str, object]:
        return {"name": name, "pid": 1, "tid": tid, "ts": begin_us, **more}

    def task(begin_us: int, spent_us: int) -> dict[str, object]:
        return event(TASK, begin_us, dur=2 * spent_us, tdur=spent_us)

    tasks = [task(0, 1_000), task(4_000, 3_000), task(20_000, 500), task(30_000, 2_000)]
    frames = [event(FRAME, 100), event(FRAME, 4_100), event(FRAME, 4_200), event(FRAME, 31_000)]
    others = [event(FRAME, 50, tid=2), event(TASK, 0, tid=2, dur=90_000, tdur=90_000)]
    trace = {"traceEvents": [*others, *reversed(tasks), *frames, {"name": "thread_name"}]}

    found = traced(msgspec.json.encode(trace))

    assert found.frames_ms == [3.0, 2.5]
    assert sorted(found.tasks_ms) == [0.5, 1.0, 2.0, 3.0]
