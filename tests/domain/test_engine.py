"""What each command causes, by example: given a history, when a command, then these events.

The expectation is always the whole list. ``test_properties`` says what holds for every list
of commands, and ``test_oracle`` compares with a matcher of another make.
"""

import pytest

from exchange.domain.engine import DIGEST_BYTES, State, check_state, decide, evolve
from exchange.domain.events import Event
from exchange.domain.values import OrderType, RejectReason, Side
from tests.builders import (
    BTC_USD,
    TIME_MS,
    accepted,
    accepted_market,
    cancel,
    cancel_rejected,
    cancelled,
    evolve_all,
    given,
    instrument_rejected,
    malformed,
    place,
    place_market,
    record_rejected,
    register,
    registered,
    rejected,
    remainder_cancelled,
    rested,
    trade,
    when,
)

BUY, SELL = Side.BUY, Side.SELL
ETH_EUR = "ETH-EUR"


def after(state: State, *events: Event) -> State:
    evolve_all(state, events)
    return state


def depth(state: State, side: Side, instrument: str = BTC_USD) -> list[tuple[int, int]]:
    return state.books[instrument].sides[side].depth(20)


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
    after(state, *events)
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
    after(state, *events)
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
    after(state, *when(state, place(3, BUY, price=1000, quantity=4)))
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
    after(state, *when(state, cancel(1)))
    after(state, *when(state, place(1, SELL, price=1000, quantity=10)))

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
    after(state, *events)
    assert state.books[BTC_USD].orders == {}


def test_a_market_order_on_an_empty_book_is_cancelled_whole() -> None:
    events = when(given(), place_market(1, BUY, quantity=15))

    assert events == [
        accepted_market(1, BUY, quantity=15),
        remainder_cancelled(1, BUY, quantity=15),
    ]


# Refusals of orders


def test_an_order_for_an_unknown_instrument_is_refused() -> None:
    order = place(1, BUY, price=1000, quantity=10, instrument="NO-ONE")

    assert when(given(), order) == [rejected(order, RejectReason.UNKNOWN_INSTRUMENT)]


def test_an_order_id_that_was_taken_is_refused_whatever_else_is_wrong() -> None:
    order = place(1, BUY, price=1000, quantity=10)
    elsewhere = place(1, BUY, price=1000, quantity=10, instrument="NO-ONE")
    reason = RejectReason.DUPLICATE_ORDER_ID

    assert when(given(), order, order_id_taken=True) == [rejected(order, reason)]
    assert when(given(), elsewhere, order_id_taken=True) == [rejected(elsewhere, reason)]


def test_the_id_of_a_resting_order_is_refused_even_if_nobody_claimed_it() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10))
    order = place(1, BUY, price=1000, quantity=10)

    assert when(state, order) == [rejected(order, RejectReason.DUPLICATE_ORDER_ID)]


def test_a_limit_order_without_a_price_is_refused() -> None:
    order = place(1, BUY, price=None, quantity=10)

    assert when(given(), order) == [rejected(order, RejectReason.PRICE_REQUIRED)]


def test_a_market_order_with_a_price_is_refused() -> None:
    order = place(1, BUY, price=1000, quantity=10, order_type=OrderType.MARKET)

    assert when(given(), order) == [rejected(order, RejectReason.PRICE_NOT_ALLOWED)]


def test_a_price_between_ticks_is_refused() -> None:
    state = given(registered(ETH_EUR, tick=5))
    order = place(1, BUY, price=1001, quantity=10, instrument=ETH_EUR)

    assert when(state, order) == [rejected(order, RejectReason.OFF_TICK)]


def test_a_quantity_between_lots_is_refused() -> None:
    state = given(registered(ETH_EUR, lot=100))
    limit = place(1, BUY, price=1000, quantity=150, instrument=ETH_EUR)
    market = place_market(1, BUY, quantity=99, instrument=ETH_EUR)

    assert when(state, limit) == [rejected(limit, RejectReason.OFF_LOT)]
    assert when(state, market) == [rejected(market, RejectReason.OFF_LOT)]


