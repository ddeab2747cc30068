"""How a read model is judged, second by second, without one."""

import pytest

from exchange.gateway.parts.following import STUCK_AFTER_S, Following, Standing
from projections.stores.checkpoints import LiveGeneration

NAME = "trades"
LIVE = LiveGeneration(1, "live", None)
SOON_S = STUCK_AFTER_S - 1


class Watched:
    """A model on two shards, as the judge sees it."""

    def __init__(self) -> None:
        self._following = Following()
        self.now_s = 1_000.0

    def judge(
        self,
        *reached: int | None,
        heads: tuple[int, int],
        due: tuple[int, int] | None = None,
        live: LiveGeneration | None = LIVE,
        after_s: float = 1,
    ) -> Standing:
        self.now_s += after_s
        return self._following.judge(
            NAME,
            live,
            {shard: position for shard, position in enumerate(reached) if position is not None},
            dict(enumerate(heads)),
            dict(enumerate(heads if due is None else due)),
            self.now_s,
        )

    def forget(self) -> None:
        self._following.forget()


@pytest.fixture
def model() -> Watched:
    return Watched()


def test_a_model_that_is_not_behind_what_is_due_is_healthy(model: Watched) -> None:
    assert model.judge(5, 7, heads=(9, 7), due=(5, 7)) is Standing.HEALTHY


def test_a_checkpoint_that_moves_lags_however_long(model: Watched) -> None:
    for position in range(100):
        assert model.judge(position, 7, heads=(1_000, 7)) is Standing.LAGGING


@pytest.mark.parametrize("growth", [0, 50])
def test_a_checkpoint_that_stands_still_is_stuck_whether_or_not_the_head_moves(
    model: Watched, growth: int
) -> None:
    found = [
        model.judge(5, 7, heads=(9 + growth * second, 7))
        for second in range(int(STUCK_AFTER_S) + 1)
    ]

    assert found == [Standing.LAGGING] * int(STUCK_AFTER_S) + [Standing.STUCK]


def test_one_shard_that_stands_still_is_enough(model: Watched) -> None:
    for position in range(10):
        model.judge(position, 5, heads=(100, 9), after_s=2)

    assert model.judge(10, 5, heads=(100, 9)) is Standing.STUCK


def test_a_stuck_model_that_moves_lags(model: Watched) -> None:
    model.judge(5, 7, heads=(9, 7))
    assert model.judge(5, 7, heads=(9, 7), after_s=STUCK_AFTER_S) is Standing.STUCK
    assert model.judge(6, 7, heads=(9, 7)) is Standing.LAGGING
    assert model.judge(6, 7, heads=(9, 7), after_s=SOON_S) is Standing.LAGGING


def test_the_first_event_after_an_idle_hour_makes_nothing_stuck(model: Watched) -> None:
    model.judge(5, 7, heads=(5, 7))
    assert model.judge(5, 7, heads=(6, 7), due=(5, 7), after_s=3_600) is Standing.HEALTHY
    assert model.judge(5, 7, heads=(6, 7), due=(5, 7), after_s=SOON_S) is Standing.HEALTHY


def test_a_switch_to_another_generation_begins_anew(model: Watched) -> None:
    model.judge(5, 7, heads=(9, 7))
    other = LiveGeneration(2, "live", None)
    assert model.judge(5, 7, heads=(9, 7), live=other, after_s=STUCK_AFTER_S) is Standing.LAGGING


@pytest.mark.parametrize("state", ["failed", "paused"])
def test_a_model_that_was_stopped_is_told_as_such_and_is_not_stuck_when_it_goes_on(
    model: Watched, state: str
) -> None:
    stopped = LiveGeneration(1, state, None)

    assert model.judge(9, 7, heads=(9, 7), live=stopped) is Standing(state)
    assert model.judge(9, 7, heads=(99, 7)) is Standing.LAGGING
    assert model.judge(9, 7, heads=(99, 7), live=stopped, after_s=3_600) is Standing(state)
    assert model.judge(9, None, heads=(99, 7), live=stopped) is Standing(state)
    assert model.judge(9, 7, heads=(99, 7)) is Standing.LAGGING


def test_a_model_is_missing_without_a_live_generation_or_a_complete_shard(model: Watched) -> None:
    assert model.judge(9, 7, heads=(9, 7), live=None) is Standing.MISSING
    assert model.judge(9, None, heads=(9, 7)) is Standing.MISSING


def test_a_shard_without_events_that_are_due_needs_no_model(model: Watched) -> None:
    assert model.judge(9, None, heads=(9, 0)) is Standing.HEALTHY
    assert model.judge(9, None, heads=(9, 1), due=(9, 0)) is Standing.HEALTHY


def test_what_moved_unseen_is_not_stuck(model: Watched) -> None:
    model.judge(5, 7, heads=(9, 7))
    model.forget()
    assert model.judge(5, 7, heads=(9, 7), after_s=STUCK_AFTER_S) is Standing.LAGGING
