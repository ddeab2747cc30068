"""Keys over HTTP: issued once, with a secret that is shown once, rotated and revoked."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from exchange.door.secrets import MasterKeys
from tests.gateway.conftest import Venue, gateway_at

pytestmark = pytest.mark.anyio

MASTERS = MasterKeys({1: bytes(32), 7: b"m" * 32})
PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # of RFC 8032
SCOPES = ["read", "trade"]


@pytest.fixture(scope="module")
async def desk(venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that has master keys."""
    async with gateway_at(venue, masters=MASTERS) as client:
        answer = await client.post("/accounts", json={"client_id": "acme"})
        assert answer.status_code in (200, 201), answer.text
        yield client


def hmac_key(**changes: object) -> dict[str, object]:
    return {"client_id": "acme", "algorithm": "hmac-sha256", "scopes": SCOPES, **changes}


def ed25519_key(**changes: object) -> dict[str, object]:
    return {**hmac_key(algorithm="ed25519", public_key=PUBLIC_KEY), **changes}


async def issue(desk: httpx.AsyncClient, body: dict[str, object]) -> dict[str, Any]:
    answer = await desk.post("/keys", json=body)
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def listed(desk: httpx.AsyncClient, key_id: str) -> dict[str, Any]:
    keys = (await desk.get("/keys", params={"client_id": "acme", "limit": 1_000})).json()["keys"]
    (found,) = [key for key in keys if key["key_id"] == key_id]
    return dict(found)


async def test_the_secret_of_a_key_is_shown_once_and_kept_nowhere(
    desk: httpx.AsyncClient, venue: Venue
) -> None:
    body = hmac_key(addresses=["10.1.0.0/16", "192.0.2.7"], label="market maker")
    keyed = {"Idempotency-Key": "k-1"}

    first = await desk.post("/keys", json=body, headers=keyed)
    again = await desk.post("/keys", json=body, headers=keyed)
    told = await desk.get(f"/commands/{first.json()['command_id']}")

    view = first.json()
    key_id, secret = view["key"]["key_id"], view["secret"]
    assert (first.status_code, again.status_code) == (201, 200), first.text
    assert base64.urlsafe_b64decode(secret + "=") == MASTERS.hmac_secret(7, key_id)
    assert key_id == view["command_id"].replace("-", "")
    assert view["key"] == await listed(desk, key_id)
    assert view["key"]["addresses"] == ["10.1.0.0/16", "192.0.2.7/32"]
    assert (view["key"]["master"], view["key"]["label"]) == (7, "market maker")
    assert again.json() == {**view, "secret": None}
    assert told.json() == {**view, "secret": None, "status": "accepted"}
    async with venue.engine.connect() as connection:
        for table in ("events", "keys", "claims"):
            rows = (await connection.execute(text(f"select * from {table}"))).all()
            assert secret not in str(rows)


async def test_a_key_of_ed25519_needs_no_secret(desk: httpx.AsyncClient) -> None:
    view = await issue(desk, ed25519_key(expires_at="2099-01-01T00:00:00Z", scopes=["cancel"]))

    assert view["secret"] is None
    assert view["key"]["public_key"] == PUBLIC_KEY
    assert view["key"]["expires_at"] == "2099-01-01T00:00:00.000Z"
    assert view["key"]["master"] is None


async def test_a_retry_under_another_master_key_is_the_same_request(
    desk: httpx.AsyncClient, venue: Venue
) -> None:
    keyed = {"Idempotency-Key": "k-2"}
    first = await desk.post("/keys", json=hmac_key(), headers=keyed)

    async with gateway_at(venue, masters=MasterKeys({8: b"n" * 32})) as other:
        again = await other.post("/keys", json=hmac_key(), headers=keyed)
    changed = await desk.post("/keys", json=hmac_key(scopes=["read"]), headers=keyed)

    assert (again.status_code, again.json()["key"]) == (200, first.json()["key"])
    assert (changed.status_code, changed.json()["code"]) == (409, "idempotency.conflict")


