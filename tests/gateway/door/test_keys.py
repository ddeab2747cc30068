"""Signing as clients do: orders, replays, tokens, other clients' orders, revoking."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from exchange.domain.commands import RevokeKey
from exchange.door import keys as keys_module
from exchange.signing import Signer
from tests.gateway.conftest import PATIENCE_S, gateway_at, order
from tests.gateway.door.conftest import (
    ALICE,
    BOB,
    KEPT,
    MASTERS,
    SAM,
    Kept,
    decided,
    issue,
    until_let_in,
)

pytestmark = pytest.mark.anyio


def body(instrument: str, **changes: Any) -> bytes:
    return json.dumps(order(instrument, client_id=..., **changes)).encode()


async def placed(kept: Kept, by: str | Signer, instrument: str, **changes: Any) -> dict[str, Any]:
    answer = await kept.send(by, "POST", "/orders", body=body(instrument, **changes))
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


@pytest.mark.parametrize("name", ["alice", "hmac", "near"])
async def test_a_signed_order_is_of_the_key_s_client(kept: Kept, traded: str, name: str) -> None:
    view = await placed(kept, name, traded)

    assert view["order"]["client_id"] == ALICE
    owned = await kept.send("alice", "GET", f"/orders/{view['order']['order_id']}")
    assert owned.json()["order"]["status"] == "open"


async def test_a_replay_is_the_same_command(kept: Kept, traded: str) -> None:
    request = kept.request(kept.signers["alice"], "POST", "/orders", body(traded))
    first = await kept.http.send(request)
    again = await kept.http.send(request)
    async with gateway_at(kept.venue, hosts=KEPT, masters=MASTERS) as http:
        elsewhere = Kept(http, kept.venue, kept.signers)
        await until_let_in(elsewhere, "alice")
        request.url = http.base_url.join("/orders")
        third = await http.send(request)  # its Host is the first gateway's: a balancer's, say

    assert first.status_code == again.status_code == third.status_code == 201
    assert first.json()["command_id"] == again.json()["command_id"] == third.json()["command_id"]
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_a_replayed_batch_is_the_same_commands(kept: Kept, traded: str) -> None:
    entry = {"action": "place", **order(traded, client_id=...)}
    text = json.dumps({"entries": [entry, entry]}).encode()
    request = kept.request(kept.signers["alice"], "POST", "/orders/batch", text)

    first, again = [(await kept.http.send(request)).json()["entries"] for _ in range(2)]

    ids = [one["body"]["command_id"] for one in first]
    assert [one["body"]["command_id"] for one in again] == ids
    assert len(set(ids)) == 2
    assert [one["replayed"] for one in again] == [True, True]


async def test_what_another_client_has_is_not_there(kept: Kept, traded: str) -> None:
    view = await placed(kept, "bob", traded)
    order_id, command_id = view["order"]["order_id"], view["command_id"]
    paths = {
        f"/orders/{order_id}": "order.not_found",
        f"/orders/{order_id}/events": "order.not_found",
        f"/orders?client_id={BOB}": "client.not_found",
        f"/market/fills?client_id={BOB}&instrument={traded}": "client.not_found",
        f"/market/positions/{BOB}": "client.not_found",
        f"/settlement/cycles/1?client_id={BOB}": "client.not_found",
        f"/commands/{command_id}": "command.not_found",
    }

    codes = {path: (await kept.send("plain", "GET", path)).json()["code"] for path in paths}
    seen = {(await kept.send("only audit", "GET", path)).status_code for path in paths}
    cancelled = await kept.send("plain", "POST", f"/orders/{order_id}/cancel")
    own = await kept.send("bob", "POST", f"/orders/{order_id}/cancel")

    assert codes == paths
    assert seen == {200}
    assert (cancelled.status_code, cancelled.json()["code"]) == (404, "order.not_found")
    assert own.json()["order"]["status"] == "cancelled"


async def test_a_client_may_leave_its_name_out(kept: Kept, traded: str) -> None:
    await placed(kept, "alice", traded)
    orders = await kept.send("plain", "GET", "/orders")
    cycle = await kept.send("plain", "GET", "/settlement/cycles/1")
    all_of_it = await kept.send("only audit", "GET", "/settlement/cycles/1")
    cancelled = await kept.send("plain", "POST", "/orders/cancel-all", body=b"{}")

    assert orders.json()["client_id"] == ALICE
    assert {one["client_id"] for one in cycle.json()["clients"]} <= {ALICE}
    assert all_of_it.status_code == 200
    assert cancelled.json()["client_id"] == ALICE


async def test_a_suspended_client_places_nothing_and_cancels(kept: Kept, traded: str) -> None:
    refused = await kept.send("sam", "POST", "/orders", body=body(traded))
    cancelled = await kept.send("sam", "POST", "/orders/cancel-all", body=b"{}")

    assert refused.status_code == 403, refused.text
    assert refused.json()["reason"] == "client_suspended"
    assert cancelled.json()["client_id"] == SAM


async def test_a_token_does_what_its_key_may_but_for_admin(kept: Kept, traded: str) -> None:
    request = kept.request(kept.signers["alice"], "POST", "/tokens")
    made, again = [(await kept.http.send(request)).json() for _ in range(2)]
    bearer = {"Authorization": f"Bearer {made['token']}", "Content-Type": "application/json"}
    placed = await kept.http.post("/orders", content=body(traded), headers=bearer)
    admin = await kept.http.post("/settlement/cycles/close", headers=bearer)
    another = await kept.http.post("/tokens", headers=bearer)
    wrong = [
        await kept.http.get("/orders", headers={"Authorization": text})
        for text in ("Bearer x", f"Bearer {made['token'][:-2]}AA", "Basic YTpi", "Bearer")
    ]

    assert made == again
    assert "admin" not in made["scopes"]
    assert placed.json()["order"]["client_id"] == ALICE
    assert (admin.status_code, admin.json()["code"]) == (403, "scope.missing")
    assert (another.status_code, another.json()["code"]) == (401, "signature.missing")
    assert {answer.status_code for answer in wrong} == {401}


async def test_a_revoked_key_and_its_token_are_refused(kept: Kept) -> None:
    command, signer = issue(ALICE)
    await decided(kept.venue, command)
    await until_let_in(kept, signer)
    made = (await kept.send(signer, "POST", "/tokens")).json()
    bearer = {"Authorization": f"Bearer {made['token']}"}
    assert (await kept.http.get("/orders", headers=bearer)).status_code == 200

    await decided(kept.venue, RevokeKey(command.key_id))

    async with asyncio.timeout(PATIENCE_S):
        while (await kept.send(signer, "GET", "/orders")).status_code != 401:
            await asyncio.sleep(0.02)
    assert (await kept.http.get("/orders", headers=bearer)).json()["code"] == (
        "signature.revoked_key"
    )


async def test_what_an_admin_signed_is_done_once_however_often_it_is_sent(kept: Kept) -> None:
    wanted = {"client_id": BOB, "algorithm": "hmac-sha256", "scopes": ["read"]}
    request = kept.request(kept.signers["alice"], "POST", "/keys", json.dumps(wanted).encode())
    first, again = [(await kept.http.send(request)).json() for _ in range(2)]
    assert first["key"]["key_id"] == again["key"]["key_id"]
    assert (first["secret"] is None, again["secret"]) == (False, None)

    suspend, resume = [
        kept.request(kept.signers["alice"], "POST", f"/accounts/door-eve/{change}")
        for change in ("suspend", "resume")
    ]
    for overheard in (suspend, resume, suspend):
        assert (await kept.http.send(overheard)).status_code == 200
    told = await kept.send("alice", "GET", "/accounts?client_id=door-eve")
    assert all(not one["suspended"] for one in told.json()["accounts"])


async def test_a_signed_closing_names_its_cycle(kept: Kept) -> None:
    answer = await kept.send("alice", "POST", "/settlement/cycles/close")

    assert (answer.status_code, answer.json()["field"]) == (422, "cycle")


async def test_who_cannot_follow_the_keys_lets_nobody_in(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "BEHIND_S", -1)
    answer = await kept.send("alice", "GET", "/orders")
    public = await kept.http.get("/instruments")

    assert (answer.status_code, answer.json()["code"]) == (503, "door.unavailable")
    assert answer.headers["Retry-After"]
    assert public.status_code == 200


async def test_a_door_without_keys_makes_no_tokens(http: httpx.AsyncClient) -> None:
    answer = await http.post("/tokens")
    assert (answer.status_code, answer.json()["code"]) == (401, "signature.missing")
