"""Keys: issued to accounts, rotated and revoked, all on shard 0.

The id of a key is that of the command that issues it, so a retry names the same key. The secret of
an HMAC key is made here from a master key and that id. It is shown once, in the answer that says
that the key was issued: neither a retry of the request nor its outcome shows it again.
"""

import base64
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.commands import IssueKey, RevokeKey, RotateKey
from exchange.domain.events import KeyIssued, KeyRevoked
from exchange.domain.values import (
    ADDRESSES_MAX,
    OVERLAP_MS_MAX,
    Id,
    KeyAlgorithm,
    KeyScope,
    Label,
    PublicKey,
)
from exchange.door.secrets import MasterKeyError, MasterKeys
from exchange.gateway.http.callers import command_key
from exchange.gateway.http.declaration import COMMANDING, PAGING, Access, Operation, operation
from exchange.gateway.http.parameters import (
    CURSOR,
    IDEMPOTENCY_KEY,
    KEY_ID,
    MIN_SEQUENCE,
    ONLY_CLIENT,
    PREFER,
)
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import (
    decode,
    moment_ms,
    query,
)
from exchange.gateway.http.responses import (
    PendingView,
    cursor_text,
    in_turns,
    json_response,
)
from exchange.gateway.parts.admission import admit_operation
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.decisions import (
    Decision,
    Pending,
    check_accepted,
    pending_response,
    resent_headers,
)
from exchange.gateway.resources.accounts import be_seen, read_page, submit
from exchange.log.documents.text import timestamp
from exchange.log.identity import issuing_command_id, key_command_id
from projections.accounts import KEYS_SHARD, Key, list_keys

KEYS_LIMIT: Final = limit_of(100, 1_000, "keys")
OVERLAP_S_MAX: Final = OVERLAP_MS_MAX // 1_000
OVERLAP_S: Final = 24 * 60 * 60  # a day in which to put the new key everywhere
ADDRESS_CHARACTERS_MAX: Final = 60  # the longest that is one has 49

Address = Annotated[str, Meta(max_length=ADDRESS_CHARACTERS_MAX)]


class KeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /keys``. ``addresses`` are networks, or single addresses."""

    client_id: Id
    algorithm: KeyAlgorithm
    scopes: Annotated[list[KeyScope], Meta(min_length=1, max_length=len(KeyScope))]
    public_key: PublicKey | None = None
    addresses: Annotated[list[Address], Meta(max_length=ADDRESSES_MAX)] = []
    expires_at: str | None = None
    label: Label = ""
    idempotency_key: Id | None = None


class RotateBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /keys/{key_id}/rotate``; of an HMAC key all of it may be left out."""

    public_key: PublicKey | None = None
    overlap_s: Annotated[int, Meta(ge=0, le=OVERLAP_S_MAX)] = OVERLAP_S
    idempotency_key: Id | None = None


KEY_BODY: Final = msgspec.json.Decoder(KeyBody)
ROTATE_BODY: Final = msgspec.json.Decoder(RotateBody)


class KeyView(Struct, frozen=True):
    """A key. ``ends_at`` is there once it is revoked or rotated."""

    key_id: str
    client_id: str
    algorithm: KeyAlgorithm
    public_key: str | None
    master: int | None
    scopes: list[KeyScope]
    addresses: list[str]
    expires_at: str | None
    label: str
    issued_at: str
    ends_at: str | None
    rotated_from: str | None


class IssuedView(Struct, frozen=True):
    """What issuing or rotating a key answers.

    ``secret`` is that of an HMAC key, in base64url, and null in all answers but the first.
    ``former_ends_at`` is when the key ends that a rotation replaces.
    """

    key: KeyView
    secret: str | None
    former_ends_at: str | None
    sequence: int
    command_id: str


class KeysView(Struct, frozen=True):
    """What ``GET /keys`` answers: by id."""

    keys: list[KeyView]
    count: int
    next_cursor: str | None
    sequence: str


class RevokedView(Struct, frozen=True):
    """What ``POST /keys/{key_id}/revoke`` answers."""

    key_id: str
    client_id: str
    ends_at: str
    sequence: int
    command_id: str


