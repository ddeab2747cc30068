"""What a load tells is what happened, however late an order was."""

import pytest
from rich.console import Console

from exchange.tools.market.load import Measured, Plan
from exchange.tools.market.report import histogram, show


def test_latencies_of_a_load_that_falls_behind_are_not_cut() -> None:
    measured = Measured()

    measured.note("201", 75.0, accepted=True)

    assert measured.percentile_ms(50) == pytest.approx(75_000, rel=0.001)
    assert measured.latencies.get_max_value() / 1000 == pytest.approx(75_000, rel=0.001)
    assert dict(histogram(measured))[3_600_000] == 1


@pytest.mark.parametrize(
    ("rate", "told"),
    [(150.0, "150 a second were intended."), (0.0, "not reached."), (2_500.0, "not reached.")],
)
def test_a_load_that_was_to_be_slower_is_not_measured_by_the_target(rate: float, told: str) -> None:
    console = Console(width=200)

    with console.capture() as captured:
        show(console, Plan("http://x", 1, 10, 1.0, rate, False, 1), Measured())

    assert told in captured.get()
    assert ("2,000 a second" in captured.get()) == (told == "not reached.")
