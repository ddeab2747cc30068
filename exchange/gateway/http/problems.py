"""Every error that a client can see: RFC 9457 problems with a stable dotted code.

``Code`` is the whole list; ``docs/protocol.md`` explains each and a test compares
the two. A handler raises ``Problem``; nothing else turns errors into responses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from exchange.domain.values import RejectReason

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1  # about what a restarting process needs

_encoder = msgspec.json.Encoder()


class Code(Enum):
    """A code, the HTTP status that always goes with it, and its title."""

    def __init__(self, code: str, status: int, title: str) -> None:
        self.code = code
        self.status = status
        self.title = title

    @property
    def is_temporary(self) -> bool:
        """Whether the request itself is fine: the same request may succeed a little later."""
        return self.status == HTTPStatus.SERVICE_UNAVAILABLE

    MALFORMED = "request.malformed", 400, "The body is not valid JSON"
    FRAMING = "request.framing", 400, "The request cannot be read in one way only"
    INVALID = "request.invalid", 422, "A field or parameter is not acceptable"
    ROUTE_NOT_FOUND = "request.path_not_found", 404, "There is nothing at this path"
    METHOD = "request.method_not_allowed", 405, "The path does not take this method"
    SLOW_BODY = "request.timeout", 408, "The body took too long to arrive"
    BODY_TOO_LARGE = "request.too_large", 413, "The body is too large"
    URI_TOO_LONG = "request.uri_too_long", 414, "The URL is too long"
    MEDIA_TYPE = "request.media_type", 415, "The body is not plain application/json"
    HEADERS_TOO_LARGE = "request.headers_too_large", 431, "The headers are too large"
    FOREIGN_ORIGIN = "request.origin", 403, "Pages of this origin may not act here"
    HOST = "request.host", 421, "This host name may be a stranger's"
    FORWARDED = "door.forwarded", 403, "This door is open to its own machine only"
    HTTP_VERSION = "request.http_version", 505, "Only HTTP/1.1 is spoken here"

    SIGNATURE_MISSING = "signature.missing", 401, "Nothing says who asks"
    SIGNATURE_MALFORMED = "signature.malformed", 401, "The signature is not of the form used here"
    UNKNOWN_KEY = "signature.unknown_key", 401, "There is no such key"
    SIGNATURE_BAD = "signature.bad", 401, "The signature is not that of this request"
    SIGNATURE_CLOCK = "signature.clock", 401, "The clocks are too far apart"
    EXPIRED_KEY = "signature.expired_key", 401, "The key, or the token, has ended"
    REVOKED_KEY = "signature.revoked_key", 401, "The key was revoked"
    KEY_ADDRESS = "signature.address", 401, "The key is not good at this address"
    SCOPE_MISSING = "scope.missing", 403, "The key has not the scope for this"
    NOT_YOURS = "client.not_yours", 403, "The key is of another client"
    CLIENT_NOT_FOUND = "client.not_found", 404, "There is no such client"
    DOOR_UNAVAILABLE = "door.unavailable", 503, "It is not known which keys are good"

    ORDER_NOT_FOUND = "order.not_found", 404, "There is no such order"
    ORDER_NOT_OPEN = "order.not_open", 409, "The order is no longer open"
    ORDER_ID_TAKEN = "order.id_taken", 409, "Another order has this id"
    TOO_MANY_OPEN_ORDERS = "order.too_many_open", 409, "Too many of the client's orders are open"
    ORDER_ID_RESERVED = "order.id_reserved", 422, "Ids of this form are made by the exchange"
    PRICE_REQUIRED = "order.price_required", 422, "A limit order needs a price"
    PRICE_NOT_ALLOWED = "order.price_not_allowed", 422, "A market order has no price"
    OFF_TICK = "order.off_tick", 422, "The price is no multiple of the tick size"
    OFF_LOT = "order.off_lot", 422, "The quantity is no multiple of the lot size"

    INSTRUMENT_NOT_FOUND = "instrument.not_found", 404, "There is no such instrument"
    INSTRUMENT_EXISTS = "instrument.exists", 409, "The instrument exists with another definition"

    CLIENT_SUSPENDED = "client.suspended", 403, "The client is suspended"
    ALREADY_SUSPENDED = "client.already_suspended", 409, "The client is suspended already"
    NOT_SUSPENDED = "client.not_suspended", 409, "The client is not suspended"
    ACCOUNT_NOT_FOUND = "account.not_found", 404, "There is no such account"
    ACCOUNT_EXISTS = "account.exists", 409, "The client has an account"
    KEY_NOT_FOUND = "key.not_found", 404, "There is no such key"
    KEY_EXISTS = "key.exists", 409, "Another key has this id"
    KEY_MATERIAL = "key.material", 422, "The key lacks what its algorithm needs"
    TOO_MANY_KEYS = "key.too_many", 409, "The account has too many keys"
    KEY_NOT_GOOD = "key.not_good", 409, "The key is not good any more"
    KEY_ENDED = "key.ended", 409, "The key has ended"

    CYCLE_NOT_FOUND = "settlement.cycle_not_found", 404, "There is no such settlement cycle"
    CYCLE_NOT_OPEN = "settlement.cycle_not_open", 409, "The settlement cycle has not begun"
    CYCLE_CLOSED = "settlement.cycle_closed", 409, "The settlement cycle is closed"

    IDEMPOTENCY_CONFLICT = "idempotency.conflict", 409, "The key was used for another request"
    COMMAND_NOT_FOUND = "command.not_found", 404, "There is no such command"
    COMMAND_LOST = "command.lost", 503, "Kafka has lost the command"
    COMMAND_UNREADABLE = "command.unreadable", 500, "The matcher could not read the command"
    COMMAND_QUARANTINED = "command.quarantined", 500, "The command crashed the matcher"

    UPGRADE = "stream.upgrade_required", 426, "The stream is a WebSocket"
    ORIGIN = "stream.origin", 403, "Pages of this origin may not connect"
    RATE_LIMITED = "rate.limited", 429, "Too many commands, or questions about the past"
    STREAM_TYPE = "stream.unknown_type", 422, "There is no such message"
    STREAM_TOO_FAST = "stream.too_fast", 429, "Too many messages a second"
    STREAM_TOO_MANY = (
        "stream.too_many",
        429,
        "Too many of something at once",
    )

    READ_ONLY = "operator.read_only", 403, "The desk only shows"
    REFUSED = "operator.refused", 409, "The change does not fit what is there"
    REPLAY_READ_ONLY = "replay.read_only", 409, "A replay takes no orders"

    KAFKA_UNAVAILABLE = "kafka.unavailable", 503, "The command could not be handed to Kafka"
    MATCHER_OLDER = "matcher.older", 503, "The matcher does not read such commands yet"
    GATEWAY_OLDER = "gateway.older", 503, "A newer version of the exchange wrote the answer"
    BUSY = "gateway.busy", 503, "Too much is under way here"
    READ_STALE = "read.stale", 503, "The read model has not caught up yet"
    NOT_REACHED = "past.not_reached", 409, "The log has not come to this moment"
    ANALYST_UNAVAILABLE = "past.unavailable", 503, "The past cannot be asked now"
    READ_UNAVAILABLE = "read.unavailable", 503, "The read model cannot be read now"

    INTERNAL = "internal", 500, "The gateway made a mistake"


REFUSALS: Final = {
    RejectReason.UNKNOWN_INSTRUMENT: Code.INSTRUMENT_NOT_FOUND,
    RejectReason.INSTRUMENT_ALREADY_REGISTERED: Code.INSTRUMENT_EXISTS,
    RejectReason.PRICE_REQUIRED: Code.PRICE_REQUIRED,
    RejectReason.PRICE_NOT_ALLOWED: Code.PRICE_NOT_ALLOWED,
    RejectReason.OFF_TICK: Code.OFF_TICK,
    RejectReason.OFF_LOT: Code.OFF_LOT,
    RejectReason.DUPLICATE_ORDER_ID: Code.ORDER_ID_TAKEN,
    RejectReason.ORDER_NOT_OPEN: Code.ORDER_NOT_OPEN,
    RejectReason.CYCLE_CLOSED: Code.CYCLE_CLOSED,
    RejectReason.TOO_MANY_OPEN_ORDERS: Code.TOO_MANY_OPEN_ORDERS,
    RejectReason.CLIENT_SUSPENDED: Code.CLIENT_SUSPENDED,
    RejectReason.ALREADY_SUSPENDED: Code.ALREADY_SUSPENDED,
    RejectReason.NOT_SUSPENDED: Code.NOT_SUSPENDED,
    RejectReason.UNKNOWN_ACCOUNT: Code.ACCOUNT_NOT_FOUND,
    RejectReason.ACCOUNT_EXISTS: Code.ACCOUNT_EXISTS,
    RejectReason.UNKNOWN_KEY: Code.KEY_NOT_FOUND,
    RejectReason.KEY_EXISTS: Code.KEY_EXISTS,
    RejectReason.KEY_MATERIAL: Code.KEY_MATERIAL,
    RejectReason.TOO_MANY_KEYS: Code.TOO_MANY_KEYS,
    RejectReason.KEY_NOT_GOOD: Code.KEY_NOT_GOOD,
    RejectReason.KEY_ENDED: Code.KEY_ENDED,
    RejectReason.NOT_OWNER: Code.ORDER_NOT_FOUND,  # must not tell that another's order exists
}


class ProblemMembers(Struct, frozen=True, kw_only=True):
    """The members of a problem. The first four are always there, the others depend on its code."""

    title: str
    status: int
    code: str
    detail: str
    field: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    order_id: str | UnsetType = UNSET
    order_status: str | UnsetType = UNSET
    instrument: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    cycle_id: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    command_id: str | UnsetType = UNSET
    retry_after: int | UnsetType = UNSET
    remaining: int | UnsetType = UNSET
    unix_ms: int | UnsetType = UNSET


class ProblemView(ProblemMembers, frozen=True, kw_only=True):
    """An error (RFC 9457)."""

    type: str


class Problem(Exception):
    """An error for the client: its code, one sentence, and fields that help to act on it."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **fields: object,
    ) -> None:
        super().__init__(f"{code.code}: {detail}")
        self.code = code
        self.detail = detail
        self.fields = fields
        self.headers = headers or {}
        if code.is_temporary:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    def members(self) -> dict[str, Any]:
        """Return the members that are sent over HTTP and over the stream alike."""
        return {
            "title": self.code.title,
            "status": self.code.status,
            "code": self.code.code,
            "detail": self.detail,
            **self.fields,
        }

    def view(self) -> ProblemView:
        """Return the problem document."""
        return ProblemView(type=f"urn:exchange:problem:{self.code.code}", **self.members())

    def response(self) -> Response:
        return Response(
            _encoder.encode(self.view()),
            self.code.status,
            self.headers,
            PROBLEM_MEDIA_TYPE,
        )


def invalid(field: str, detail: str) -> Problem:
    """Return the problem that a field or parameter is not acceptable, and why."""
    return Problem(Code.INVALID, f"{field}: {detail}", field=field)


def order_not_found(order_id: str) -> Problem:
    """Return the problem that there is no such order, or that it is another client's."""
    return Problem(Code.ORDER_NOT_FOUND, f"There is no order {order_id}.", order_id=order_id)


@contextmanager
def telling(**fields: object) -> Iterator[None]:
    """Add ``fields`` to a 503 that is raised inside, such as the ``outcome`` of a command."""
    try:
        yield
    except Problem as problem:
        if not problem.code.is_temporary:
            raise
        # A copy: other requests may share the problem, and their fields differ.
        known = {**problem.fields, **fields}
        raise Problem(problem.code, problem.detail, headers=problem.headers, **known) from problem
