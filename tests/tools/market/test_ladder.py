"""A ladder shows the book that it is told."""

from io import StringIO

import pytest
from rich.console import Console

from exchange.client.messages import BookTold, read_message
from exchange.tools.market.ladder import Ladder, lines, picture

SNAPSHOT = b"""{"type": "orderbook", "kind": "snapshot", "instrument": "BTC-USD", "sequence": 7,
"timestamp": "2024-01-01T00:00:00.000Z",
"bids": [{"price": 9.5, "quantity": 1, "cumulative": 1}],
"asks": [{"price": 10, "quantity": 0.1, "cumulative": 0.1}, {"price": 11, "quantity": 0.2}]}"""
EMPTY = b"""{"type": "orderbook", "kind": "snapshot", "instrument": "BTC-USD", "sequence": 8,
"timestamp": "2024-01-01T00:00:00.000Z", "bids": [], "asks": [{"price": 1, "quantity": 1}]}"""


def take(ladder: Ladder, text: bytes) -> None:
    told = read_message(text)
    assert isinstance(told, BookTold)
    ladder.book.take(told)


@pytest.fixture
def ladder() -> Ladder:
    ladder = Ladder("BTC-USD")
    take(ladder, SNAPSHOT)
    return ladder


def test_amounts_add_up_exactly_and_decimal_points_are_aligned(ladder: Ladder) -> None:
    assert [line.split() for line in lines(ladder, 10)][1:] == [
        ["ask", "11.0", "0.2", "0.3"],
        ["ask", "10.0", "0.1", "0.1"],
        ["bid", "9.5", "1.0", "1.0"],
    ]
    assert ladder.spread == "spread 0.5"


def test_an_empty_side_is_told(ladder: Ladder) -> None:
    assert Ladder("BTC-USD").spread == "nothing rests"
    take(ladder, EMPTY)
    assert ladder.spread == "no bids"


def test_a_picture_fits_a_terminal(ladder: Ladder) -> None:
    console = Console(record=True, width=80, file=StringIO())

    console.print(picture(ladder, 10))

    text = console.export_text()
    assert "█" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
