"""Two hundred simulated lives of the exchange; ``world`` says what happens in one.

A seed that fails prints the command that lives it again.
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from exchange.config import PROJECT
from tests.simulation.world import Report, simulate

SEEDS = 120
SEEDS_PER_TEST = 20


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_no_storm_loses_or_doubles_anything(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            simulate(seed)
        except Exception as error:
            again = f"make simulate SEEDS={seed}-{seed}"
            pytest.fail(f"seed {seed}: {error!r}\nLive it again: {again}")


def test_the_seeds_meet_every_fault() -> None:
    """Calm seas would show nothing."""
    reports = [simulate(seed) for seed in range(20)]

    acts = sum((report.acts for report in reports), Counter[str]())
    assert min(acts[name] for name in ("jump", "garbage", "duplicate")) > 50
    assert sum(report.kills for report in reports) > 50
    assert sum(report.freezes for report in reports) > 50
    assert sum(report.lost_tails for report in reports) > 20
    assert max(report.head.epoch for report in reports) > 5
    assert sum(report.snapshots for report in reports) > 20
    assert sum(report.quarantined for report in reports) > 3


def test_one_seed_gives_one_run() -> None:
    elsewhere = [_begin_elsewhere(hash_seed) for hash_seed in ("1", "2")]

    told = {_fingerprint(simulate(3)), *(process.communicate()[0] for process in elsewhere)}

    assert len(told) == 1, told
    assert [process.returncode for process in elsewhere] == [0, 0]


def _begin_elsewhere(hash_seed: str) -> "subprocess.Popen[str]":
    code = (
        "from tests.simulation.world import simulate;"
        "from tests.simulation.test_simulation import _fingerprint;"
        "print(_fingerprint(simulate(3)), end='')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
    )


def _fingerprint(report: Report) -> str:
    return f"{report.steps} {report.head.epoch} {report.head.chain.hex()}"
