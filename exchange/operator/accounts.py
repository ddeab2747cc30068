"""Accounts and keys at the desk: what ``exchange accounts`` and ``exchange keys`` do.

Each change is a command through Kafka that keeps the id of the key by which it was signed. A key's
secret is made in the operator's browser and stays there: the desk hears its public key.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import asyncpg
import msgspec
from msgspec import Meta, Struct
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exchange.config import Settings
from exchange.domain.commands import IssueKey, ResumeClient, RevokeKey, SuspendClient
from exchange.domain.values import Id, KeyAlgorithm, KeyScope, Label, PublicKey
from exchange.gateway.http.callers import caller_of
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import check_id, decode
from exchange.gateway.http.responses import json_response
from exchange.log.documents.text import timestamp
from exchange.log.identity import issuing_command_id
from exchange.tools.operators.accounts import (
    Refused,
    create_account,
    read_model,
    tell_shards,
    telling,
)
from exchange.tools.operators.keys import decided, state_of
from exchange.tools.terminal import ToolError
from projections.accounts import list_accounts, list_keys
from projections.stores.checkpoints import Live
from projections.stores.failures import is_store_failure

ROWS_MAX: Final = 200  # of a page; people look for a client by its id
CHANGE_S: Final = 45.0  # a matcher that is taken over decides within half of it


class AccountBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /accounts``."""

    client_id: Id


class KeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /keys``: a key of Ed25519, whose secret the operator has."""

    client_id: Id
    public_key: PublicKey
    scopes: Annotated[list[KeyScope], Meta(min_length=1, max_length=len(KeyScope))]
    label: Label = ""


_ACCOUNT: Final = msgspec.json.Decoder(AccountBody)
_KEY: Final = msgspec.json.Decoder(KeyBody)


async def get_accounts(request: Request) -> Response:
    """``GET /accounts``: clients by id, after ``after``, each with where it is suspended."""
    after = request.query_params.get("after", "")
    async with _reading(_settings(request)) as (lent, live):
        found = await list_accounts(lent, live, after=after, limit=ROWS_MAX + 1)
    shown = [
        {
            "client_id": one.client_id,
            "created_at": None if one.created_ms is None else timestamp(one.created_ms),
            "suspended": list(one.suspended),
        }
        for one in found[:ROWS_MAX]
    ]
    return json_response({"accounts": shown, "has_more": len(found) > ROWS_MAX})


async def get_keys(request: Request) -> Response:
    """``GET /accounts/{client_id}/keys``: a client's keys, those that have ended too."""
    client_id = check_id(request.path_params["client_id"], "client_id")
    async with _reading(_settings(request)) as (lent, live):
        found = await list_keys(lent, live, client_id, after="", limit=ROWS_MAX + 1)
    shown = [
        {
            "key_id": key.key_id,
            "algorithm": key.algorithm.value,
            "scopes": list(key.scopes),
            "state": state_of(key),
            "issued_at": timestamp(key.issued_ms),
            "addresses": list(key.addresses),
            "label": key.label,
        }
        for key in found[:ROWS_MAX]
    ]
    return json_response({"keys": shown, "has_more": len(found) > ROWS_MAX})


async def post_account(request: Request) -> Response:
    """``POST /accounts``: let a client have keys."""
    body = decode(await request.body(), _ACCOUNT)
    key_id = caller_of(request).key_id
    async with _opened(_settings(request)) as connection:
        await create_account(_settings(request), connection, body.client_id, key_id)
    return json_response({"message": f"{body.client_id} has an account."}, 201)


async def post_suspension(request: Request) -> Response:
    """``POST /accounts/{client_id}/suspend`` and ``/resume``: on every shard."""
    client_id = check_id(request.path_params["client_id"], "client_id")
    is_ending = request.path_params["change"] == "resume"
    if not is_ending and request.path_params["change"] != "suspend":
        raise Problem(Code.ROUTE_NOT_FOUND, "There is suspend, and resume.")
    command = ResumeClient(client_id) if is_ending else SuspendClient(client_id)
    caller = caller_of(request)
    async with _opened(_settings(request)) as connection:
        places = await tell_shards(
            _settings(request),
            connection,
            command,
            key=caller.idempotency_key,
            key_id=caller.key_id,
        )
    at = ", ".join(f"{shard}:{position}" for shard, position in places.items())
    what = "may place orders again" if is_ending else "places no more orders"
    return json_response({"message": f"{client_id} {what}, from {at} on (shard:position)."})


async def post_key(request: Request) -> Response:
    """``POST /keys``: issue a key of Ed25519 to an account."""
    body = decode(await request.body(), _KEY)
    caller = caller_of(request)
    key_id = issuing_command_id(body.client_id, caller.idempotency_key).hex
    scopes = tuple(scope for scope in KeyScope if scope in body.scopes)
    command = IssueKey(
        key_id,
        body.client_id,
        KeyAlgorithm.ED25519,
        body.public_key,
        None,
        scopes,
        (),
        None,
        body.label,
    )
    async with _opened(_settings(request)) as connection:
        await decided(_settings(request), connection, command, caller.key_id)
    return json_response({"key_id": key_id, "message": f"{body.client_id} has a new key."}, 201)


async def post_revocation(request: Request) -> Response:
    """``POST /keys/{key_id}/revoke``: end a key at once."""
    key_id: str = check_id(request.path_params["key_id"], "key_id")
    async with _opened(_settings(request)) as connection:
        command = RevokeKey(key_id)
        await decided(_settings(request), connection, command, caller_of(request).key_id)
    return json_response({"message": f"Key {key_id} has ended; gateways refuse it within 5 s."})


ACCOUNTS: Final = (
    Route("/accounts", get_accounts, methods=["GET"]),
    Route("/accounts", post_account, methods=["POST"]),
    Route("/accounts/{client_id}/keys", get_keys, methods=["GET"]),
    Route("/accounts/{client_id}/{change}", post_suspension, methods=["POST"]),
    Route("/keys", post_key, methods=["POST"]),
    Route("/keys/{key_id}/revoke", post_revocation, methods=["POST"]),
)


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


@asynccontextmanager
async def _reading(settings: Settings) -> AsyncIterator[tuple[AsyncConnection, Live]]:
    async with _opened(settings) as connection, read_model(settings, connection) as lent:
        yield lent


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Lend a connection to the log; what stands against a change becomes a problem.

    Raises:
        Problem: 409, it was refused; 503, the stores are away, or its outcome is not known.
    """
    try:
        async with asyncio.timeout(CHANGE_S), telling(settings) as connection:
            yield connection
    except Refused as error:
        raise Problem(Code.REFUSED, str(error)) from error
    except ToolError as error:
        raise Problem(Code.READ_UNAVAILABLE, str(error)) from error
    except Exception as error:
        if not (is_store_failure(error) or isinstance(error, TimeoutError)):
            raise
        told = f"A store failed ({type(error).__name__}): look whether it was done before again."
        raise Problem(Code.READ_UNAVAILABLE, told) from error