def test_a_price_on_a_tick_and_a_quantity_of_whole_lots_are_taken() -> None:
    state = given(registered(ETH_EUR, tick=5, lot=100))

    events = when(state, place(1, BUY, price=1005, quantity=300, instrument=ETH_EUR))

    assert events == [
        accepted(1, BUY, price=1005, quantity=300, instrument=ETH_EUR),
        rested(1, BUY, price=1005, quantity=300, instrument=ETH_EUR),
    ]


def test_a_refusal_changes_only_position_and_time() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10))
    digest, position = state.digest, state.position
    events = when(state, place(1, BUY, price=1000, quantity=10), time_ms=TIME_MS + 5)

    after(state, *events)

    assert state.digest == digest
    assert depth(state, SELL) == [(1000, 10)]
    assert (state.position, state.time_ms) == (position + 1, TIME_MS + 5)


# Cancels


def test_a_cancel_takes_what_is_left_off_the_book() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10, client=7),
        rested(2, SELL, price=1000, quantity=5),
        trade(maker=1, taker=3, price=1000, quantity=4, maker_remaining=6, maker_client=7),
    )

    events = when(state, cancel(1))

    assert events == [cancelled(1, SELL, price=1000, quantity=6, client=7)]
    after(state, *events)
    assert depth(state, SELL) == [(1000, 5)]


def test_an_owner_may_cancel_and_nobody_else() -> None:
    state = given(rested(1, BUY, price=1000, quantity=10, client=7))

    assert when(state, cancel(1, client=8)) == [cancel_rejected(1, RejectReason.NOT_OWNER)]
    assert when(state, cancel(1, client=7)) == [
        cancelled(1, BUY, price=1000, quantity=10, client=7)
    ]


def test_an_order_that_never_was_cannot_be_cancelled() -> None:
    assert when(given(), cancel(1)) == [cancel_rejected(1, RejectReason.ORDER_NOT_OPEN)]


def test_a_filled_order_cannot_be_cancelled() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10),
        trade(maker=1, taker=2, price=1000, quantity=10),
    )

    assert when(state, cancel(1)) == [cancel_rejected(1, RejectReason.ORDER_NOT_OPEN)]
    assert when(state, cancel(2)) == [cancel_rejected(2, RejectReason.ORDER_NOT_OPEN)]


def test_an_order_cannot_be_cancelled_twice() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10))
    after(state, *when(state, cancel(1)))

    assert when(state, cancel(1)) == [cancel_rejected(1, RejectReason.ORDER_NOT_OPEN)]


def test_a_cancel_looks_only_at_the_book_that_it_names() -> None:
    state = given(registered(ETH_EUR), rested(1, SELL, price=1000, quantity=10))

    not_there = when(state, cancel(1, instrument=ETH_EUR))
    nowhere = when(state, cancel(1, instrument="NO-ONE"))

    assert not_there == [cancel_rejected(1, RejectReason.ORDER_NOT_OPEN, instrument=ETH_EUR)]
    assert nowhere == [cancel_rejected(1, RejectReason.UNKNOWN_INSTRUMENT, instrument="NO-ONE")]


# Instruments and records


def test_an_instrument_is_registered_as_asked() -> None:
    command = register(ETH_EUR, price_scale=3, quantity_scale=4, tick=5, lot=20)

    assert when(State(), command) == [
        registered(ETH_EUR, price_scale=3, quantity_scale=4, tick=5, lot=20)
    ]


def test_an_instrument_is_registered_once_and_stays_as_it_was() -> None:
    state = given()

    events = when(state, register(BTC_USD, price_scale=0, tick=100))

    assert events == [instrument_rejected(BTC_USD)]
    after(state, *events)
    assert state.books[BTC_USD].instrument.price_scale == 2


