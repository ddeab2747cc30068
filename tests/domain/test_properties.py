"""What must hold for every list of commands, not only for those we thought of.

``worlds`` says how the lists are chosen. ``run`` checks the book's invariants and the
digest after each command, so every property here starts from a state that was never
crossed.
"""

import pickle
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from exchange.domain.commands import Command
from exchange.domain.engine import State, check_state, evolve
from exchange.domain.events import Event, OrderAccepted, OrderCancelled, TradeExecuted
from exchange.domain.values import Side
from exchange.log.events import load_event
from exchange.ports import EMPTY_CHAIN, StoredEvent
from tests.builders import TIME_MS, cancel, chain_after, place, place_market, stored
from tests.domain.worlds import OPENING, PROPERTY, Step, decide_step, run, step_lists, steps, take

Lots = Counter[tuple[str, str]]


def picture(state: State) -> object:
    """Show everything that a state holds, in order, so that equal pictures match alike."""
    books = {
        name: (
            book.instrument,
            set(book.orders),
            [str(order) for side in Side for order in book.sides[side].orders(None)],
            [book.sides[side].depth(100) for side in Side],
        )
        for name, book in state.books.items()
    }
    accounts = state.accounts.good, state.accounts.keys, state.suspended
    return state.position, state.time_ms, state.digest, books, state.open_orders, accounts


def encoded(log: list[Event]) -> list[StoredEvent]:
    return [stored(event, position) for position, event in enumerate(log, start=1)]


@PROPERTY
@given(step_lists)
def test_the_book_is_never_crossed(given_steps: list[Step]) -> None:
    run(given_steps)


@PROPERTY
@given(step_lists)
def test_every_lot_accepted_is_traded_cancelled_or_resting(given_steps: list[Step]) -> None:
    state, log = run(given_steps)

    accepted, gone, resting = Lots(), Lots(), Lots()
    for event in log:
        match event:
            case OrderAccepted():
                accepted[event.instrument, event.order_id] += event.quantity
            case TradeExecuted():
                gone[event.instrument, event.maker_order_id] += event.quantity
                gone[event.instrument, event.taker_order_id] += event.quantity
            case OrderCancelled():
                gone[event.instrument, event.order_id] += event.quantity
            case _:
                pass
    for name, book in state.books.items():
        for order in book.orders.values():
            resting[name, order.order_id] += order.remaining
    assert accepted == gone + resting


@PROPERTY
@given(step_lists)
def test_replaying_the_encoded_log_gives_the_same_state(given_steps: list[Step]) -> None:
    state, log = run(given_steps)

    replayed = State()
    for event in encoded(log):
        evolve(replayed, load_event(event).event)

    check_state(replayed)
    assert picture(replayed) == picture(state)


@PROPERTY
@given(step_lists, st.data())
def test_a_matcher_that_replays_half_the_log_goes_on_as_the_first_would(
    given_steps: list[Step], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(given_steps)), label="steps before the restart")
    _, whole = run(given_steps)
    _, before = run(given_steps[:cut])

    restarted = State()
    for event in encoded(before):
        evolve(restarted, load_event(event).event)
    after = [event for step in given_steps[cut:] for event in take(restarted, step)]

    assert before + after == whole


@PROPERTY
@given(step_lists, st.data())
def test_any_batching_of_a_log_gives_the_same_chain(
    given_steps: list[Step], data: st.DataObject
) -> None:
    _, log = run(given_steps)
    events = encoded(log)
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=6), label="batch ends")

    chain = EMPTY_CHAIN
    for start, end in pairwise([0, *sorted(cuts), len(events)]):
        chain = chain_after(chain, events[start:end])

    assert chain == chain_after(EMPTY_CHAIN, events)


@PROPERTY
@given(step_lists, steps)
def test_deciding_changes_nothing(given_steps: list[Step], step: Step) -> None:
    state, _ = run(given_steps)
    before = picture(state)

    first, second = decide_step(state, step), decide_step(state, step)

    assert picture(state) == before
    assert first == second


@PROPERTY
@given(step_lists)
def test_time_in_the_log_never_runs_backwards(given_steps: list[Step]) -> None:
    state, log = run(given_steps)

    times = [event.time_ms for event in log]
    assert times == sorted(times)
    assert state.time_ms == max(step.time_ms for step in given_steps)


@PROPERTY
@given(step_lists)
def test_a_state_holds_nothing_but_what_rests(given_steps: list[Step]) -> None:
    """A state as large as one that never saw the rest of its history cannot have kept it."""
    state, _ = run(given_steps)

    fresh = State(state.position, state.time_ms)
    for name, book in state.books.items():
        fresh.books[name] = type(book)(book.instrument)
        orders = sorted(book.orders.values(), key=lambda order: order.priority)
        for order in orders:
            fresh.books[name].rest(order)
    fresh.unhashed.update(fresh.books.values())
    assert fresh.digest  # hashes its orders, as the other has
    fresh.open_orders, fresh.open_orders_max = state.open_orders, state.open_orders_max
    fresh.digest_sum = state.digest_sum
    fresh.accounts, fresh.suspended = state.accounts, state.suspended

    assert len(pickle.dumps(state)) == len(pickle.dumps(fresh))


def test_memory_does_not_grow_with_the_orders_ever_seen() -> None:
    state, _ = run(OPENING)
    sizes = []

    for number in range(10_000, 14_000, 4):  # four new ids each time, as wide as all others
        commands: list[Command] = [
            place(number, Side.SELL, price=1000, quantity=10),
            place(number + 1, Side.BUY, price=1000, quantity=10),
            place(number + 2, Side.BUY, price=900, quantity=10),
            cancel(number + 2),
            place_market(number + 3, Side.BUY, quantity=10),
            place(number + 3, Side.BUY, price=None, quantity=10),
        ]
        for command in commands:
            take(state, Step(command, TIME_MS))
        sizes.append(len(pickle.dumps(state)))

    assert max(sizes) - sizes[0] < 10, "more than the digits of a longer position"