async def test_a_rotated_key_ends_after_the_overlap(desk: httpx.AsyncClient) -> None:
    old = await issue(desk, hmac_key(label="bot", scopes=["trade", "read", "trade"]))
    key_id = old["key"]["key_id"]

    rotated = await desk.post(f"/keys/{key_id}/rotate", json={"overlap_s": 60})
    twice = await desk.post(f"/keys/{key_id}/rotate")
    before = await listed(desk, key_id)
    revoked = await desk.post(f"/keys/{key_id}/revoke")
    ended = await desk.post(f"/keys/{key_id}/revoke")

    assert rotated.status_code == 201, rotated.text
    view = rotated.json()
    assert base64.urlsafe_b64decode(view["secret"] + "=") == MASTERS.hmac_secret(
        7, view["key"]["key_id"]
    )
    kept = ("client_id", "algorithm", "scopes", "addresses", "expires_at", "label")
    assert {name: view["key"][name] for name in kept} == {name: old["key"][name] for name in kept}
    assert view["key"]["scopes"] == ["read", "trade"]
    assert view["key"]["rotated_from"] == key_id
    assert before["ends_at"] == view["former_ends_at"] > view["key"]["issued_at"]
    assert (twice.status_code, twice.json()["code"]) == (409, "key.not_good")
    assert revoked.status_code == 200, revoked.text
    assert revoked.json()["ends_at"] < view["former_ends_at"]
    assert (await listed(desk, key_id))["ends_at"] == revoked.json()["ends_at"]
    assert (ended.status_code, ended.json()["code"]) == (409, "key.ended")


async def test_a_key_of_ed25519_is_rotated_to_another_public_key(desk: httpx.AsyncClient) -> None:
    key_id = (await issue(desk, ed25519_key()))["key"]["key_id"]

    without = await desk.post(f"/keys/{key_id}/rotate")
    rotated = await desk.post(f"/keys/{key_id}/rotate", json={"public_key": "ab" * 32})

    assert (without.status_code, without.json()["code"]) == (422, "key.material")
    assert rotated.status_code == 201, rotated.text
    assert (rotated.json()["key"]["public_key"], rotated.json()["secret"]) == ("ab" * 32, None)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (hmac_key(client_id="nobody"), 404, "account.not_found"),
        (ed25519_key(public_key=None), 422, "key.material"),
        (hmac_key(public_key=PUBLIC_KEY), 422, "key.material"),
        (hmac_key(scopes=[]), 422, "scopes"),
        (hmac_key(scopes=["root"]), 422, "scopes[0]"),
        (hmac_key(addresses=["10.0.0.1/8"]), 422, "addresses"),
        (hmac_key(addresses=["localhost"]), 422, "addresses"),
        (hmac_key(addresses=["fe80::1%eth0"]), 422, "addresses"),
        (hmac_key(addresses=["10.0.0.0/8"] * 21), 422, "addresses"),
        (hmac_key(expires_at="2001-01-01T00:00:00Z"), 422, "expires_at"),
        (hmac_key(expires_at="soon"), 422, "expires_at"),
        (hmac_key(label="\n"), 422, "label"),
        (ed25519_key(public_key=PUBLIC_KEY.upper()), 422, "public_key"),
        (hmac_key(algorithm="rot13"), 422, "algorithm"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
async def test_what_is_no_key_is_refused(
    body: dict[str, object], status: int, told: str, desk: httpx.AsyncClient
) -> None:
    answer = await desk.post("/keys", json=body)

    problem = answer.json()
    assert answer.status_code == status, answer.text
    assert told in (problem["code"], problem.get("field"))


async def test_what_was_never_issued_is_not_found(desk: httpx.AsyncClient) -> None:
    unknown, malformed = "0" * 32, "not-a-key"

    for action in ("rotate", "revoke"):
        missing = await desk.post(f"/keys/{unknown}/{action}")
        wrong = await desk.post(f"/keys/{malformed}/{action}")
        assert (missing.status_code, missing.json()["code"]) == (404, "key.not_found")
        assert (wrong.status_code, wrong.json()["field"]) == (422, "key_id")


@pytest.mark.usefixtures("desk")
async def test_without_a_master_key_there_are_keys_of_ed25519_alone(
    http: httpx.AsyncClient,
) -> None:
    refused = await http.post("/keys", json=hmac_key())
    issued = await http.post("/keys", json=ed25519_key())

    assert (refused.status_code, refused.json()["code"]) == (422, "key.material")
    assert "KEYS_MASTER" in refused.json()["detail"]
    assert issued.status_code == 201, issued.text
