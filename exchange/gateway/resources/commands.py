"""The outcome of a command: for clients that did not wait, or whose wait ended early.

A client may ask after a 503 with an unknown outcome, and will send again if it is told that there
is no such command. So "not found" is only said if Kafka answers and everything in it is decided,
twice with a moment in between. Once is not enough: a broker that was away may answer this question
before it reads the command, which waits on another connection or still in its producer.

A command is lost if it is not found although Kafka gave it a location before the topic was adopted.
The location is checked before the last search, which so covers all that the adopted topic has.
"""

import asyncio
from typing import Final, Literal, assert_never
from uuid import UUID

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.events import (
    AccountCreated,
    AccountEvent,
    AccountRejected,
    CancelAllAccepted,
    CancelRejected,
    ClientResumed,
    ClientSuspended,
    CommandQuarantined,
    CommandRetried,
    InstrumentRegistered,
    InstrumentRejected,
    KeyIssued,
    KeyRejected,
    KeyRevoked,
    OpenOrdersLimited,
    OrderCancelled,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
    ShardPlaced,
)
from exchange.domain.values import KeyScope, RejectReason
from exchange.door.caller import Caller
from exchange.gateway.http.callers import caller_of, may_see
from exchange.gateway.http.declaration import READING, Access, Operation, operation
from exchange.gateway.http.parameters import AT, BODY, COMMAND_ID
from exchange.gateway.http.problems import RETRY_AFTER_S, Code, Problem, ProblemView, invalid
from exchange.gateway.http.requests import body_hash, location, query
from exchange.gateway.http.responses import PendingView, json_response
from exchange.gateway.orders.cancelling import PartCancelledView, part_view
from exchange.gateway.orders.entry import CancelledView, PlacedView, cancelled_view, placed_view
from exchange.gateway.parts.admission import charge, charge_history, origin_of
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.decisions import Decision, decision_of, key_conflict
from exchange.gateway.parts.limits import Kind
from exchange.gateway.parts.reading import log_connection
from exchange.gateway.parts.submission import lost
from exchange.gateway.resources.accounts import (
    CreatedView,
    ShardSuspensionView,
    created,
    suspension,
)
from exchange.gateway.resources.instruments import RegisteredView, other_definition, registered
from exchange.gateway.resources.keys import IssuedView, RevokedView, issued, revoked
from exchange.gateway.resources.settlement import CutView, cut
from exchange.log.identity import command_claim
from exchange.log.reader import find_command, read_claims
from exchange.ports import UNKNOWN_BODY, StoredEvent

# A producer gives up a command at most 0.7 s after "unknown" was answered; 0.3 s are for the
# broker.
LATE_S: Final = 1.0

# An order that sweeps the book has up to 10,000 trades. Reading an outcome that long is charged as
# history too.
EVENTS_FREE_MAX: Final = 100


class AcceptedOrder(PlacedView, frozen=True):
    """The outcome of an order, as its own request would have got it."""

    status: Literal["accepted"]


class AcceptedCancel(CancelledView, frozen=True):
    """The outcome of a cancel, as its own request would have got it."""

    status: Literal["accepted"]


class AcceptedPart(PartCancelledView, frozen=True):
    """What one of the commands of a cancel of all did."""

    status: Literal["accepted"]


class AcceptedInstrument(RegisteredView, frozen=True):
    """The outcome of a registration, as its own request would have got it."""

    status: Literal["accepted"]


class AcceptedCut(CutView, frozen=True):
    """A shard's part in the closing of a settlement cycle."""

    status: Literal["accepted"]


class AcceptedAccount(CreatedView, frozen=True):
    """The outcome of an account's creation, as its own request would have got it."""

    status: Literal["accepted"]


class AcceptedSuspension(ShardSuspensionView, frozen=True):
    """A shard's part in suspending or resuming a client."""

    status: Literal["accepted"]


