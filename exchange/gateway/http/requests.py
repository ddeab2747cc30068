"""Bytes to validated input: what a client may send.

A body is read twice on purpose. First ``check_json`` refuses JSON that two readers could understand
differently (duplicate keys, NaN, deep nesting; 400). This costs 4 µs; msgspec alone would take the
last of duplicate keys. Then msgspec decodes the body into a frozen struct and refuses the wrong
shape, naming the field (422).
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final, NoReturn, TypeVar

import msgspec
from starlette.requests import Request

from exchange.domain.values import ID_CHARACTERS_MAX, ID_PATTERN, OrderType, Side
from exchange.gateway.http.declaration import OPERATIONS
from exchange.gateway.http.parameters import Several, WholeNumber
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.log.identity import BODY_HASH_BYTES
from exchange.ports import UNKNOWN_BODY

DEPTH_MAX: Final = 32  # our bodies are one level deep; deep nesting is an attack on parsers

EXPLANATION_CHARACTERS_MAX: Final = 200  # the decoder's message may quote a long value
SHARD_DIGITS_MAX: Final = 4  # a shard is 16 bits in the log

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
LAST_MINUTE: Final = (23, 59)  # of a day in UTC: only this minute may have a leap second
_ID = re.compile(ID_PATTERN)
_INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
_LOST_PLUS = re.compile(r"[^+]*[0-9] [0-9]{2}:?[0-9]{2}")  # in a query a + is a blank
_SECOND_60 = re.compile(r"([Tt ][0-9]{2}:[0-9]{2}):60")
_BODY_HASH = re.compile(f"[0-9a-f]{{{2 * BODY_HASH_BYTES}}}")
# An unclosed string matches to the end. Otherwise each quote in it would be tried as the start of a
# string, which takes quadratic time.
_STRINGS_OF_JSON = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)

T = TypeVar("T")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Read a body.

    Raises:
        Problem: 400 if it is no JSON, 422 naming the field if it has another shape.
    """
    check_json(body)
    return read_checked(body, decoder)


