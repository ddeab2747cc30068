"""The digest tells two states apart whenever they would ever decide differently."""

import pytest

from exchange.domain.engine import DIGEST_BYTES, OPEN_ORDERS_MAX, State, check_state, evolve
from exchange.domain.events import Event, OpenOrdersLimited
from exchange.domain.values import Side
from tests.builders import (
    TIME_MS,
    cancel,
    closed,
    evolve_all,
    given,
    registered,
    rested,
    when,
)

BUY, SELL = Side.BUY, Side.SELL
ETH_EUR = "ETH-EUR"
FIRST = rested(1, BUY, price=1000, quantity=10)


def test_a_new_state_has_the_digest_of_nothing() -> None:
    assert State().digest == bytes(DIGEST_BYTES)


def test_the_digest_is_back_when_all_that_rested_is_gone() -> None:
    state = given()
    before = state.digest
    evolve_all(state, [FIRST])
    assert state.digest != before

    evolve_all(state, when(state, cancel(1)))

    assert state.digest == before


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


def test_the_digest_covers_the_open_settlement_cycle() -> None:
    digests = [given(*closings).digest for closings in ([], [closed(1)], [closed(1), closed(2)])]

    assert len(set(digests)) == 3
    assert given(closed(2)).digest == digests[-1]


def test_the_digest_covers_a_bound_on_open_orders_that_was_changed() -> None:
    unchanged, changed = given(FIRST), given(FIRST, OpenOrdersLimited(7, time_ms=TIME_MS))
    back = OpenOrdersLimited(OPEN_ORDERS_MAX, time_ms=TIME_MS)

    assert changed.digest != unchanged.digest
    evolve_all(changed, [back])
    assert changed.digest == unchanged.digest


def test_the_digest_asks_only_the_books_that_changed() -> None:
    state = given(*(registered(f"I{number}-USD") for number in range(50)), FIRST)
    assert len(state.unhashed) == 0, "what evolve_all has checked is hashed"

    evolve(state, rested(2, BUY, price=1000, quantity=10))

    assert state.unhashed == {state.books["BTC-USD"]}
    assert state.digest
    assert state.unhashed == set()


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
