"""Decimals of clients to integers of an instrument's scale, and back, exactly.

An amount stays text until it matches an ASCII pattern of bounded length: converting ``1e1000000``
at once would take half a minute. No amount is ever a binary float: ``decimal`` writes an integer as
the shortest plain decimal, and ``Raw`` puts that text into the document unchanged.
"""

import re
from typing import Annotated, Final

from msgspec import Meta, Raw

from exchange.domain.values import UNITS_LIMIT
from exchange.gateway.http.problems import invalid
from exchange.log.documents.text import DECIMAL_PATTERN, decimal

AMOUNT_CHARACTERS_MAX: Final = 64  # an amount below 2^53 needs 30
UNITS_DIGITS_MAX: Final = len(str(UNITS_LIMIT))

NULL: Final = Raw(b"null")

# Both follow the JSON grammar of numbers, without leading zeros. A number may have an exponent,
# since 0.00000001 is often written 1e-08, and the exponent may have leading zeros (1e-008). A
# string may have no exponent.
_NUMBER = re.compile(rb"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?0*[0-9]{1,3}))?")
_STRING = re.compile(rb'"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?()"')

_AMOUNT: Final = (
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": AMOUNT_CHARACTERS_MAX - 2},
)
AmountIn = Annotated[Raw, Meta(extra_json_schema={"anyOf": [*_AMOUNT]})]
PriceIn = Annotated[Raw, Meta(extra_json_schema={"anyOf": [*_AMOUNT, {"type": "null"}]})]


Amount = Annotated[Raw, Meta(extra_json_schema={"type": "number"})]


AVERAGE_DECIMALS: Final = 8  # more than the price's own; an average may have endless decimals


def amount(units: int, scale: int) -> Raw:
    """Return a JSON number for ``units`` of 10^-scale."""
    return Raw(decimal(units, scale).encode())


def ratio(numerator: int, denominator: int, scale: int, *, decimals: int) -> str:
    """Write numerator / denominator · 10^-scale, rounded half to even at ``decimals`` places."""
    widened = abs(numerator) * 10 ** max(0, decimals - scale)
    divisor = abs(denominator) * 10 ** max(0, scale - decimals)
    quotient, remainder = divmod(widened, divisor)
    twice = 2 * remainder
    quotient += twice > divisor or (twice == divisor and quotient % 2 == 1)
    negative = (numerator < 0) != (denominator < 0)
    return decimal(-quotient if negative else quotient, decimals)


def null() -> Raw:
    """Return the default of a price: it was not given."""
    return NULL


def to_units(amount: Raw, scale: int, field: str) -> int:
    """Convert a JSON number or a decimal string to units of 10^-scale, exactly.

    Raises:
        Problem: 422 naming the field: it is no number, not above zero, too large or too precise.
    """
    text = bytes(amount)
    matched = None
    if len(text) <= AMOUNT_CHARACTERS_MAX:
        matched = _NUMBER.fullmatch(text) or _STRING.fullmatch(text)
    if matched is None:
        form = f"at most {AMOUNT_CHARACTERS_MAX} characters, without an exponent in a string"
        raise invalid(field, f"must be a number or a decimal string of {form}")
    sign, whole, fraction, exponent = matched.groups(default=b"")
    digits = (whole + fraction).lstrip(b"0")
    if sign or not digits:
        raise invalid(field, "must be greater than zero")
    return _shift(digits, scale - len(fraction) + int(exponent or 0), scale, field)


def is_null(amount: Raw) -> bool:
    """Tell whether a request has ``null`` instead of an amount."""
    return bytes(amount) == b"null"


def _shift(digits: bytes, shift: int, scale: int, field: str) -> int:
    if shift < 0:
        if digits[shift:].strip(b"0") or -shift >= len(digits):
            raise invalid(field, f"has more than {scale} decimal places")
        digits, shift = digits[:shift], 0
    if len(digits) + shift > UNITS_DIGITS_MAX:
        raise invalid(field, "is too large")
    units = int(digits + b"0" * shift)
    if units >= UNITS_LIMIT:
        raise invalid(field, "is too large")
    return units
