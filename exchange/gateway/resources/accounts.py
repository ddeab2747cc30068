"""Accounts: created on shard 0, and suspended or resumed on every shard.

An account's name is the idempotency key of its creation. Suspending a client tells each shard, as
closing a settlement cycle does. A shard that cannot be reached is "pending": doing it once more
tells the shards that are left, since one that has done it counts as done.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.commands import AccountCommand, CreateAccount, ResumeClient, SuspendClient
from exchange.domain.events import AccountCreated, AccountRejected, ClientResumed, ClientSuspended
from exchange.domain.values import Id, RejectReason
from exchange.gateway.http.callers import caller_of, command_key
from exchange.gateway.http.declaration import COMMANDING, PAGING, Access, Operation, operation
from exchange.gateway.http.parameters import (
    CLIENT_ID,
    CURSOR,
    IDEMPOTENCY_KEY,
    MIN_SEQUENCE,
    ONLY_CLIENT,
    PREFER,
    WholeNumber,
)
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import (
    check_id,
    decode,
    id_cursor,
    integer,
    query,
    wants_async,
)
from exchange.gateway.http.responses import (
    PendingView,
    cursor_text,
    in_turns,
    json_response,
    sequence_text,
)
from exchange.gateway.parts.admission import admit_operation, charge_history
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.decisions import (
    Decision,
    Pending,
    check_accepted,
    pending_response,
    resent_headers,
)
from exchange.gateway.parts.reading import min_sequences, moment_connection
from exchange.log.documents.text import timestamp
from exchange.log.identity import account_command_id, suspension_command_id
from projections.accounts import KEYS_SHARD, NAME, Account, list_accounts
from projections.stores.checkpoints import read_live

ACCOUNTS_LIMIT: Final = limit_of(100, 1_000, "accounts")
SEEN_WAIT_MS: Final = 1_000  # how long an answer may wait for the read model to have its change


class AccountBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /accounts``."""

    client_id: Id


ACCOUNT_BODY: Final = msgspec.json.Decoder(AccountBody)


class SuspensionView(Struct, frozen=True):
    """Since when a shard takes no orders of a client."""

    shard: int
    since: str


class AccountView(Struct, frozen=True):
    """A client; ``created_at`` is null without an account, ``suspended`` empty as a rule."""

    client_id: str
    created_at: str | None
    suspended: list[SuspensionView]


class CreatedView(Struct, frozen=True):
    """What ``POST /accounts`` answers."""

    client_id: str
    created_at: str
    sequence: int
    command_id: str


class AccountsView(Struct, frozen=True):
    """What ``GET /accounts`` answers: by client."""

    accounts: list[AccountView]
    count: int
    next_cursor: str | None
    sequence: str


class ShardSuspensionView(Struct, frozen=True):
    """A shard's part in suspending or resuming a client."""

    client_id: str
    suspended: bool
    shard: int
    sequence: int
    command_id: str


class SuspendedView(Struct, frozen=True):
    """What suspending or resuming answers; ``pending`` lists shards without answer."""

    client_id: str
    suspended: bool
    shards: list[ShardSuspensionView]
    pending: list[int]


@operation(
    Operation(
        tag="accounts",
        scope=Access.ADMIN,
        headers=(PREFER,),
        body=AccountBody,
        body_required=True,
        examples={"create": {"client_id": "client-A"}},
        answers={201: (CreatedView,), 200: (CreatedView,), 202: (PendingView,)},
        problems=(*COMMANDING, Code.ACCOUNT_EXISTS, Code.RATE_LIMITED),
    )
)
async def create_account(request: Request) -> Response:
    """``POST /accounts``: let a client have keys; 200 if an earlier request did."""
    query(request)
    client_id = decode(await request.body(), ACCOUNT_BODY).client_id
    await admit_operation(request)
    command_id = account_command_id(client_id)
    answer = await submit(request, KEYS_SHARD, CreateAccount(client_id), command_id)
    if isinstance(answer, Pending):
        return pending_response(request, answer, command_id, client_id=client_id)
    view = created(answer, command_id)
    await be_seen(request, KEYS_SHARD, view.sequence)
    return json_response(view, 200 if answer.resent else 201, resent_headers(answer.resent))


@operation(
    Operation(
        tag="accounts",
        scope=Access.ACCOUNTS,
        query=(ONLY_CLIENT, ACCOUNTS_LIMIT, CURSOR, MIN_SEQUENCE),
        answers={200: (AccountsView,)},
        problems=PAGING,
    )
)
async def get_accounts(request: Request) -> Response:
    """``GET /accounts``: clients with an account, and those that were ever suspended."""
    page = await read_page(request, ACCOUNTS_LIMIT, list_accounts)
    view = AccountsView(
        accounts=await in_turns(_account_view, page.rows),
        count=len(page.rows),
        next_cursor=cursor_text(page.rows[-1].client_id) if page.has_more else None,
        sequence=page.sequence,
    )
    return json_response(view)


_SUSPENDING: Final = Operation(
    tag="accounts",
    scope=Access.ADMIN,
    path=(CLIENT_ID,),
    headers=(IDEMPOTENCY_KEY,),
    answers={200: (SuspendedView,), 202: (SuspendedView,)},
    problems=(*COMMANDING, Code.RATE_LIMITED),
)


