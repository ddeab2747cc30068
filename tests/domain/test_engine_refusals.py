"""What the exchange refuses, and why: every ``RejectReason`` has its example here.

Accepted cancels, instruments and records are tested next to their refusals.
"""

from exchange.domain.commands import PlaceShard
from exchange.domain.engine import State
from exchange.domain.events import ShardPlaced
from exchange.domain.values import OrderType, RejectReason, Side
from tests.builders import (
    BTC_USD,
    TIME_MS,
    accepted,
    cancel,
    cancel_rejected,
    cancelled,
    close,
    close_rejected,
    closed,
    depth,
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
    rested,
    trade,
    when,
)

BUY, SELL = Side.BUY, Side.SELL
ETH_EUR = "ETH-EUR"


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

    evolve_all(state, events)

    assert state.digest == digest
    assert depth(state, SELL) == [(1000, 10)]
    assert (state.position, state.time_ms) == (position + 1, TIME_MS + 5)


def test_a_cancel_takes_what_is_left_off_the_book() -> None:
    state = given(
        rested(1, SELL, price=1000, quantity=10, client=7),
        rested(2, SELL, price=1000, quantity=5),
        trade(maker=1, taker=3, price=1000, quantity=4, maker_remaining=6, maker_client=7),
    )

    events = when(state, cancel(1))

    assert events == [cancelled(1, SELL, price=1000, quantity=6, client=7)]
    evolve_all(state, events)
    assert depth(state, SELL) == [(1000, 5)]


def test_an_owner_may_cancel_and_nobody_else() -> None:
    state = given(rested(1, BUY, price=1000, quantity=10, client=7))

    assert when(state, cancel(1, client=8)) == [
        cancel_rejected(1, RejectReason.NOT_OWNER, asked_by=8)
    ]
    assert when(state, cancel(1, client=7)) == [
        cancelled(1, BUY, price=1000, quantity=10, client=7, asked_by=7)
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
    evolve_all(state, when(state, cancel(1)))

    assert when(state, cancel(1)) == [cancel_rejected(1, RejectReason.ORDER_NOT_OPEN)]


def test_a_cancel_looks_only_at_the_book_that_it_names() -> None:
    state = given(registered(ETH_EUR), rested(1, SELL, price=1000, quantity=10))

    not_there = when(state, cancel(1, instrument=ETH_EUR))
    nowhere = when(state, cancel(1, instrument="NO-ONE"))

    assert not_there == [cancel_rejected(1, RejectReason.ORDER_NOT_OPEN, instrument=ETH_EUR)]
    assert nowhere == [cancel_rejected(1, RejectReason.UNKNOWN_INSTRUMENT, instrument="NO-ONE")]


def test_an_instrument_is_registered_as_asked() -> None:
    command = register(ETH_EUR, price_scale=3, quantity_scale=4, tick=5, lot=20)

    assert when(State(), command) == [
        registered(ETH_EUR, price_scale=3, quantity_scale=4, tick=5, lot=20)
    ]


def test_an_instrument_is_registered_once_and_stays_as_it_was() -> None:
    state = given()

    events = when(state, register(BTC_USD, price_scale=0, tick=100))

    assert events == [instrument_rejected(BTC_USD)]
    evolve_all(state, events)
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
    evolve_all(state, events)
    assert depth(state, SELL) == [(1000, 10)]
    assert depth(state, BUY, ETH_EUR) == [(1000, 5)]


def test_a_record_that_is_no_command_is_told_of_in_the_log() -> None:
    command = malformed("Input data was truncated")

    assert when(given(), command) == [record_rejected(command)]


def test_a_settlement_cycle_is_closed_once() -> None:
    state = given()
    evolve_all(state, when(state, close(1)))

    assert when(state, close(1)) == [close_rejected(1)]
    assert when(state, close(2)) == [closed(2)]


def test_a_shard_is_added_to_the_cycle_that_is_open_and_changes_nothing_else() -> None:
    state = given(closed(3))
    digest = state.digest

    events = when(state, PlaceShard(2))
    evolve_all(state, events)

    assert events == [ShardPlaced(2, 4, time_ms=TIME_MS)]
    assert (state.settlement_cycle, state.digest) == (4, digest)


def test_a_shard_that_missed_a_closing_closes_the_earlier_cycles_too() -> None:
    state = given(closed(3))

    assert state.settlement_cycle == 4
    assert when(state, close(2)) == [close_rejected(2)]
    assert when(state, close(6)) == [closed(6)]