@operation(
    Operation(
        tag="accounts",
        scope=Access.ADMIN,
        headers=(IDEMPOTENCY_KEY, PREFER),
        body=KeyBody,
        body_required=True,
        examples={
            "issue": {
                "client_id": "client-A",
                "algorithm": "hmac-sha256",
                "scopes": ["read", "trade", "cancel"],
                "addresses": ["10.0.0.0/8"],
                "label": "market maker",
            }
        },
        answers={201: (IssuedView,), 200: (IssuedView,), 202: (PendingView,)},
        problems=(
            *COMMANDING,
            Code.ACCOUNT_NOT_FOUND,
            Code.KEY_EXISTS,
            Code.KEY_MATERIAL,
            Code.TOO_MANY_KEYS,
            Code.RATE_LIMITED,
        ),
    )
)
async def issue_key(request: Request) -> Response:
    """``POST /keys``: issue a key to an account; 200 if an earlier request did."""
    query(request)
    body = decode(await request.body(), KEY_BODY)
    addresses, expires_ms = networks(body.addresses), _end_of(body.expires_at)
    key = command_key(request, body.idempotency_key)
    await admit_operation(request)
    command_id = issuing_command_id(body.client_id, key)
    signs = body.algorithm is KeyAlgorithm.ED25519
    command = IssueKey(
        command_id.hex,
        body.client_id,
        body.algorithm,
        body.public_key,
        None if signs else _newest(gateway_of(request).masters),
        scopes_of(body.scopes),
        addresses,
        expires_ms,
        body.label,
    )
    return await _issued(request, command, command_id)


@operation(
    Operation(
        tag="accounts",
        scope=Access.ACCOUNTS,
        query=(ONLY_CLIENT, KEYS_LIMIT, CURSOR, MIN_SEQUENCE),
        answers={200: (KeysView,)},
        problems=PAGING,
    )
)
async def get_keys(request: Request) -> Response:
    """``GET /keys``: every key that was issued, those that have ended too."""
    page = await read_page(request, KEYS_LIMIT, list_keys)
    view = KeysView(
        keys=await in_turns(_key_view, page.rows),
        count=len(page.rows),
        next_cursor=cursor_text(page.rows[-1].key_id) if page.has_more else None,
        sequence=page.sequence,
    )
    return json_response(view)


@operation(
    Operation(
        tag="accounts",
        scope=Access.ADMIN,
        path=(KEY_ID,),
        headers=(IDEMPOTENCY_KEY, PREFER),
        body=RotateBody,
        examples={"rotate": {"overlap_s": 3_600}},
        answers={201: (IssuedView,), 200: (IssuedView,), 202: (PendingView,)},
        problems=(
            *COMMANDING,
            Code.KEY_NOT_FOUND,
            Code.KEY_NOT_GOOD,
            Code.KEY_EXISTS,
            Code.KEY_MATERIAL,
            Code.TOO_MANY_KEYS,
            Code.RATE_LIMITED,
        ),
    )
)
async def rotate_key(request: Request) -> Response:
    """``POST /keys/{key_id}/rotate``: put a new key in the place of one, which ends later."""
    query(request)
    key_id = check_key_id(request.path_params["key_id"])
    text = await request.body()
    body = decode(text, ROTATE_BODY) if text else RotateBody()
    key = command_key(request, body.idempotency_key)
    await admit_operation(request)
    command_id = key_command_id("rotate", key_id, key)
    # One with a public key is of Ed25519, or the exchange refuses it.
    master = _newest(gateway_of(request).masters) if body.public_key is None else None
    overlap_ms = body.overlap_s * 1_000
    command = RotateKey(key_id, command_id.hex, body.public_key, master, overlap_ms)
    return await _issued(request, command, command_id)


@operation(
    Operation(
        tag="accounts",
        scope=Access.ADMIN,
        path=(KEY_ID,),
        headers=(IDEMPOTENCY_KEY, PREFER),
        answers={200: (RevokedView,), 202: (PendingView,)},
        problems=(*COMMANDING, Code.KEY_NOT_FOUND, Code.KEY_ENDED, Code.RATE_LIMITED),
    )
)
async def revoke_key(request: Request) -> Response:
    """``POST /keys/{key_id}/revoke``: end a key at once."""
    query(request)
    key_id = check_key_id(request.path_params["key_id"])
    key = command_key(request)
    await admit_operation(request)
    command_id = key_command_id("revoke", key_id, key)
    answer = await submit(request, KEYS_SHARD, RevokeKey(key_id), command_id)
    if isinstance(answer, Pending):
        return pending_response(request, answer, command_id, key_id=key_id)
    view = revoked(answer, command_id)
    await be_seen(request, KEYS_SHARD, view.sequence)
    return json_response(view, 200, resent_headers(answer.resent))