@operation(_SUSPENDING)
async def suspend_client(request: Request) -> Response:
    """``POST /accounts/{client_id}/suspend``: take no more orders of a client; cancels pass."""
    client_id = check_id(request.path_params["client_id"], "client_id")
    return await _tell_shards(request, "suspend", SuspendClient(client_id))


@operation(_SUSPENDING)
async def resume_client(request: Request) -> Response:
    """``POST /accounts/{client_id}/resume``: take orders of a suspended client again."""
    client_id = check_id(request.path_params["client_id"], "client_id")
    return await _tell_shards(request, "resume", ResumeClient(client_id))


def created(decision: Decision, command_id: UUID) -> CreatedView:
    """Return the answer to the creation of an account.

    Raises:
        Problem: It was refused.
    """
    check_accepted(decision, command_id)
    event = decision.first
    assert isinstance(event, AccountCreated), event
    created_at = timestamp(event.time_ms)
    return CreatedView(event.client_id, created_at, decision.sequence, str(command_id))


def suspension(decision: Decision, command_id: UUID) -> ShardSuspensionView:
    """Return a shard's part in suspending or resuming a client; that it was so already counts.

    Raises:
        Problem: The shard did neither.
    """
    event, shard = decision.first, decision.events[0].shard
    match event:
        case ClientSuspended() | AccountRejected(reason=RejectReason.ALREADY_SUSPENDED):
            suspended = True
        case ClientResumed() | AccountRejected(reason=RejectReason.NOT_SUSPENDED):
            suspended = False
        case _:
            check_accepted(decision, command_id)
            raise AssertionError(event)
    return ShardSuspensionView(
        event.client_id, suspended, shard, decision.sequence, str(command_id)
    )


Row = TypeVar("Row")


class RowsPage(Struct, Generic[Row], frozen=True):
    """Rows of the read model, by id; ``has_more`` says whether others follow."""

    rows: list[Row]
    has_more: bool
    sequence: str


async def read_page(
    request: Request, declared: WholeNumber, read: Callable[..., Awaitable[list[Row]]]
) -> RowsPage[Row]:
    """Read a page of accounts or keys, all or one client's, as a request asks for it.

    Args:
        request: Its query has the client, the limit and the cursor.
        declared: The parameter that bounds the page.
        read: The query of the read model.
    """
    gateway = gateway_of(request)
    parameters = query(request)
    limit, after = integer(parameters, declared), id_cursor(parameters)
    client_id = parameters.get("client_id")
    if client_id is not None:
        check_id(client_id, "client_id")
    if after is not None:
        await charge_history(request)
    await gateway.freshness.reach(NAME, min_sequences(parameters, gateway.known_shards))
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        found = await read(connection, live, client_id, after=after or "", limit=limit + 1)
    return RowsPage(found[:limit], len(found) > limit, sequence_text(live.reached))


async def submit(
    request: Request, shard: int, command: AccountCommand, command_id: UUID
) -> Decision | Pending:
    """Send a command about an account or a key, and return its outcome.

    Raises:
        Problem: As ``Submitter.submit`` does.
    """
    submitter = gateway_of(request).submitter
    return await submitter.submit(
        shard,
        command,
        command_id,
        wait=not wants_async(request),
        key_id=caller_of(request).key_id,
    )


async def be_seen(request: Request, shard: int, sequence: int) -> None:
    """Wait for the read model, so that who changes accounts and then reads them sees the change."""
    with suppress(Problem):  # it is decided, whether or not the model is behind
        wanted = {shard: sequence}
        await gateway_of(request).freshness.reach(NAME, wanted, timeout_ms=SEEN_WAIT_MS)


async def _tell_shards(
    request: Request, action: str, command: SuspendClient | ResumeClient
) -> Response:
    query(request)
    key = command_key(request)
    await admit_operation(request)
    shards = range(gateway_of(request).known_shards)
    ids = [suspension_command_id(action, command.client_id, key, shard) for shard in shards]
    told = [_tell_shard(request, shard, command, ids[shard]) for shard in shards]
    answers = await asyncio.gather(*told)
    done = [
        suspension(answer, command_id)
        for answer, command_id in zip(answers, ids, strict=True)
        if isinstance(answer, Decision)
    ]
    pending = sorted({*shards} - {one.shard for one in done})
    for one in done:
        await be_seen(request, one.shard, one.sequence)
    suspended = isinstance(command, SuspendClient)
    view = SuspendedView(command.client_id, suspended, done, pending)
    return json_response(view, 202 if pending else 200)


async def _tell_shard(
    request: Request, shard: int, command: AccountCommand, command_id: UUID
) -> Decision | Pending | None:
    try:
        return await submit(request, shard, command, command_id)
    except Problem as problem:
        if not problem.code.is_temporary:
            raise
        return None


def _account_view(account: Account) -> AccountView:
    created_at = None if account.created_ms is None else timestamp(account.created_ms)
    since = [
        SuspensionView(shard, timestamp(time_ms)) for shard, time_ms in account.suspended.items()
    ]
    return AccountView(account.client_id, created_at, since)
