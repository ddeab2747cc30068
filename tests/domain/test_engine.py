"""What each command causes, by example: given a history, when a command, then these events.

The expectation is always the whole list. ``test_engine_refusals`` has the refusals,
``test_properties`` the properties of every list of commands, and ``test_oracle`` a comparison with
an independent matcher.
"""

from typing import Any, get_args

import pytest
from msgspec import UNSET

from exchange.domain import engine
from exchange.domain.engine import State, check_state, decide, evolve
from exchange.domain.events import Event, OpenOrdersLimited, OrderAccepted
from exchange.domain.values import CancelReason, RejectReason, Side
from tests.builders import (
    BTC_USD,
    TIME_MS,
    accepted,
    accepted_market,
    all_cancelled,
    cancel,
    cancel_all,
    cancel_rejected,
    cancelled,
    depth,
    evolve_all,
    given,
    instrument_rejected,
    malformed,
    place,
    place_market,
    record_rejected,
    registered,
    rejected,
    remainder_cancelled,
    rested,
    trade,
    when,
)

BUY, SELL = Side.BUY, Side.SELL
ETH_EUR = "ETH-EUR"


# Resting and crossing


def test_an_order_that_meets_nothing_rests_whole() -> None:
    state = given(rested(1, SELL, price=1001, quantity=100))

    events = when(state, place(2, BUY, price=1000, quantity=50))

    assert events == [
        accepted(2, BUY, price=1000, quantity=50),
        rested(2, BUY, price=1000, quantity=50),
    ]


def test_equal_prices_trade_and_both_orders_are_gone() -> None:
    state = given(rested(1, SELL, price=1000, quantity=100))

    events = when(state, place(2, BUY, price=1000, quantity=100))

    assert events == [
        accepted(2, BUY, price=1000, quantity=100),
        trade(maker=1, taker=2, price=1000, quantity=100),
    ]
    evolve_all(state, events)
    assert depth(state, BUY) == depth(state, SELL) == []


def test_buy_sweeps_the_cheapest_ask_first_and_rests_the_remainder() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=100),
        rested(2, SELL, price=999, quantity=50),
    )

    events = when(state, place(3, BUY, price=1000, quantity=200))

    assert events == [
        accepted(3, BUY, price=1000, quantity=200),
        trade(maker=2, taker=3, price=999, quantity=50, taker_remaining=150),
        trade(maker=1, taker=3, price=1000, quantity=100, taker_remaining=50),
        rested(3, BUY, price=1000, quantity=50),
    ]
    evolve_all(state, events)
    assert depth(state, BUY) == [(1000, 50)]
    assert depth(state, SELL) == []


def test_sell_sweeps_the_dearest_bid_first_and_rests_the_remainder() -> None:
    state = given(
        rested(1, BUY, price=1000, quantity=100),
        rested(2, BUY, price=1001, quantity=50),
    )

    events = when(state, place(3, SELL, price=1000, quantity=200))

    assert events == [
        accepted(3, SELL, price=1000, quantity=200),
        trade(maker=2, taker=3, price=1001, quantity=50, taker_side=SELL, taker_remaining=150),
        trade(maker=1, taker=3, price=1000, quantity=100, taker_side=SELL, taker_remaining=50),
        rested(3, SELL, price=1000, quantity=50),
    ]


def test_a_trade_is_at_the_makers_price() -> None:
    state = given(rested(1, SELL, price=900, quantity=10))

    events = when(state, place(2, BUY, price=1000, quantity=10))

    assert events == [
        accepted(2, BUY, price=1000, quantity=10),
        trade(maker=1, taker=2, price=900, quantity=10),
    ]


def test_the_oldest_order_at_a_price_trades_first() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10),
        rested(2, SELL, price=1000, quantity=10),
        rested(3, SELL, price=1000, quantity=10),
    )

    events = when(state, place(4, BUY, price=1000, quantity=20))

    assert events == [
        accepted(4, BUY, price=1000, quantity=20),
        trade(maker=1, taker=4, price=1000, quantity=10, taker_remaining=10),
        trade(maker=2, taker=4, price=1000, quantity=10),
    ]


def test_a_partly_filled_maker_keeps_its_place_in_the_queue() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10),
        rested(2, SELL, price=1000, quantity=10),
    )
    evolve_all(state, when(state, place(3, BUY, price=1000, quantity=4)))
    assert depth(state, SELL) == [(1000, 16)]

    events = when(state, place(4, BUY, price=1000, quantity=8))

    assert events == [
        accepted(4, BUY, price=1000, quantity=8),
        trade(maker=1, taker=4, price=1000, quantity=6, taker_remaining=2),
        trade(maker=2, taker=4, price=1000, quantity=2, maker_remaining=8),
    ]


