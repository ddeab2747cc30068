"""What became of a command, and what the answers to all commands have in common."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.events import (
    AccountRejected,
    CancelRejected,
    CommandQuarantined,
    CommandRetried,
    Event,
    InstrumentRejected,
    KeyRejected,
    OrderRejected,
    RecordRejected,
    SettlementCycleRejected,
)
from exchange.domain.values import RejectReason
from exchange.gateway.http.problems import REFUSALS, Code, Problem, order_not_found
from exchange.gateway.http.requests import wants_async
from exchange.gateway.http.responses import PendingView, json_response
from exchange.gateway.parts.listings import Listing, book_members
from exchange.gateway.parts.reading import loaded
from exchange.log.events import DecidedEvent
from exchange.ports import UNKNOWN_BODY, StoredEvent
from exchange.transport.messages import Depth
from exchange.waiting import turns

RESENT_HEADER: Final = "Idempotent-Replayed"

Refusal = (
    OrderRejected
    | CancelRejected
    | InstrumentRejected
    | SettlementCycleRejected
    | AccountRejected
    | KeyRejected
)

ADVICE: Final = {
    RejectReason.UNKNOWN_INSTRUMENT: "GET /instruments lists what can be traded.",
    RejectReason.OFF_TICK: "Make the price a multiple of the tick_size in GET /instruments.",
    RejectReason.OFF_LOT: "Make the quantity a multiple of the lot_size in GET /instruments.",
    RejectReason.TOO_MANY_OPEN_ORDERS: "Cancel some, or wait until some are filled.",
    RejectReason.CLIENT_SUSPENDED: "The client is suspended: it may cancel its orders.",
    RejectReason.UNKNOWN_ACCOUNT: "Create the account first: POST /accounts.",
    RejectReason.KEY_MATERIAL: "Ed25519 needs a public_key; hmac-sha256 takes none.",
    RejectReason.TOO_MANY_KEYS: "Revoke one that is not used.",
    RejectReason.KEY_NOT_GOOD: "It is revoked, rotated or expired: issue a new one.",
    RejectReason.DUPLICATE_ORDER_ID: "An order id is taken for ever: choose another, or none.",
}


class RenderedBook:
    """The book after a batch, written to JSON at most once for all orders of the batch."""

    __slots__ = ("_text", "depth")

    def __init__(self, depth: Depth) -> None:
        self.depth = depth
        self._text: str | None = None

    def text(self, listing: Listing) -> str:
        """Return the JSON members ``bids`` and ``asks``, without braces."""
        if self._text is None:
            self._text = book_members(self.depth, listing)
        return self._text


class Decision(Struct, frozen=True):
    """The outcome of a command: its events, of which there is at least one.

    ``book`` is the book after the command's batch, None if the outcome came from the log.
    ``resent`` marks the outcome of an earlier command with the same key.
    """

    events: Sequence[DecidedEvent]
    book: RenderedBook | None = None
    resent: bool = False

    @property
    def first(self) -> Event:
        """The event that says whether the command was accepted."""
        return self.events[0].event

    @property
    def sequence(self) -> int:
        """The position of the last event."""
        return self.events[-1].position

    def conflicts_with(self, asked: bytes, *, claimed: bool) -> bool:
        """Tell whether this decision answers another request than the one hashed in ``asked``.

        ``claimed`` says whether the key's claim has another hash. It does not count for a
        quarantined record: the claim does not hash the client's request, the event of the retry
        does. The request of an unreadable record is not known, so it conflicts with none.
        """
        if isinstance(self.first, CommandQuarantined | RecordRejected):
            return False
        for one in self.events:
            if isinstance(one.event, CommandRetried):  # the first retry has the client's request
                return one.event.body_hash != asked.hex()
        return claimed


class Pending(Struct, frozen=True):
    """The command is in Kafka and not known to be decided yet.

    ``body_hash`` is the hash of a command with a key, where the first command with this key may
    have asked for something else.
    """

    shard: int
    offset: int
    body_hash: bytes = UNKNOWN_BODY


def key_conflict() -> Problem:
    """Return the problem that a key was used for another request."""
    return Problem(
        Code.IDEMPOTENCY_CONFLICT,
        "An earlier request with this key asked for something else; nothing was done."
        " Choose a new key for this one.",
    )


async def decision_of(events: Sequence[StoredEvent], *, resent: bool = False) -> Decision:
    """Return the decision that one command's stored events make up.

    Raises:
        Problem: 503, a newer version of the software wrote one of the events.
    """
    assert events, "a decided command has at least one event"
    command_id = str(events[0].command_id)
    fields = {"outcome": "unknown", "command_id": command_id}
    decided = [one async for some in turns(events) for one in loaded(some, **fields)]
    return Decision(decided, resent=resent)


def check_accepted(decision: Decision, command_id: UUID) -> None:
    """Raise a refusal as a problem; return if the command was accepted."""
    event = decision.first
    if isinstance(event, RecordRejected):
        raise Problem(
            Code.COMMAND_UNREADABLE,
            event.reason,
            headers=resent_headers(decision.resent),
            **decided_at(decision, command_id),
        )
    if isinstance(event, CommandQuarantined):
        at = f"{decision.events[0].shard}:{decision.events[0].kafka_offset}"
        raise Problem(
            Code.COMMAND_QUARANTINED,
            "Nothing was done, and sending it again does nothing. An operator can have it decided"
            f" once more (exchange retry-quarantined {at}); then a resend is told the outcome.",
            headers=resent_headers(decision.resent),
            **decided_at(decision, command_id),
        )
    if isinstance(event, CancelRejected) and event.reason is RejectReason.NOT_OWNER:
        # Word for word the answer for an order that does not exist: another one would tell that the
        # order exists.
        raise order_not_found(event.order_id)
    if isinstance(event, Refusal):
        raise Problem(
            REFUSALS[event.reason],
            ADVICE.get(event.reason, f"The exchange refused: {event.reason.value}."),
            headers=resent_headers(decision.resent),
            **_subject(event),
            reason=event.reason.value,
            **decided_at(decision, command_id),
        )


def decided_at(decision: Decision, command_id: UUID) -> dict[str, Any]:
    """Return the fields that say where the log has a refused command."""
    return {"sequence": decision.sequence, "command_id": str(command_id)}


def pending_response(
    request: Request, pending: Pending, command_id: UUID, **fields: str
) -> Response:
    """Answer 202: the command will be decided, and ``Location`` is where to ask for its outcome."""
    headers = {"Location": location_of(pending, command_id)}
    if wants_async(request):
        headers["Preference-Applied"] = "respond-async"
    view = PendingView(str(command_id), "pending", **fields)
    return json_response(view, 202, headers)


def location_of(pending: Pending, command_id: UUID) -> str:
    """Return the URL of a command's outcome, with the hash that shows a conflict of its key."""
    body = f"&body={pending.body_hash.hex()}" if pending.body_hash else ""
    return f"/commands/{command_id}?at={pending.shard}:{pending.offset}{body}"


def resent_headers(resent: bool) -> dict[str, str]:
    """Return the header that marks the outcome of an earlier command with the same key."""
    return {RESENT_HEADER: "true"} if resent else {}


def _subject(event: Refusal) -> dict[str, Any]:
    if isinstance(event, SettlementCycleRejected):
        return {"cycle_id": event.cycle}
    if isinstance(event, InstrumentRejected):
        return {"instrument": event.instrument}
    if isinstance(event, AccountRejected):
        return {"client_id": event.client_id}
    if isinstance(event, KeyRejected):
        return {"key_id": event.key_id}
    return {"order_id": event.order_id}
