"""How h11 reads heads and chunks, without its backtracking and with a bound on header lines.

Two patterns of h11 0.16 take quadratic time: a header of 64 KiB of spaces before a NUL held the
event loop for 23 s, and so can a chunk's extension with a bare line feed. The patterns here match
the same lines in one pass. h11 has no setting for either, so ``bound_heads`` replaces them, once,
before the server starts.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from h11 import LocalProtocolError, _readers  # noqa: PLC2701  it has no bound to set

HEADER_LINES_MAX: Final = 256  # browsers send about 20; 10,000 held the event loop for 50 ms
TOO_LARGE: Final = 431

# ``(?![ \t])`` takes all leading blanks at once. Otherwise each blank would be tried as the
# first of those that follow the value.
HEADER_FIELD: Final = re.compile(
    rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]+):[ \t]*(?![ \t])"
    rb"(?P<field_value>(?:[^\x00\s](?:[^\x00\r\n\f\v]*[^\x00\s])?)?)[ \t]*"
)
# An extension takes the blanks after it, so that no alternatives are left to try.
CHUNK_HEADER: Final = re.compile(
    rb"(?P<chunk_size>[0-9A-Fa-f]{1,20})(?:(?P<chunk_ext>;.*)|[ \t]*)\r\n"
)

_decode_header_lines = _readers._decode_header_lines


def bound_heads() -> None:
    """Let no head or chunk take more than its length to read."""
    setattr(_readers, "header_field_re", HEADER_FIELD)  # noqa: B010
    setattr(_readers, "chunk_header_re", CHUNK_HEADER)  # noqa: B010
    setattr(_readers, "_decode_header_lines", _bounded_header_lines)  # noqa: B010


def _bounded_header_lines(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    kept = list(islice(lines, HEADER_LINES_MAX + 1))
    if len(kept) > HEADER_LINES_MAX:
        raise LocalProtocolError(f"more than {HEADER_LINES_MAX} header lines", TOO_LARGE)
    yield from _decode_header_lines(kept)
