"""Each parameter of paths, queries and headers, declared once.

``requests`` validates by these declarations and ``description`` documents them.
"""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from exchange.domain.values import INSTRUMENT_DEFAULT, Id, KeyId
from projections.orders import OrderStatus

LOCATION: Final = "[0-9]{1,4}:[0-9]{1,18}"

Cursor = Annotated[str, Meta(pattern="^[A-Za-z0-9_=-]+$", max_length=512)]
Sequences = Annotated[str, Meta(pattern=rf"^([0-9]{{1,18}}|{LOCATION}(,{LOCATION})*)$")]
Location = Annotated[str, Meta(pattern=f"^{LOCATION}$")]
BodyHash = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Digits = Annotated[str, Meta(pattern="^[0-9]{1,10}$")]


class Parameter(Struct, frozen=True):
    """A parameter: its name, its type as msgspec knows it, and what it means."""

    name: str
    type: Any
    meaning: str
    required: bool = False
    default: str | int | None = None
    example: str | int | None = None


class WholeNumber(Parameter, frozen=True, kw_only=True):
    """A whole number from ``least`` to ``most``, ``default`` if it is left out."""

    type: Any = int
    default: int
    least: int
    most: int


class Several(Parameter, frozen=True):
    """A parameter that may be given several times."""


def limit(default: int, most: int, what: str) -> WholeNumber:
    """Declare how many of something an answer may have."""
    return WholeNumber(
        name="limit", meaning=f"how many {what}", default=default, least=1, most=most
    )


INSTRUMENT: Final = Parameter("instrument", Id, "which instrument", default=INSTRUMENT_DEFAULT)
ONLY_INSTRUMENT: Final = Parameter("instrument", Id, "only orders of this instrument")
OWNER: Final = Parameter("client_id", Id, "whose orders", required=True, example="client-A")
ONLY_CLIENT: Final = Parameter("client_id", Id, "only this client's")
WORKING: Final = "working"
STATUSES_ASKED: Final = (WORKING, *OrderStatus)
STATUS: Final = Parameter(
    "status",
    Annotated[str, Meta(extra_json_schema={"enum": [str(name) for name in STATUSES_ASKED]})],
    "only orders with this status; working: open or partially_filled, in one list",
)
LEVELS: Final = WholeNumber(
    name="levels", meaning="how many levels of each side", default=20, least=1, most=100
)
START_TIME: Final = Parameter(
    "start_time",
    Time,
    "ISO 8601, UTC without an offset, a leap second is the second after it; by default a day before"
    " end_time",
)
END_TIME: Final = Parameter("end_time", Time, "as start_time; by default now")
INTERVAL: Final = WholeNumber(
    name="interval",
    meaning="minutes",
    default=1,
    least=1,
    most=527_040,  # a leap year
)
CURSOR: Final = Parameter("cursor", Cursor, "the next_cursor of an earlier answer")
MIN_SEQUENCE: Final = Parameter(
    "min_sequence", Sequences, "wait until the answer has seen this sequence, or these positions"
)
AS_OF_SEQUENCE: Final = Parameter(
    "as_of_sequence",
    Sequences,
    "answer as when the log was at this sequence, or at these positions; shards that are not named,"
    " as now",
)
AS_OF_TIME: Final = Parameter(
    "as_of_time", Time, "answer as at this time, which every shard must have passed; as start_time"
)
AS_OF: Final = (AS_OF_SEQUENCE, AS_OF_TIME)
AT: Final = Parameter("at", Location, "where the command waits, as in Location")
BODY: Final = Parameter("body", BodyHash, "a hash of what was asked under the key, as in Location")

NAMES: Final = Several("name[]", list[str], "only these samples, by their names")

ORDER_ID: Final = Parameter("order_id", Id, "which order", required=True, example="order-1")
CLIENT_ID: Final = Parameter("client_id", Id, "which client", required=True, example="client-A")
KEY_ID: Final = Parameter("key_id", KeyId, "which key", required=True, example="0" * 32)
COMMAND_ID: Final = Parameter(
    "command_id",
    Uuid,
    "which command",
    required=True,
    example="01990000-0000-7000-8000-000000000000",
)
CYCLE_ID: Final = Parameter("cycle_id", Digits, "which cycle", required=True, example="1")

IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key", Id, "makes a retry safe; bare or as a quoted string"
)
PREFER: Final = Parameter("Prefer", str, "respond-async: do not wait for the outcome")
