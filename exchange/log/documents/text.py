"""How amounts and times are written in JSON: plain decimals, and ISO 8601 in UTC."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

DECIMAL_PATTERN: Final = r"^(0|[1-9][0-9]*)(\.[0-9]+)?$"
SECONDS_KEPT: Final = 256  # distinct seconds; nearly every answer is about the latest ones


def decimal(units: int, scale: int) -> str:
    """Write ``units`` of 10^-scale as the shortest plain decimal."""
    if scale == 0:
        return str(units)
    sign, digits = ("-", str(-units)) if units < 0 else ("", str(units))
    digits = digits.rjust(scale + 1, "0")
    fraction = digits[-scale:].rstrip("0")
    whole = digits[:-scale]
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def timestamp(time_ms: int) -> str:
    """Write milliseconds since the epoch as ISO 8601 in UTC."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(SECONDS_KEPT)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