def read_checked(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Read a body that ``check_json`` has passed.

    Raises:
        Problem: As ``decode``.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(Code.MALFORMED, str(error)) from error


def idempotency_key(request: Request, in_body: str | None) -> str | None:
    """Return the key from the body or the header; both must agree."""
    in_headers = {_key_of(text) for text in header_lines(request, b"idempotency-key")}
    if not in_headers:
        return in_body
    if len(in_headers) > 1:
        raise invalid("Idempotency-Key", "is given twice, with different values")
    (in_header,) = in_headers
    if in_body is not None and in_body != in_header:
        raise invalid("Idempotency-Key", "differs from idempotency_key in the body")
    return in_header


def header_lines(request: Request, name: bytes) -> list[str]:
    """Return the values of all lines of a header; ``name`` is in small letters."""
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def wants_async(request: Request) -> bool:
    """Tell whether the client asked not to wait for the outcome (RFC 7240)."""
    lines = header_lines(request, b"prefer")  # several of them add up
    if not lines:
        return False
    preferences = _STRINGS_OF_JSON.sub("", ",".join(lines)).split(",")
    return "respond-async" in [p.partition(";")[0].strip().lower() for p in preferences]


def query(request: Request) -> Mapping[str, str]:
    """Return the query parameters, each of which must be declared and given once.

    A parameter that may be given several times counts as its last value.
    """
    parameters: dict[str, str] = {}
    if not request.scope["query_string"]:
        return parameters
    declared = {p.name: p for p in OPERATIONS[request.scope["endpoint"]].query}
    for name, value in request.query_params.multi_items():
        if name not in declared:
            raise invalid(name[:ID_CHARACTERS_MAX], "is not a parameter of this resource")
        if name in parameters and not isinstance(declared[name], Several):
            raise invalid(name, "is given more than once")
        parameters[name] = value
    return parameters


def check_id(value: str, field: str) -> str:
    """Return ``value`` if it can be an id.

    Raises:
        Problem: 422, it is empty, too long or has control characters.
    """
    if len(value) > ID_CHARACTERS_MAX or not _ID.match(value):
        raise invalid(field, f"must be 1 to {ID_CHARACTERS_MAX} characters, none of them control")
    return value


def integer(parameters: Mapping[str, str], declared: WholeNumber) -> int:
    """Return a whole-number parameter, or its default.

    Raises:
        Problem: 422, it is out of its bounds.
    """
    text = parameters.get(declared.name)
    if text is None:
        return declared.default
    if not _INTEGER.fullmatch(text) or not declared.least <= int(text) <= declared.most:
        bounds = f"from {declared.least} to {declared.most}"
        raise invalid(declared.name, f"must be a whole number {bounds}")
    return int(text)


def cursor(
    parameters: Mapping[str, str], length: int, *, shard_at: int | None = None
) -> tuple[int, ...] | None:
    """Return the numbers in the ``cursor`` parameter, None if it is not given.

    Args:
        parameters: The parameters of the query.
        length: How many numbers the cursor must have.
        shard_at: The index of the number that is a shard, if one is.
    """
    plain = _plain_cursor(parameters)
    if plain is None:
        return None
    numbers = plain.split(".")
    right = len(numbers) == length and all(_INTEGER.fullmatch(number) for number in numbers)
    if not right or (shard_at is not None and len(numbers[shard_at]) > SHARD_DIGITS_MAX):
        raise _wrong_cursor()
    return tuple(int(number) for number in numbers)


def id_cursor(parameters: Mapping[str, str]) -> str | None:
    """Return the id in the ``cursor`` parameter, None if it is not given."""
    plain = _plain_cursor(parameters)
    if plain is not None and not (len(plain) <= ID_CHARACTERS_MAX and _ID.match(plain)):
        raise _wrong_cursor()
    return plain


def moment_ms(parameters: Mapping[str, str], name: str) -> int | None:
    """Return an ISO 8601 time as milliseconds since the epoch; one without an offset is UTC.

    RFC 3339 allows small letters and a leap second. Milliseconds since the epoch do not count leap
    seconds, so a leap second is read as the second after it.
    """
    text = parameters.get(name)
    if text is None:
        return None
    try:
        plain, leap_seconds = _SECOND_60.subn(r"\1:59", text.upper())
        moment = datetime.fromisoformat(plain)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if leap_seconds:
            _check_leap_second(moment)
        return (moment - EPOCH) // MILLISECOND + 1_000 * leap_seconds
    except (ValueError, OverflowError):
        meant = "; the + of its offset is to be sent as %2B" if _LOST_PLUS.fullmatch(text) else ""
        raise invalid(name, f"must be a time such as 2026-01-31T12:00:00Z{meant}") from None


def location(text: str, field: str) -> tuple[int, int]:
    """Read ``shard:number``: a location in Kafka or a position in the log."""
    shard, _, number = text.partition(":")
    if not (
        _INTEGER.fullmatch(shard) and len(shard) <= SHARD_DIGITS_MAX and _INTEGER.fullmatch(number)
    ):
        raise invalid(field, "must look like 0:123, a shard and a whole number")
    return int(shard), int(number)


def body_hash(parameters: Mapping[str, str]) -> bytes:
    """Return the hash in the ``body`` parameter, ``UNKNOWN_BODY`` if it is not given."""
    text = parameters.get("body")
    if text is None:
        return UNKNOWN_BODY
    if not _BODY_HASH.fullmatch(text):
        raise invalid("body", f"must be {2 * BODY_HASH_BYTES} hex digits, as in Location")
    return bytes.fromhex(text)


def _key_of(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]  # the structured-field form of the HTTP working group's draft
    if not text.isascii():
        raise invalid("Idempotency-Key", "must be ASCII")
    return check_id(text, "Idempotency-Key")


def _check_leap_second(moment: datetime) -> None:
    in_utc = moment.astimezone(UTC)
    if (in_utc.hour, in_utc.minute) != LAST_MINUTE:
        raise ValueError(f"{in_utc} is followed by no leap second")


def _plain_cursor(parameters: Mapping[str, str]) -> str | None:
    text = parameters.get("cursor")
    if text is None:
        return None
    try:
        return b64decode(text.encode(), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise _wrong_cursor() from None


def _wrong_cursor() -> Problem:
    return invalid("cursor", "must be the next_cursor of an earlier answer")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@cache
def _judge(repeatable: frozenset[str]) -> json.JSONDecoder:
    """Return a decoder that only checks. Numbers stay text: converting long ones is quadratic."""

    def check_keys(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) == len(pairs):
            return
        names = [name for name, _ in pairs if name not in repeatable]
        if len(set(names)) != len(names):
            raise ValueError("a key occurs twice in one object")

    return json.JSONDecoder(
        object_pairs_hook=check_keys, parse_float=str, parse_int=str, parse_constant=_no_constant
    )


def check_json(body: bytes, repeatable: frozenset[str] = frozenset()) -> None:
    """Refuse a body that two readers of JSON could understand differently.

    Args:
        body: Any bytes.
        repeatable: Keys that may occur twice in an object; the last one counts.

    Raises:
        Problem: 400, the body is no JSON, or is ambiguous.
    """
    try:
        text = body.decode()
        _check_depth(text)
        _judge(repeatable).decode(text)
    except ValueError as error:
        raise Problem(Code.MALFORMED, str(error)) from error


def _check_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= DEPTH_MAX:
        return
    depth = 0
    for character in _STRINGS_OF_JSON.sub("", text):
        depth += (character in "{[") - (character in "}]")
        if depth > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX} levels")


# The decoder's messages about a missing or unknown field begin like this, the others end so.
_NAMING: Final = ("Object contains unknown field `", "Object missing required field `")
_PATH: Final = " - at `$"

# Words of the decoder's messages, and what clients are told instead: they do not know our types.
_EXPLANATIONS: Final = (
    ("Object missing required field", "is required"),
    ("Object contains unknown field", "is not a field of this request"),
    ("of length", f"must be 1 to {ID_CHARACTERS_MAX} characters"),
    ("Expected `object`", "must be a JSON object"),
    ("Expected `str`, got", "must be a string"),
    ("Expected `int", "must be a whole number"),
)
_BOUND: Final = re.compile(r"Expected `int` ([<>]=) (-?[0-9]{1,19})")
_SIDES: Final = {">=": "least", "<=": "most"}
_LENGTHS: Final = {
    "instrument": "must be 1 to 31 characters",
    "channels": "must name at least one channel, and each once",
}
_CHOICES: Final = {
    "side": "must be one of " + ", ".join(Side),
    "type": "must be one of " + ", ".join(OrderType),
}


def _wrong_shape(message: str) -> Problem:
    field = _field_of(message)
    return invalid(field[:ID_CHARACTERS_MAX], _explained(field, message))


def _field_of(message: str) -> str:
    """Return which field an error of the decoder is about.

    The message may quote long text of a client, which a pattern could take long to match.
    """
    for words in _NAMING:
        if message.startswith(words):
            return message.removeprefix(words).rpartition("`")[0]
    _, found, path = message.rpartition(_PATH)
    return (found and path.removesuffix("`").removeprefix(".")) or "body"


def _explained(field: str, message: str) -> str:
    if "matching regex" in message:
        form = "be capitals, digits, '.', '_' or '-', such as BTC-USD"
        other = "have no slash and no control or direction characters"
        return f"must {form if field == 'instrument' else other}"
    if "of length" in message and field in _LENGTHS:
        return _LENGTHS[field]
    if "Invalid enum value" in message and field in _CHOICES:
        return _CHOICES[field]
    if bound := _BOUND.search(message):
        return f"must be a whole number, at {_SIDES[bound[1]]} {int(bound[2]):,}"
    found = (plain for words, plain in _EXPLANATIONS if words in message)
    return next(found, (message.rpartition(_PATH)[0] or message)[:EXPLANATION_CHARACTERS_MAX])
