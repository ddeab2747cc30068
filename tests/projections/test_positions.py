"""Average cost, compared with examples worked out by hand."""

import pytest

from projections.positions import Holding


@pytest.mark.parametrize(
    ("trades", "expected"),
    [
        ([(10, 100), (5, 130)], Holding(15, 1_650, 0)),
        ([(10, 100), (-4, 130)], Holding(6, 600, 120)),
        ([(10, 100), (-10, 90)], Holding(0, 0, -100)),
        ([(10, 100), (-15, 130)], Holding(-5, -650, 300)),
        ([(-10, 100), (4, 130)], Holding(-6, -600, -120)),
        ([(-10, 100), (15, 90)], Holding(5, 450, 100)),
        # A third of 100 is rounded toward zero, long or short; closing leaves no cost behind.
        ([(2, 33), (1, 34), (-1, 40)], Holding(2, 67, 7)),
        ([(-2, 33), (-1, 34), (1, 40)], Holding(-2, -67, -7)),
        ([(2, 33), (1, 34), (-1, 40), (-2, 40)], Holding(0, 0, 20)),
    ],
)
def test_after_trades(trades: list[tuple[int, int]], expected: Holding) -> None:
    holding = Holding()
    for quantity, price in trades:
        holding.trade(quantity, price)

    assert holding == expected
