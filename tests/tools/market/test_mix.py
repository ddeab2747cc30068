"""The same seed gives the same orders, and a file of orders gives the same orders back."""

from itertools import islice
from pathlib import Path

import pytest

from exchange.tools.market.mix import CLIENTS, Mix, MixError, read_fixtures, write_fixtures

MIX = Mix(7, "BTC-USD", "p")


def test_a_seed_is_its_orders(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    write_fixtures(one, MIX, 500)
    write_fixtures(same, MIX, 500)
    write_fixtures(other, Mix(8, "BTC-USD", "p"), 500)

    assert one.read_bytes() == same.read_bytes() != other.read_bytes()
    assert read_fixtures(one) == list(islice(MIX.orders(), 500))


def test_the_mix_is_what_it_says() -> None:
    orders = list(islice(MIX.orders(), 5_000))

    market = [order for order in orders if order["type"] == "market"]
    assert 0.28 < len(market) / len(orders) < 0.32
    assert not any("price" in order for order in market)
    assert len({order["client_id"] for order in orders}) == CLIENTS
    assert len({order["idempotency_key"] for order in orders}) == len(orders)
    assert {len(o["price"].partition(".")[2]) for o in orders if "price" in o} == {2}


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "has no orders"), ("{}\nnonsense", "line 2"), ("[]", "line 1"), (None, "No such file")],
)
def test_a_file_that_cannot_be_used_says_why(text: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    if text is not None:
        path.write_text(text)

    with pytest.raises(MixError, match=why):
        read_fixtures(path)
