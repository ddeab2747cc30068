"""What a load tells is what happened, however late an order was."""

import pytest

from exchange.tools.market.load import Measured
from exchange.tools.market.report import histogram


def test_latencies_of_a_load_that_falls_behind_are_not_cut() -> None:
    measured = Measured()

    measured.note("201", 75.0, accepted=True)

    assert measured.percentile_ms(50) == pytest.approx(75_000, rel=0.001)
    assert measured.latencies.get_max_value() / 1000 == pytest.approx(75_000, rel=0.001)
    assert dict(histogram(measured))[3_600_000] == 1