class AcceptedKey(IssuedView, frozen=True):
    """What issued or rotated a key; its secret is never told here."""

    status: Literal["accepted"]


class AcceptedRevocation(RevokedView, frozen=True):
    """What revoked a key, as its own request would have got it."""

    status: Literal["accepted"]


class RefusedView(Struct, frozen=True):
    """The outcome of a refused command, with the problem that its own request would have got."""

    command_id: str
    status: Literal["refused"]
    problem: ProblemView


class LostView(Struct, frozen=True):
    """A command that Kafka acknowledged and lost before it was decided; it may be sent again."""

    command_id: str
    status: Literal["lost"]
    outcome: Literal["none"]
    problem: ProblemView


ACCEPTED: Final[dict[type[Struct], type[Struct]]] = {
    PlacedView: AcceptedOrder,
    CancelledView: AcceptedCancel,
    PartCancelledView: AcceptedPart,
    RegisteredView: AcceptedInstrument,
    CutView: AcceptedCut,
    CreatedView: AcceptedAccount,
    ShardSuspensionView: AcceptedSuspension,
    IssuedView: AcceptedKey,
    RevokedView: AcceptedRevocation,
}


@operation(
    Operation(
        tag="trading",
        scope=Access.OUTCOME,
        path=(COMMAND_ID,),
        query=(AT, BODY),
        answers={200: (PendingView, *ACCEPTED.values(), RefusedView, LostView)},
        problems=(
            Code.COMMAND_NOT_FOUND,
            Code.INSTRUMENT_NOT_FOUND,
            Code.KAFKA_UNAVAILABLE,
            Code.RATE_LIMITED,
            *READING,
        ),
    )
)
async def get_command(request: Request) -> Response:
    """``GET /commands/{command_id}``: what became of a command.

    ``at`` tells an undecided command from an unknown one.
    ``body`` tells the first command with a key from a later one that asked for something else.
    """
    gateway = gateway_of(request)
    command_id = _command_id(request.path_params["command_id"])
    parameters = query(request)
    at = location(parameters["at"], "at") if "at" in parameters else None
    asked = body_hash(parameters)
    await charge(gateway, Kind.OUTCOMES, None, origin_of(request))
    stored = await _find(gateway, command_id)
    if not stored and at is not None and await gateway.backlog.is_waiting(*at):
        view = PendingView(str(command_id), "pending")
        return json_response(view, headers={"Retry-After": str(RETRY_AFTER_S)})
    is_displaced = False
    if not stored:
        is_displaced = at is not None and await gateway.backlog.is_of_former_life(*at)
        stored = await _find_late(gateway, command_id)
    if len(stored) > EVENTS_FREE_MAX:
        await charge_history(request)
        async with log_connection(gateway.engine) as connection:
            stored = await find_command(connection, command_id)
    if stored:
        decision = await decision_of(stored)
        if not _may_hear(caller_of(request), decision):
            raise await _not_found(gateway, command_id, at)
        return json_response(await _decided(gateway, decision, command_id, asked))
    if is_displaced:
        return json_response(LostView(str(command_id), "lost", "none", lost(command_id).view()))
    raise await _not_found(gateway, command_id, at)


def _may_hear(caller: Caller, decision: Decision) -> bool:
    """Tell whether the outcome of a command is there for a caller: it is its client's, or all are.

    What no client sent is there for those who may send the like.
    """
    told = msgspec.structs.asdict(decision.first)
    is_admins = isinstance(decision.first, AccountEvent)  # it names a client, and an admin sent it
    owner = None if is_admins else told.get("asked_by") or told.get("client_id")
    if owner is None and KeyScope.ADMIN in caller.scopes:
        return True
    return may_see(caller, owner)


def _command_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise invalid("command_id", "must be a UUID") from None


