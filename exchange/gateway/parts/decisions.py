"""What the answers to all commands have in common: ids, refusals, "pending", replays."""

from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from exchange.codec import keyed_command_id
from exchange.domain.events import (
    CancelRejected,
    CommandQuarantined,
    InstrumentRejected,
    OrderRejected,
    RecordRejected,
    SettlementCycleRejected,
)
from exchange.domain.values import RejectReason
from exchange.fresh_ids import uuid7
from exchange.gateway.http.problems import REFUSALS, Code, Problem, order_not_found
from exchange.gateway.http.requests import wants_async
from exchange.gateway.http.responses import PendingView, json_response
from exchange.gateway.parts.submission import Decision, Pending

REPLAYED_HEADER: Final = "Idempotent-Replayed"

Refusal = OrderRejected | CancelRejected | InstrumentRejected | SettlementCycleRejected

ADVICE: Final = {
    RejectReason.UNKNOWN_INSTRUMENT: "GET /instruments lists what can be traded.",
    RejectReason.OFF_TICK: "Make the price a multiple of the tick_size in GET /instruments.",
    RejectReason.OFF_LOT: "Make the quantity a multiple of the lot_size in GET /instruments.",
    RejectReason.TOO_MANY_OPEN_ORDERS: "Cancel some, or wait until some are filled.",
    RejectReason.DUPLICATE_ORDER_ID: "An order id is taken for ever: choose another, or none.",
}


def command_id_for(client_id: str | None, key: str | None) -> UUID:
    """Return the id of a command: of its key where there is one, else a new one."""
    if client_id is None or key is None:
        return uuid7()
    return keyed_command_id(client_id, key)


def check_accepted(decision: Decision, command_id: UUID) -> None:
    """Raise the problem that a refusal is."""
    event = decision.first
    if isinstance(event, RecordRejected):
        raise Problem(
            Code.COMMAND_UNREADABLE,
            event.reason,
            headers=replay_headers(decision),
            **place_of(decision, command_id),
        )
    if isinstance(event, CommandQuarantined):
        at = f"{decision.events[0].shard}:{decision.events[0].kafka_offset}"
        raise Problem(
            Code.COMMAND_QUARANTINED,
            "Nothing was done, and sending it again does nothing. An operator can have it decided"
            f" once more (exchange retry-quarantined {at}); then a resend is told the outcome.",
            headers=replay_headers(decision),
            **place_of(decision, command_id),
        )
    if isinstance(event, CancelRejected) and event.reason is RejectReason.NOT_OWNER:
        # Word for word what an order that is not there gets: anything else would tell that it is.
        raise order_not_found(event.order_id)
    if isinstance(event, Refusal):
        raise Problem(
            REFUSALS[event.reason],
            ADVICE.get(event.reason, f"The exchange refused: {event.reason.value}."),
            headers=replay_headers(decision),
            **_subject(event),
            reason=event.reason.value,
            **place_of(decision, command_id),
        )


def place_of(decision: Decision, command_id: UUID) -> dict[str, Any]:
    """Return what a refusal tells of the place of its command in the log."""
    return {"sequence": decision.sequence, "command_id": str(command_id)}


def pending_response(
    request: Request, pending: Pending, command_id: UUID, **fields: str
) -> Response:
    """Answer that the command will be decided, and where to ask for its outcome."""
    headers = {"Location": location_of(pending, command_id)}
    if wants_async(request):
        headers["Preference-Applied"] = "respond-async"
    view = PendingView(str(command_id), "pending", **fields)
    return json_response(view, 202, headers)


def location_of(pending: Pending, command_id: UUID) -> str:
    """Return where to ask for a command's outcome, with what it takes to tell a conflict."""
    body = f"&body={pending.body_hash.hex()}" if pending.body_hash else ""
    return f"/commands/{command_id}?at={pending.shard}:{pending.offset}{body}"


def replay_headers(decision: Decision) -> dict[str, str]:
    """Return the header that marks the outcome of an earlier command with the same key."""
    return replayed_headers(decision.replayed)


def replayed_headers(replayed: bool) -> dict[str, str]:
    """Return what ``replay_headers`` does where only the mark itself is at hand."""
    return {REPLAYED_HEADER: "true"} if replayed else {}


def _subject(event: Refusal) -> dict[str, Any]:
    if isinstance(event, SettlementCycleRejected):
        return {"cycle_id": event.cycle}
    if isinstance(event, InstrumentRejected):
        return {"instrument": event.instrument}
    return {"order_id": event.order_id}
