"""What an endpoint takes and answers, declared on its handler.

``requests.query`` refuses parameters that are not declared, and ``description`` makes the OpenAPI
document from the same declaration, so the two cannot differ.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, Final

from msgspec import Struct, field
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.values import KeyScope
from exchange.gateway.http.parameters import Parameter
from exchange.gateway.http.problems import Code

Handler = Callable[[Request], Awaitable[Response]]

JSON: Final = "application/json"
BODY_BYTES_MAX: Final = 16 * 1024  # the largest order has 600 bytes

# The refusals of the edge, before any handler is called, and a crash: every endpoint may answer
# them.
EVERYWHERE: Final = (
    Code.SLOW_BODY,
    Code.BODY_TOO_LARGE,
    Code.URI_TOO_LONG,
    Code.MEDIA_TYPE,
    Code.HEADERS_TOO_LARGE,
    Code.HTTP_VERSION,
    Code.HOST,
    Code.FORWARDED,
    Code.FOREIGN_ORIGIN,
    Code.INVALID,
    Code.INTERNAL,
)
# What the entrance refuses before a handler is called, where the door asks for keys.
GUARDED: Final = (
    Code.SIGNATURE_MISSING,
    Code.SIGNATURE_MALFORMED,
    Code.UNKNOWN_KEY,
    Code.SIGNATURE_BAD,
    Code.SIGNATURE_CLOCK,
    Code.EXPIRED_KEY,
    Code.REVOKED_KEY,
    Code.KEY_ADDRESS,
    Code.SCOPE_MISSING,
    Code.DOOR_UNAVAILABLE,
    Code.RATE_LIMITED,
)
READING: Final = (Code.READ_STALE, Code.READ_UNAVAILABLE, Code.GATEWAY_OLDER, Code.BUSY)
PAGING: Final = (*READING, Code.RATE_LIMITED)  # for reads back from a position in the past
OF_THE_PAST: Final = (*PAGING, Code.NOT_REACHED, Code.ANALYST_UNAVAILABLE)
COMMANDING: Final = (
    Code.MALFORMED,
    Code.IDEMPOTENCY_CONFLICT,
    Code.COMMAND_UNREADABLE,
    Code.COMMAND_QUARANTINED,
    Code.COMMAND_LOST,
    Code.KAFKA_UNAVAILABLE,
    Code.MATCHER_OLDER,
    *READING,
)


class Access(Enum):
    """What an endpoint asks of its caller where the door asks for keys: one of ``scopes``.

    ``meaning`` says what is more to it.
    """

    def __init__(self, meaning: str, *scopes: KeyScope) -> None:
        self.meaning = meaning
        self.scopes = frozenset(scopes)

    PUBLIC = ("for everybody",)
    PARTLY = ("the first member for everybody, all of it by any key",)
    ANY_KEY = ("by any key", *KeyScope)
    READ = "of the key's client; of all by `audit`", KeyScope.READ, KeyScope.AUDIT
    OUTCOME = (
        "of the key's client; all by `audit` or `admin`",
        *(KeyScope.READ, KeyScope.AUDIT, KeyScope.ADMIN),
    )
    TRADE = "for the key's client", KeyScope.TRADE
    CANCEL = "of the key's client", KeyScope.CANCEL
    ENTER = "for the key's client; each entry by its own scope", KeyScope.TRADE, KeyScope.CANCEL
    AUDIT = "of all clients", KeyScope.AUDIT
    ACCOUNTS = "of all clients", KeyScope.AUDIT, KeyScope.ADMIN
    ADMIN = "by signed requests alone: no token has it", KeyScope.ADMIN


class Operation(Struct, frozen=True, kw_only=True):
    """One endpoint. ``answers`` has the types of each status that is not a problem.

    ``scope`` says who may ask; there is no endpoint without it.
    ``examples`` are request bodies by their names, ``headers`` are headers of the request. A path
    whose body may have more than ``BODY_BYTES_MAX`` has no parameters.
    """

    tag: str
    scope: Access
    answers: Mapping[int, tuple[type[Struct], ...]]
    problems: tuple[Code, ...] = ()
    query: tuple[Parameter, ...] = ()
    path: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: type[Struct] | None = None
    body_required: bool = False
    body_bytes_max: int = BODY_BYTES_MAX
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    media_type: str = JSON


OPERATIONS: Final[dict[Handler, Operation]] = {}


def operation(declared: Operation) -> Callable[[Handler], Handler]:
    """Declare what the decorated handler takes and answers."""

    def declare(handler: Handler) -> Handler:
        OPERATIONS[handler] = declared
        return handler

    return declare