async def _not_found(gateway: Gateway, command_id: UUID, at: tuple[int, int] | None) -> Problem:
    detail = f"Neither the log nor Kafka has a command {command_id}."
    if at is None and await gateway.backlog.has_former_lives():
        detail += (
            " Kafka has lost commands that it had acknowledged: whether this was one of them, only"
            " its location (`at`, as in its Location) tells."
        )
    return Problem(Code.COMMAND_NOT_FOUND, detail)


async def _find_late(gateway: Gateway, command_id: UUID) -> list[StoredEvent]:
    """Do as ``_find``, but wait first for commands that may still be on their way.

    Raises:
        Problem: 503, Kafka or the log cannot say whether some are.
    """
    await gateway.backlog.settle()
    await asyncio.sleep(LATE_S)
    await gateway.backlog.settle()
    return await _find(gateway, command_id)


async def _find(gateway: Gateway, command_id: UUID) -> list[StoredEvent]:
    """Return a command's first events: at most one more than are free of charge."""
    async with log_connection(gateway.engine) as connection:
        return await find_command(connection, command_id, limit=EVENTS_FREE_MAX + 1)


async def _decided(gateway: Gateway, decision: Decision, command_id: UUID, asked: bytes) -> Struct:
    """Return what the command's own request would have got, and whether it was accepted."""
    try:
        await _check_same(gateway, decision, command_id, asked)
        view = await _outcome(gateway, decision, command_id)
    except Problem as problem:
        if problem.code.is_temporary:
            raise
        return RefusedView(str(command_id), "refused", problem.view())
    return ACCEPTED[type(view)](**msgspec.structs.asdict(view), status="accepted")


async def _check_same(gateway: Gateway, decision: Decision, command_id: UUID, asked: bytes) -> None:
    """Refuse to tell the outcome to a client whose request differs from the first with its key.

    Raises:
        Problem: 409, the first command asked for something else.
    """
    first = decision.first
    if asked == UNKNOWN_BODY:
        return
    async with log_connection(gateway.engine) as connection:
        claims = await read_claims(connection, [command_claim(command_id)])
    claimed = any(claim.conflicts_with(asked) for claim in claims)
    if not decision.conflicts_with(asked, claimed=claimed):
        return
    if isinstance(first, InstrumentRegistered | InstrumentRejected):
        raise other_definition(first.instrument)
    raise key_conflict()


async def _outcome(gateway: Gateway, decision: Decision, command_id: UUID) -> Struct:
    event = decision.first
    if isinstance(event, AccountEvent | KeyRejected):
        return _of_account(event, decision, command_id)
    match event:
        case (
            InstrumentRegistered() | InstrumentRejected() | RecordRejected() | CommandQuarantined()
        ):
            return registered(decision, command_id)
        case SettlementCycleClosed() | SettlementCycleRejected():
            return cut(decision, command_id)
        case CancelAllAccepted():
            return part_view(decision, command_id)
        case OpenOrdersLimited() | ShardPlaced():
            detail = "It was an operator's and has no answer here."
            raise Problem(Code.COMMAND_NOT_FOUND, detail)
        case OrderCancelled() | CancelRejected():
            listing = await gateway.listings.get(event.instrument)
            return await cancelled_view(gateway, listing, decision, command_id)
        case CommandRetried():
            raise AssertionError(f"{event} ends an outcome and begins none")
        case _:
            listing = await gateway.listings.get(event.instrument)
            return await placed_view(gateway, listing, decision, command_id)


def _of_account(event: AccountEvent | KeyRejected, decision: Decision, command_id: UUID) -> Struct:
    match event:
        case AccountCreated() | AccountRejected(reason=RejectReason.ACCOUNT_EXISTS):
            return created(decision, command_id)
        case ClientSuspended() | ClientResumed() | AccountRejected():
            return suspension(decision, command_id)
        case KeyIssued() | KeyRejected():
            return issued(decision, command_id)
        case KeyRevoked():
            return revoked(decision, command_id)
        case _:
            assert_never(event)
