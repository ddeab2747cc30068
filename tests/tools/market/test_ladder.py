"""A ladder keeps the book that it is sent, and refuses a book with a gap."""

from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from exchange.tools.market.following import Gap, read
from exchange.tools.market.ladder import Ladder, lines, picture

SNAPSHOT = """{"type": "orderbook", "kind": "snapshot", "instrument": "BTC-USD", "sequence": 7,
"timestamp": "2024-01-01T00:00:00.000Z",
"bids": [{"price": 9.5, "quantity": 1, "cumulative": 1}],
"asks": [{"price": 10, "quantity": 0.1, "cumulative": 0.1}, {"price": 11, "quantity": 0.2}]}"""


def delta(sequence: int, after: int, **sides: Any) -> dict[str, Any]:
    kind = {"type": "orderbook", "kind": "delta", "timestamp": "2024-01-01T00:00:01.000Z"}
    return {**kind, "sequence": sequence, "prev_sequence": after, "bids": [], "asks": [], **sides}


@pytest.fixture
def ladder() -> Ladder:
    ladder = Ladder("BTC-USD")
    ladder.take(read(SNAPSHOT))
    return ladder


def test_amounts_add_up_exactly_and_decimal_points_are_aligned(ladder: Ladder) -> None:
    assert [line.split() for line in lines(ladder, 10)][1:] == [
        ["ask", "11.0", "0.2", "0.3"],
        ["ask", "10.0", "0.1", "0.1"],
        ["bid", "9.5", "1.0", "1.0"],
    ]
    assert ladder.spread == "spread 0.5"


def test_a_delta_sets_a_level_and_zero_removes_one(ladder: Ladder) -> None:
    asks = [{"price": 10, "quantity": 0}, {"price": 11, "quantity": 5}]
    ladder.take(delta(9, 7, asks=asks))

    assert ladder.levels("asks", 10) == [(Decimal(11), Decimal(5), Decimal(5))]
    ladder.take(delta(10, 9, bids=[{"price": 9.5, "quantity": 0}]))
    assert ladder.spread == "no bids"


def test_a_missing_delta_is_no_book(ladder: Ladder) -> None:
    with pytest.raises(Gap):
        ladder.take(delta(12, 9))


def test_a_large_book_is_believed_when_all_of_its_parts_are_there(ladder: Ladder) -> None:
    def part(number: int, **sides: Any) -> dict[str, Any]:
        book = {"kind": "snapshot", "sequence": 9, "part": number, "parts": 2}
        return {**delta(9, 7), **book, **sides}

    ladder.take(part(1, bids=[{"price": 8, "quantity": 1}]))
    assert ladder.sequence == 7
    ladder.take(part(2, asks=[{"price": 9, "quantity": 1}]))

    assert (ladder.sequence, ladder.spread) == (9, "spread 1")
    ladder.take(part(1))
    with pytest.raises(Gap):
        ladder.take(part(3))


def test_a_picture_fits_a_terminal(ladder: Ladder) -> None:
    console = Console(record=True, width=80, file=StringIO())

    console.print(picture(ladder, 10))

    text = console.export_text()
    assert "█" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