def test_a_cancelled_order_that_comes_back_queues_behind_the_others() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10),
        rested(2, SELL, price=1000, quantity=10),
    )
    evolve_all(state, when(state, cancel(1)))
    evolve_all(state, when(state, place(1, SELL, price=1000, quantity=10)))

    events = when(state, place(3, BUY, price=1000, quantity=10))

    assert events == [
        accepted(3, BUY, price=1000, quantity=10),
        trade(maker=2, taker=3, price=1000, quantity=10),
    ]


def test_a_taker_stops_at_its_limit() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10),
        rested(2, SELL, price=1001, quantity=10),
    )

    events = when(state, place(3, BUY, price=1000, quantity=20))

    assert events == [
        accepted(3, BUY, price=1000, quantity=20),
        trade(maker=1, taker=3, price=1000, quantity=10, taker_remaining=10),
        rested(3, BUY, price=1000, quantity=10),
    ]


def test_a_client_may_trade_with_itself() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10, client=7))

    events = when(state, place(2, BUY, price=1000, quantity=10, client=7))

    assert events == [
        accepted(2, BUY, price=1000, quantity=10, client=7),
        trade(maker=1, taker=2, price=1000, quantity=10, maker_client=7, taker_client=7),
    ]


def test_amounts_at_the_limit_stay_exact() -> None:
    largest = 2**53 - 1
    state = given(
        rested(1, SELL, price=largest, quantity=largest),
        rested(2, SELL, price=largest, quantity=largest),
    )
    assert depth(state, SELL) == [(largest, 2 * largest)]

    events = when(state, place(3, BUY, price=largest, quantity=largest))

    assert events == [
        accepted(3, BUY, price=largest, quantity=largest),
        trade(maker=1, taker=3, price=largest, quantity=largest),
    ]


# Market orders


def test_a_market_order_takes_any_price() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10),
        rested(2, SELL, price=9000, quantity=10),
    )

    events = when(state, place_market(3, BUY, quantity=15))

    assert events == [
        accepted_market(3, BUY, quantity=15),
        trade(maker=1, taker=3, price=1000, quantity=10, taker_remaining=5),
        trade(maker=2, taker=3, price=9000, quantity=5, maker_remaining=5),
    ]


def test_what_a_market_order_cannot_trade_is_cancelled() -> None:
    state = given(rested(1, BUY, price=1000, quantity=10))

    events = when(state, place_market(2, SELL, quantity=15))

    assert events == [
        accepted_market(2, SELL, quantity=15),
        trade(maker=1, taker=2, price=1000, quantity=10, taker_side=SELL, taker_remaining=5),
        remainder_cancelled(2, SELL, quantity=5),
    ]
    evolve_all(state, events)
    assert state.books[BTC_USD].orders == {}


def test_a_market_order_on_an_empty_book_is_cancelled_whole() -> None:
    events = when(given(), place_market(1, BUY, quantity=15))

    assert events == [
        accepted_market(1, BUY, quantity=15),
        remainder_cancelled(1, BUY, quantity=15),
    ]


# Time and position


def test_time_never_runs_backwards() -> None:
    state = given()
    assert state.time_ms == TIME_MS

    early = when(state, place(1, BUY, price=1000, quantity=10), time_ms=TIME_MS - 3_600_000)
    late = when(state, place(1, BUY, price=1000, quantity=10), time_ms=TIME_MS + 1)

    assert [event.time_ms for event in early] == [TIME_MS, TIME_MS]
    assert [event.time_ms for event in late] == [TIME_MS + 1, TIME_MS + 1]


def test_every_kind_of_event_is_known_to_change_something_or_nothing() -> None:
    assert engine._CHANGES.keys() == set(get_args(Event))


def test_every_kind_of_event_moves_the_position_by_one() -> None:
    order = place(1, BUY, price=1000, quantity=10)
    history: list[Event] = [
        registered(),
        instrument_rejected(),
        accepted(1, BUY, price=1000, quantity=10),
        rested(1, BUY, price=1000, quantity=10),
        trade(maker=1, taker=2, price=1000, quantity=4, taker_side=SELL, maker_remaining=6),
        rejected(order, RejectReason.DUPLICATE_ORDER_ID),
        cancel_rejected(2, RejectReason.ORDER_NOT_OPEN),
        remainder_cancelled(2, SELL, quantity=1),
        cancelled(1, BUY, price=1000, quantity=6),
        record_rejected(malformed()),
    ]
    state = State()

    for position, event in enumerate(history, start=1):
        evolve(state, event)
        assert state.position == position
        check_state(state)


def test_decide_leaves_the_state_as_it_was() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10))
    digest = state.digest

    decide(state, place(2, BUY, price=1000, quantity=4), time_ms=TIME_MS + 9)

    assert (state.digest, state.time_ms, state.position) == (digest, TIME_MS, 2)
    assert depth(state, SELL) == [(1000, 10)]


