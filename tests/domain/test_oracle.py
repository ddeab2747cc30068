"""The engine against the oracle: the same events for every list of commands.

Hypothesis finds and shrinks; the swarm brings volume. ``worlds`` says how the inputs were chosen. A
failing swarm names its seed and step, with which the failure can be repeated.
"""

import multiprocessing
from collections import Counter
from itertools import islice
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from rich.progress import Progress

from exchange.domain import accounts, engine
from exchange.domain.engine import State, check_state
from exchange.domain.events import Event
from exchange.domain.values import CancelReason, RejectReason, Side
from tests.domain.oracle import Message, Oracle
from tests.domain.worlds import PROPERTY, Step, Swarm, step_lists, take

STEPS_PER_SWARM = 1_000
LONG_SEED = 1_000  # the fast share has the seeds below
LONG_SWARMS = 5_000
LONG_TIMEOUT_S = 3_600
SMALL_FILLS_MAX = 3  # so that the swarms meet the bounds
SMALL_CANCEL_ALL_MAX = 2
SMALL_KEYS_MAX = 2
STEPS_PER_CHECK = 25  # comparing whole books at each step would take most of the time


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FILLS_MAX", SMALL_FILLS_MAX)
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", SMALL_CANCEL_ALL_MAX)
    monkeypatch.setattr(accounts, "KEYS_MAX", SMALL_KEYS_MAX)


def ask(oracle: Oracle, step: Step) -> list[Message]:
    command = msgspec.to_builtins(step.command)
    return oracle.execute(command, step.time_ms, step.order_id_taken, step.key_id)


def small_oracle() -> Oracle:
    return Oracle(SMALL_FILLS_MAX, SMALL_CANCEL_ALL_MAX, SMALL_KEYS_MAX)


def assert_same_books(state: State, oracle: Oracle) -> None:
    assert sorted(state.books) == sorted(oracle.instruments)
    for name, book in state.books.items():
        for side in Side:
            engine_depth = book.sides[side].depth(100)
            assert engine_depth == oracle.depth(name, side.value), (name, side)


def assert_agree(swarm: Swarm, steps: int) -> None:
    state, oracle = State(), small_oracle()
    for number, step in enumerate(islice(swarm, steps)):
        events = msgspec.to_builtins(take(state, step))
        assert events == ask(oracle, step), f"step {number}: {step}"
        if number % STEPS_PER_CHECK == 0:
            check_state(state)
            assert_same_books(state, oracle)
    check_state(state)
    assert_same_books(state, oracle)


@PROPERTY
@given(step_lists)
def test_the_engine_and_the_oracle_tell_the_same(steps: list[Step]) -> None:
    state, oracle = State(), small_oracle()

    told = [msgspec.to_builtins(take(state, step)) for step in steps]

    assert told == [ask(oracle, step) for step in steps]
    assert_same_books(state, oracle)


@pytest.mark.parametrize("seed", range(20))
def test_the_engine_and_the_oracle_agree_on_a_swarm(seed: int) -> None:
    assert_agree(Swarm(seed), STEPS_PER_SWARM)


def test_the_swarms_meet_every_event_and_every_refusal() -> None:
    """An agreement on what never happens would show nothing."""
    met: Counter[str] = Counter()
    for seed in range(30):
        state = State()
        for step in islice(Swarm(seed), STEPS_PER_SWARM):
            events = take(state, step)
            met.update(type(event).__name__ for event in events)
            met.update(getattr(event, "reason", "none") for event in events)

    # An operator's retry has the events of what it decides again, and its own.
    expected = {kind.__name__ for kind in get_args(Event)} - {"CommandRetried"}
    expected |= {reason.value for reason in [*RejectReason, *CancelReason]}
    assert {name for name in expected if met[name] < 20} == set(), met
    assert met["TradeExecuted"] > 4_000, met


@pytest.mark.long
@pytest.mark.timeout(LONG_TIMEOUT_S)
def test_the_engine_and_the_oracle_agree_on_five_million_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    context = multiprocessing.get_context("forkserver")
    with capsys.disabled(), context.Pool() as pool, Progress() as progress:
        task = progress.add_task("differential, swarms", total=LONG_SWARMS)
        for failure in pool.imap_unordered(failure_of, range(LONG_SEED, LONG_SEED + LONG_SWARMS)):
            assert failure is None, failure
            progress.advance(task)


def failure_of(seed: int) -> str | None:
    """Return how engine and oracle differ on a swarm."""
    engine.FILLS_MAX = SMALL_FILLS_MAX  # type: ignore[misc]  # in a process of its own
    engine.CANCEL_ALL_MAX = SMALL_CANCEL_ALL_MAX  # type: ignore[misc]
    accounts.KEYS_MAX = SMALL_KEYS_MAX  # type: ignore[misc]
    try:
        assert_agree(Swarm(seed), STEPS_PER_SWARM)
    except AssertionError as error:
        return f"swarm {seed}, {error}"
    return None
