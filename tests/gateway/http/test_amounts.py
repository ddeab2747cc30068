"""Decimals to units and back: exact, bounded, and nothing but decimals."""

import json
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from exchange.domain.values import SCALE_MAX, UNITS_LIMIT
from exchange.gateway.http.amounts import ratio, to_units
from exchange.gateway.http.problems import Problem
from exchange.log.documents.text import decimal

scales = st.integers(0, SCALE_MAX)
units = st.integers(1, UNITS_LIMIT - 1)


@given(units, scales)
def test_what_is_written_reads_back(amount: int, scale: int) -> None:
    text = decimal(amount, scale)

    assert Decimal(text) == Decimal(amount).scaleb(-scale)
    assert to_units(Raw(text.encode()), scale, "price") == amount
    assert to_units(Raw(json.dumps(text).encode()), scale, "price") == amount


@given(st.integers(-(2**80), 2**80), scales)
def test_a_decimal_is_plain_and_shortest(amount: int, scale: int) -> None:
    text = decimal(amount, scale)

    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", ".")))
    assert Decimal(text) == Fraction(amount, 10**scale)


@pytest.mark.parametrize(
    ("text", "scale", "expected"),
    [
        ("70150.5", 2, 7015050),
        ("0.25", 8, 25000000),
        ("1e-08", 8, 1),
        ("1e-008", 8, 1),
        ("1E+000", 0, 1),
        ("1E2", 0, 100),
        ("1.50", 1, 15),
        ("100e-2", 0, 1),
        ('"0.1"', 2, 10),
        ("9007199254740991", 0, UNITS_LIMIT - 1),
    ],
)
def test_numbers_and_decimal_strings_are_converted(text: str, scale: int, expected: int) -> None:
    assert to_units(Raw(text.encode()), scale, "price") == expected


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0.00",
        "-1",
        '"-1"',
        '"0"',
        "0.001",
        "1e-9",
        "9007199254740992",
        "1e15",
        "1e99",
        "1e999",
        "1e-999",
        "1e1000000",
        "1" * 65,
        '"1e2"',
        '"1E2"',
        '" 1"',
        '"1 "',
        '"+1"',
        '"01"',
        '".5"',
        '"5."',
        '""',
        '"NaN"',
        '"Infinity"',
        '"1_000"',
        '"1,5"',
        '"٣"',
        '"１"',
        '"\\u0031"',
        "null",
        "true",
        "[1]",
        '{"a":1}',
    ],
)
def test_everything_else_is_refused_naming_the_field(text: str) -> None:
    began_s = time.thread_time()

    with pytest.raises(Problem) as refused:
        to_units(Raw(text.encode()), 2, "quantity")

    assert refused.value.code.status == 422
    assert refused.value.fields == {"field": "quantity"}
    assert time.thread_time() - began_s < 0.1


@given(
    st.integers(-(2**100), 2**100),
    st.integers(-(2**53), 2**53).filter(bool),
    scales,
    st.integers(0, 20),
)
def test_a_ratio_is_rounded_half_to_even(
    numerator: int, denominator: int, scale: int, decimals: int
) -> None:
    exact = Fraction(numerator, denominator) / 10**scale

    text = ratio(numerator, denominator, scale, decimals=decimals)

    assert Fraction(Decimal(text)) == round(exact, decimals)
