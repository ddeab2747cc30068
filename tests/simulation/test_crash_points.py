"""Kills at each boundary of the matcher's and the projector's loop, in the simulation.

Nothing else goes wrong in these runs, so each tests one boundary. ``weather`` explains the points;
together they are: before and after polling, claiming, appending (which follows deciding)
and answering, and the same of the projector's steps.
"""

import pytest

from tests.simulation.weather import Crash
from tests.simulation.world import simulate

MATCHER = ["take over", "poll", "claim", "append", "publish", "count start"]
PROJECTOR = ["resume", "fetch", "apply"]
TIMES = [1, 4]  # the first batch, and one in the middle of the trade
RARE = {"take over", "resume", "count start"}  # little of it in a calm run
POINTS = [
    f"{when} {what}"
    for what in [*MATCHER, *PROJECTOR]
    for when in ("before", "sent", "done", "after")
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_this_point_loses_and_doubles_nothing(point: str) -> None:
    for countdown in TIMES[:1] if point.partition(" ")[2] in RARE else TIMES:
        crash = Crash(point, countdown)

        report = simulate(countdown, crash)

        assert crash.struck
        assert report.kills == 1
