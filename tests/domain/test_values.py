"""Which ids, names and amounts a command may carry."""

from typing import Any

import msgspec
import pytest

from exchange.domain.values import (
    Id,
    InstrumentName,
    PriceUnits,
    QuantityUnits,
    Scale,
    Side,
    instrument_of_exchange_order_id,
)

HEX = "0123456789abcdef" * 2


def is_valid(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def test_the_opposite_of_a_side_is_the_other_one() -> None:
    assert Side.BUY.opposite is Side.SELL
    assert Side.SELL.opposite is Side.BUY


@pytest.mark.parametrize("text", ["a", "order-1", "ä", "注文", "a b", "x" * 64, "💱" * 64])
def test_an_id_may_be_any_printable_text_up_to_its_length(text: str) -> None:
    assert is_valid(text, Id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 65,
        "a/b",
        "a\n",
        "\na",
        "a\x00b",
        "a\x1fb",
        "a\x7fb",
        "a\x85b",
        "a\u061cb",
        "a\u200eb",
        "a\u2028b",
        "a\u202eb",
        "a\u2066b",
        "a\u2069b",
        "a\ud800b",
        f"a{chr(0xDFFF)}b",
    ],
    ids=ascii,
)
def test_an_id_holds_no_slash_control_direction_or_surrogate(text: str) -> None:
    assert not is_valid(text, Id)


@pytest.mark.parametrize("name", ["BTC-USD", "A", "7", "BRK.B", "ES_Z6", "X" * 31])
def test_an_instrument_is_named_in_capitals(name: str) -> None:
    assert is_valid(name, InstrumentName)


@pytest.mark.parametrize(
    "name", ["", "btc-usd", "-USD", ".A", "BTC USD", "BTC/USD", "BTC-USD\n", "Ä", "X" * 32]
)
def test_an_instrument_has_no_other_characters(name: str) -> None:
    assert not is_valid(name, InstrumentName)


@pytest.mark.parametrize("kind", [PriceUnits, QuantityUnits], ids=["price", "quantity"])
def test_an_amount_is_positive_and_exact_for_every_json_reader(kind: object) -> None:
    assert is_valid(1, kind)
    assert is_valid(2**53 - 1, kind)
    assert not is_valid(0, kind)
    assert not is_valid(-1, kind)
    assert not is_valid(2**53, kind)
    assert not is_valid(1.5, kind)
    assert not is_valid("1", kind)
    assert not is_valid(True, kind)


def test_a_scale_leaves_room_for_whole_units() -> None:
    assert is_valid(0, Scale)
    assert is_valid(12, Scale)
    assert not is_valid(13, Scale)
    assert not is_valid(-1, Scale)


def test_an_id_made_by_the_exchange_carries_its_instrument() -> None:
    assert instrument_of_exchange_order_id(f"{HEX}-BTC-USD") == "BTC-USD"
    assert instrument_of_exchange_order_id(f"{HEX}-{'X' * 31}") == "X" * 31


@pytest.mark.parametrize(
    "order_id",
    [
        "order-1",
        HEX,
        f"{HEX}-",
        f"{HEX}-btc",
        f"{HEX}-BTC\n",
        f"{HEX}-{'X' * 32}",
        f"{HEX[:-1]}-BTC",
        f"{HEX.upper()}-BTC",
        f"x{HEX}-BTC",
        "\uff11" * 32 + "-BTC",
    ],
    ids=ascii,
)
def test_any_other_id_was_chosen_by_a_client(order_id: str) -> None:
    assert instrument_of_exchange_order_id(order_id) is None


def test_every_made_id_is_a_valid_id() -> None:
    assert is_valid(f"{HEX}-{'X' * 31}", Id)