def test_an_order_trades_with_at_most_so_many_and_the_rest_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "FILLS_MAX", 2)
    makers = [rested(number, SELL, price=1000, quantity=10) for number in (1, 2, 3)]
    state = given(*makers)

    events = when(state, place(4, BUY, price=1000, quantity=30))

    assert events == [
        accepted(4, BUY, price=1000, quantity=30),
        trade(maker=1, taker=4, price=1000, quantity=10, taker_remaining=20),
        trade(maker=2, taker=4, price=1000, quantity=10, taker_remaining=10),
        cancelled(4, BUY, price=None, quantity=10, reason=CancelReason.FILLS_MAX, asked_by=UNSET),
    ]


def test_a_client_with_too_many_open_orders_may_only_take() -> None:
    first = rested(1, BUY, price=1000, quantity=10)
    state = given(first, OpenOrdersLimited(1, time_ms=TIME_MS))
    second = place(2, BUY, price=999, quantity=10, client=1)

    assert when(state, second) == [rejected(second, RejectReason.TOO_MANY_OPEN_ORDERS)]
    assert isinstance(when(state, place(3, BUY, price=999, quantity=10))[0], OrderAccepted)
    market = place_market(4, BUY, quantity=10, client=1)
    assert isinstance(when(state, market)[0], OrderAccepted)
    evolve_all(state, when(state, cancel(1)))
    assert isinstance(when(state, second)[0], OrderAccepted)


# Cancelling all


def mine(order: int, side: Side, instrument: str = BTC_USD) -> Event:
    """Rest an order of client 1."""
    price = 1001 if side is SELL else 999
    return rested(order, side, price=price, quantity=10, client=1, instrument=instrument)


def gone(order: int, side: Side, instrument: str = BTC_USD) -> Event:
    """Cancel an order of client 1, who asked for it."""
    price = 1001 if side is SELL else 999
    return cancelled(
        order, side, price=price, quantity=10, client=1, asked_by=1, instrument=instrument
    )


# Positions of the orders are 3 to 7: two instruments were registered before.
HELD = [
    registered(ETH_EUR),
    mine(1, SELL),
    mine(2, BUY),
    mine(3, BUY, ETH_EUR),
    rested(4, BUY, price=999, quantity=10),
    mine(5, BUY),
]


def test_all_orders_of_a_client_are_cancelled_oldest_first_and_nobody_elses() -> None:
    state, command = given(*HELD), cancel_all(1)

    events = when(state, command)

    assert events == [
        all_cancelled(command, cancelled=4),
        gone(1, SELL),
        gone(2, BUY),
        gone(3, BUY, ETH_EUR),
        gone(5, BUY),
    ]
    evolve_all(state, events)
    check_state(state)
    assert state.open_orders == {"client-4": 1}


@pytest.mark.parametrize(
    ("narrowed", "orders"),
    [
        ({"instrument": BTC_USD}, [gone(1, SELL), gone(2, BUY), gone(5, BUY)]),
        ({"side": BUY}, [gone(2, BUY), gone(3, BUY, ETH_EUR), gone(5, BUY)]),
        ({"instrument": BTC_USD, "side": SELL}, [gone(1, SELL)]),
        ({"up_to": 5}, [gone(1, SELL), gone(2, BUY), gone(3, BUY, ETH_EUR)]),
        ({"instrument": "UNHEARD"}, []),
    ],
    ids=str,
)
def test_a_cancel_of_all_may_be_narrowed(narrowed: dict[str, Any], orders: list[Event]) -> None:
    command = cancel_all(1, **narrowed)

    events = when(given(*HELD), command)

    assert events == [all_cancelled(command, cancelled=len(orders)), *orders]


def test_a_client_without_orders_has_nothing_to_cancel() -> None:
    command = cancel_all(2)

    assert when(given(*HELD), command) == [all_cancelled(command, cancelled=0)]


def test_one_command_cancels_only_so_many_and_tells_how_many_remain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "CANCEL_ALL_MAX", 2)
    state = given(*HELD)
    first, next_ = cancel_all(1), cancel_all(1, up_to=state.position)

    events = when(state, first)
    evolve_all(state, [*events, mine(6, BUY)])
    events += when(state, next_)

    assert events == [
        all_cancelled(first, cancelled=2, remaining=2),
        gone(1, SELL),
        gone(2, BUY),
        all_cancelled(next_, cancelled=2),
        gone(3, BUY, ETH_EUR),
        gone(5, BUY),
    ]


def test_what_is_left_of_an_order_is_cancelled() -> None:
    state, command = given(*HELD), cancel_all(1, side=SELL)
    evolve_all(state, when(state, place(7, BUY, price=1001, quantity=4)))

    events = when(state, command)

    left = cancelled(1, SELL, price=1001, quantity=6, client=1, asked_by=1)
    assert events == [all_cancelled(command, cancelled=1), left]