def issued(decision: Decision, command_id: UUID, secret: str | None = None) -> IssuedView:
    """Return the answer to what issued or rotated a key.

    Raises:
        Problem: It was refused.
    """
    check_accepted(decision, command_id)
    event = decision.first
    assert isinstance(event, KeyIssued), event
    key = KeyView(
        event.key_id,
        event.client_id,
        event.algorithm,
        event.public_key,
        event.master,
        [*event.scopes],
        [*event.addresses],
        _time(event.expires_ms),
        event.label,
        timestamp(event.time_ms),
        None,
        event.rotated_from,
    )
    former = decision.events[-1].event
    former_ends_at = timestamp(former.ends_ms) if isinstance(former, KeyRevoked) else None
    return IssuedView(key, secret, former_ends_at, decision.sequence, str(command_id))


def revoked(decision: Decision, command_id: UUID) -> RevokedView:
    """Return the answer to what revoked a key.

    Raises:
        Problem: It was refused.
    """
    check_accepted(decision, command_id)
    event = decision.first
    assert isinstance(event, KeyRevoked), event
    ends_at = timestamp(event.ends_ms)
    return RevokedView(event.key_id, event.client_id, ends_at, decision.sequence, str(command_id))


def networks(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return addresses and networks as networks, each as it is usually written.

    Raises:
        Problem: 422, one is none.
    """
    found: list[str] = []
    for text in addresses:
        try:
            network = ip_network(text)
        except ValueError as error:
            raise invalid("addresses", f"{text!r} is no network: {error}") from error
        if "%" in text:  # a zone is the name of an interface of one machine
            raise invalid("addresses", f"{text!r} has a zone, which no caller's address has")
        found.append(str(network))
    return tuple(dict.fromkeys(found))


def scopes_of(scopes: Iterable[KeyScope]) -> tuple[KeyScope, ...]:
    """Return scopes in their usual order, each once."""
    asked = {*scopes}
    return tuple(scope for scope in KeyScope if scope in asked)


def secret_text(secret: bytes) -> str:
    """Return a secret as people and key files have it: base64url."""
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")


def check_key_id(text: str) -> str:
    """Return the id of a key.

    Raises:
        Problem: 422, it is none.
    """
    try:
        key_id: str = msgspec.convert(text, KEY_ID.type)
    except msgspec.ValidationError:
        raise invalid("key_id", "must be 32 hexadecimal digits in small letters") from None
    return key_id


async def _issued(request: Request, command: IssueKey | RotateKey, command_id: UUID) -> Response:
    answer = await submit(request, KEYS_SHARD, command, command_id)
    if isinstance(answer, Pending):
        return pending_response(request, answer, command_id, key_id=command_id.hex)
    secret = None
    if isinstance(answer.first, KeyIssued) and not answer.resent:
        secret = _secret(gateway_of(request).masters, answer.first)
    view = issued(answer, command_id, secret)
    await be_seen(request, KEYS_SHARD, view.sequence)
    return json_response(view, 200 if answer.resent else 201, resent_headers(answer.resent))


def _secret(masters: MasterKeys, event: KeyIssued) -> str | None:
    if event.master is None:
        return None
    return secret_text(masters.hmac_secret(event.master, event.key_id))


def _newest(masters: MasterKeys) -> int:
    try:
        return masters.newest
    except MasterKeyError as error:
        raise Problem(Code.KEY_MATERIAL, str(error)) from error


def _end_of(text: str | None) -> int | None:
    if text is None:
        return None
    expires_ms = moment_ms({"expires_at": text}, "expires_at")
    assert expires_ms is not None
    if expires_ms <= time.time() * 1_000:
        raise invalid("expires_at", "is over: leave it out, or name a later time")
    return expires_ms


def _key_view(key: Key) -> KeyView:
    return KeyView(
        key.key_id,
        key.client_id,
        key.algorithm,
        key.public_key,
        key.master,
        [*key.scopes],
        [*key.addresses],
        _time(key.expires_ms),
        key.label,
        timestamp(key.issued_ms),
        _time(key.ends_ms),
        key.rotated_from,
    )


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else timestamp(time_ms)