def test_each_instrument_has_its_own_book() -> None:
    state = given(
        registered(ETH_EUR),
        rested(1, SELL, price=1000, quantity=10),
        rested(2, SELL, price=1000, quantity=10, instrument=ETH_EUR),
    )

    events = when(state, place(3, BUY, price=1000, quantity=15, instrument=ETH_EUR))

    assert events == [
        accepted(3, BUY, price=1000, quantity=15, instrument=ETH_EUR),
        trade(maker=2, taker=3, price=1000, quantity=10, taker_remaining=5, instrument=ETH_EUR),
        rested(3, BUY, price=1000, quantity=5, instrument=ETH_EUR),
    ]
    after(state, *events)
    assert depth(state, SELL) == [(1000, 10)]
    assert depth(state, BUY, ETH_EUR) == [(1000, 5)]


def test_a_record_that_is_no_command_is_told_of_in_the_log() -> None:
    command = malformed("Input data was truncated")

    assert when(given(), command) == [record_rejected(command)]


# Time and position


def test_time_never_runs_backwards() -> None:
    state = given()
    assert state.time_ms == TIME_MS

    early = when(state, place(1, BUY, price=1000, quantity=10), time_ms=TIME_MS - 3_600_000)
    late = when(state, place(1, BUY, price=1000, quantity=10), time_ms=TIME_MS + 1)

    assert [event.time_ms for event in early] == [TIME_MS, TIME_MS]
    assert [event.time_ms for event in late] == [TIME_MS + 1, TIME_MS + 1]


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


# The digest


def test_a_new_state_has_the_digest_of_nothing() -> None:
    assert State().digest == bytes(DIGEST_BYTES)


def test_the_digest_is_back_when_all_that_rested_is_gone() -> None:
    state = given()
    before = state.digest
    after(state, rested(1, BUY, price=1000, quantity=10))
    assert state.digest != before

    after(state, *when(state, cancel(1)))

    assert state.digest == before


FIRST = rested(1, BUY, price=1000, quantity=10)


@pytest.mark.parametrize(
    "other",
    [
        rested(2, BUY, price=1000, quantity=10, client=1),
        rested(1, BUY, price=1000, quantity=10, client=2),
        rested(1, SELL, price=1000, quantity=10),
        rested(1, BUY, price=1001, quantity=10),
        rested(1, BUY, price=1000, quantity=11),
        rested(1, BUY, price=1000, quantity=10, instrument=ETH_EUR),
    ],
    ids=["order", "client", "side", "price", "quantity", "instrument"],
)
def test_the_digest_covers_everything_about_an_order(other: Event) -> None:
    assert given(registered(ETH_EUR), FIRST).digest != given(registered(ETH_EUR), other).digest


def test_the_digest_covers_time_priority() -> None:
    second = rested(2, BUY, price=1000, quantity=10)

    assert given(FIRST, second).digest != given(second, FIRST).digest


@pytest.mark.parametrize(
    "other",
    [
        registered("ETH-USD"),
        registered(ETH_EUR, price_scale=3),
        registered(ETH_EUR, quantity_scale=3),
        registered(ETH_EUR, tick=3),
        registered(ETH_EUR, lot=3),
    ],
    ids=["name", "price scale", "quantity scale", "tick", "lot"],
)
def test_the_digest_covers_everything_about_an_instrument(other: Event) -> None:
    assert given(registered(ETH_EUR)).digest != given(other).digest


def test_the_digest_does_not_cover_time() -> None:
    later = rested(1, BUY, price=1000, quantity=10, time_ms=TIME_MS + 1)

    assert given(FIRST).digest == given(later).digest


def test_the_digest_is_what_logs_already_hold() -> None:
    """Heads and batches keep digests for ever: this text may not change."""
    state = given(FIRST, rested(2, SELL, price=1005, quantity=3))

    assert state.digest.hex() == (
        "8d7349172a6a595b8ad85711cacbf6cb9b65d98a055239fcfde81768c49f404b"
    )


def test_the_check_sees_a_digest_that_drifted() -> None:
    state = given(FIRST)
    state.digest_sum += 1

    with pytest.raises(AssertionError):
        check_state(state)


def test_decide_leaves_the_state_as_it_was() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10))
    digest = state.digest

    decide(state, place(2, BUY, price=1000, quantity=4), time_ms=TIME_MS + 9)

    assert (state.digest, state.time_ms, state.position) == (digest, TIME_MS, 2)
    assert depth(state, SELL) == [(1000, 10)]
