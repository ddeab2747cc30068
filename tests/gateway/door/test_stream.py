"""The stream where the door asks for keys: who may send what, and what ends a connection."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest

from exchange.domain.commands import RevokeKey
from exchange.domain.values import KeyScope
from exchange.gateway.stream import caps
from exchange.gateway.stream.protocol.messages import (
    CONTROLS,
    MESSAGES,
    Subscribe,
    access_of,
    decode_message,
)
from exchange.signing import Ed25519Signer, Signer, signed_headers
from tests.gateway.conftest import order
from tests.gateway.door.conftest import ALICE, BOB, Kept, decided, issue, until_let_in
from tests.gateway.stream.test_stream import Client, connected

pytestmark = pytest.mark.anyio

MADE: Final[dict[str, dict[str, Any]]] = {
    "authenticate": {"token": "x"},
    "subscribe": {"channels": ["orders"]},
    "unsubscribe": {"channels": ["orders"]},
    "order": {**order("DOOR-USD", client_id=...), "order_type": "limit"},
    "limit": order("DOOR-USD", client_id=...),
    "market": order("DOOR-USD", client_id=..., price=...),
    "cancel": {"order_id": "door-none"},
    "cancel_all": {},
    "batch": {"entries": [{"action": "cancel", "order_id": "door-none"}]},
    "ping": {},
}


def message_of(kind: str) -> dict[str, Any]:
    made = {name: value for name, value in MADE[kind].items() if name != "type"}
    return {"type": kind, **made}


def shown(kept: Kept, signer: Signer, path: str = "/stream") -> dict[str, str]:
    headers = signed_headers(signer, "GET", str(kept.http.base_url.join(path)))
    return {
        "signature_input": headers["Signature-Input"],
        "signature": headers["Signature"],
    }


@asynccontextmanager
async def as_client(kept: Kept, signer: str | Signer) -> AsyncIterator[Client]:
    by = kept.signers[signer] if isinstance(signer, str) else signer
    async with connected(kept.http) as client:
        answer = await client.ask(type="authenticate", **shown(kept, by))
        assert answer["type"] == "authenticated", answer
        yield client


@pytest.mark.usefixtures("traded")
async def test_each_message_asks_for_its_scope(kept: Kept) -> None:
    assert set(MADE) == set(MESSAGES)
    let_in: dict[str, set[KeyScope]] = {kind: set() for kind in MADE}
    strangers = {}
    async with connected(kept.http) as stranger:
        for kind in MADE:
            strangers[kind] = (await stranger.ask(**message_of(kind))).get("code")
    for scope in KeyScope:
        async with as_client(kept, f"only {scope}") as client:
            for kind in MADE:
                if (await client.ask(**message_of(kind))).get("code") != "scope.missing":
                    let_in[kind].add(scope)

    wanted = {
        kind: access_of(decode_message(json.dumps(message_of(kind)).encode())).scopes
        for kind in MADE
    }
    assert let_in == {kind: set(scopes or KeyScope) for kind, scopes in wanted.items()}
    asking = {kind for kind, scopes in wanted.items() if scopes}
    assert {kind for kind, code in strangers.items() if code == "signature.missing"} == asking


def test_every_message_has_a_policy() -> None:
    steering: dict[str, dict[str, Any]] = {
        "pause": {},
        "resume": {},
        "step": {},
        "speed": {"speed": 1},
        "seek": {"to": "x"},
    }
    assert set(steering) == set(CONTROLS)
    for kind, more in steering.items():
        text = json.dumps({"type": kind, **more}).encode()
        assert not access_of(decode_message(text, of_replay=True)).scopes
    assert access_of(Subscribe("subscribe", [])).scopes == frozenset()


@pytest.mark.parametrize(
    ("signer", "code"),
    [
        ("expired", "signature.expired_key"),
        ("revoked", "signature.revoked_key"),
        ("foreign", "signature.address"),
        (Ed25519Signer("0" * 32, bytes(32)), "signature.unknown_key"),
    ],
)
async def test_only_a_good_key_is_let_in(kept: Kept, signer: str | Signer, code: str) -> None:
    by = kept.signers[signer] if isinstance(signer, str) else signer
    async with connected(kept.http) as client:
        answer = await client.ask(type="authenticate", **shown(kept, by))
        assert (answer["type"], answer["code"]) == ("error", code)


async def test_a_signature_of_another_request_is_no_key(kept: Kept) -> None:
    async with connected(kept.http) as client:
        other = await client.ask(
            type="authenticate", **shown(kept, kept.signers["alice"], "/orders")
        )
        nothing = await client.ask(type="authenticate")
        one = await client.ask(type="authenticate", signature="sig1=:AA==:")

    assert other["code"] == "signature.bad"
    assert [nothing["code"], one["code"]] == ["request.invalid"] * 2


@pytest.mark.usefixtures("traded")
async def test_a_connection_is_of_one_client(kept: Kept) -> None:
    async with as_client(kept, "plain") as client:
        mine = await client.ask(**message_of("limit"))
        others = await client.ask(**message_of("limit"), client_id=BOB)
        theirs = await client.ask(type="subscribe", channels=["orders"], client_id=BOB)
        switched = await client.ask(type="authenticate", **shown(kept, kept.signers["bob"]))

    assert mine["order"]["client_id"] == ALICE
    assert others["code"] == "client.not_yours"
    assert theirs["code"] == "client.not_found"
    assert switched["code"] == "client.not_yours"


async def test_a_connection_is_told_of_its_own_orders_alone(kept: Kept, traded: str) -> None:
    async with as_client(kept, "plain") as alice, as_client(kept, "bob") as bob:
        told = await alice.ask(type="subscribe", channels=["orders"], instrument=traded)
        assert told["type"] == "subscribed"
        await bob.ask(**message_of("limit"))
        mine = await alice.ask(**message_of("limit"), id="mine")
        update = await alice.next()

    assert mine["type"] == "order_accepted"
    text = json.dumps(update)
    assert ALICE in text
    assert BOB not in text


@pytest.mark.usefixtures("traded")
async def test_a_token_is_as_good_as_its_key(kept: Kept) -> None:
    made = (await kept.send("plain", "POST", "/tokens")).json()
    async with connected(kept.http) as client:
        answer = await client.ask(type="authenticate", token=made["token"])
        order = await client.ask(**message_of("limit"))

    assert (answer["client_id"], answer["ends_at"]) == (ALICE, made["ends_at"])
    assert order["type"] == "order_accepted"


async def test_revoking_a_key_ends_its_connections(kept: Kept) -> None:
    command, signer = issue(ALICE)
    await decided(kept.venue, command)
    await until_let_in(kept, signer)
    async with as_client(kept, signer) as client:
        await decided(kept.venue, RevokeKey(command.key_id))
        assert await client.closed() == (4403, "signature.revoked_key")


async def test_a_key_has_so_many_connections_and_subscriptions(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, traded: str
) -> None:
    command, signer = issue(ALICE)
    await decided(kept.venue, command)
    await until_let_in(kept, signer)
    monkeypatch.setattr(caps, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(caps, "SUBSCRIPTIONS_MAX", 1)
    follow = {"type": "subscribe", "channels": ["trades"], "instrument": traded}
    async with as_client(kept, signer) as client, connected(kept.http) as second:
        one = await client.ask(**follow)
        two = await client.ask(**{**follow, "channels": ["ticker"]})
        await client.ask(**{**follow, "type": "unsubscribe"})
        three = await client.ask(**{**follow, "channels": ["ticker"]})
        refused = await second.ask(type="authenticate", **shown(kept, signer))
    async with as_client(kept, signer):  # the first has left
        pass

    assert [one["type"], two["code"]] == ["subscribed", "stream.too_many"]
    assert three["type"] == "subscribed"
    assert refused["code"] == "stream.too_many"


async def test_an_open_door_lets_everybody_in(http: httpx.AsyncClient) -> None:
    async with connected(http) as client:
        answer = await client.ask(type="authenticate")
    assert (answer["type"], answer["client_id"]) == ("authenticated", None)
