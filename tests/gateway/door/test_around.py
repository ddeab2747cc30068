"""Around the door: wrong signatures, the port for operators, and questions about the past."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from exchange.config import Settings
from exchange.door.keeper import Keeper
from exchange.door.keys import Keys
from exchange.door.tokens import Tokens
from exchange.gateway.parts.limits import Limits
from exchange.signing import Ed25519Signer
from tests.conftest import DOOR_REDIS_DATABASE, free_ports
from tests.gateway.conftest import HOST, PATIENCE_S, gateway_at, order, running
from tests.gateway.door.conftest import ALICE, BOB, KEPT, MASTERS, Kept, until_let_in
from tests.gateway.parts.test_limits import Slow
from tests.gateway.resources.test_past import analyst_at
from tests.operator.conftest import NOBODY, desk_at

pytestmark = pytest.mark.anyio

WRONG = Ed25519Signer("0" * 32, bytes(32))


async def test_wrong_signatures_count_for_their_address_alone(kept: Kept) -> None:
    limits = Limits(signatures=Slow(1, 3))
    async with gateway_at(kept.venue, hosts=KEPT, masters=MASTERS, limits=limits) as http:
        here = Kept(http, kept.venue, kept.signers)
        await until_let_in(here, "alice")
        wrong = [(await here.send(WRONG, "GET", "/orders")).status_code for _ in range(12)]
        good = await here.send("alice", "GET", "/orders")
        public = await http.get("/instruments")
    elsewhere = await kept.send("alice", "GET", "/orders")  # its gateway has no such limit

    # While Redis is slow to answer, the gateway's own buckets give a burst too.
    assert wrong[:3] == [401] * 3
    assert wrong[-3:] == [429] * 3
    assert (good.status_code, good.json()["code"]) == (429, "rate.limited")
    assert int(good.headers["Retry-After"]) >= 1
    assert (public.status_code, elsewhere.status_code) == (200, 200)


async def test_a_key_has_a_budget_of_its_own(kept: Kept, traded: str) -> None:
    limits = Limits(key=Slow(1, 2))
    body = json.dumps(order(traded, client_id=...)).encode()
    async with gateway_at(kept.venue, hosts=KEPT, masters=MASTERS, limits=limits) as http:
        here = Kept(http, kept.venue, kept.signers)
        await until_let_in(here, "hmac")
        one = [(await here.send("hmac", "POST", "/orders", body=body)) for _ in range(6)]
        other = await here.send("near", "POST", "/orders", body=body)

    statuses = [answer.status_code for answer in one]
    assert (statuses[:2], statuses[-1]) == ([201, 201], 429)
    assert one[0].headers["RateLimit-Limit"] == "2"
    assert other.status_code == 201  # another key of the same client


async def test_operators_read_health_and_metrics_at_a_port_of_theirs(kept: Kept) -> None:
    (port,) = free_ports(1)
    async with (
        gateway_at(kept.venue, hosts=KEPT, masters=MASTERS, inside_port=port) as http,
        httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as inside,
    ):
        health, metrics = await inside.get("/healthz"), await inside.get("/metrics")
        orders = await inside.get("/orders")
        refused = await http.get("/metrics")

    assert health.json()["door"] == "keys"
    assert "exchange_gateway" in metrics.text
    assert orders.status_code == 404
    assert refused.json()["code"] == "signature.missing"


@pytest.fixture(scope="module")
async def past(kept: Kept) -> AsyncIterator[tuple[Kept, Kept]]:
    """A kept gateway with an analysts' process, and that process itself."""
    keys = Keys(kept.venue.engine, MASTERS)
    keeper = Keeper(keys, Tokens(MASTERS))
    async with (
        running(keys.run()),
        analyst_at(kept.venue, hosts=KEPT, keeper=keeper) as analyst,
        gateway_at(kept.venue, hosts=KEPT, masters=MASTERS, analyst=analyst) as http,
        httpx.AsyncClient(base_url=analyst.url) as direct,
    ):
        gateway = Kept(http, kept.venue, kept.signers)
        await until_let_in(gateway, "alice")
        yield gateway, Kept(direct, kept.venue, kept.signers)


async def test_the_past_of_others_is_for_audit(past: tuple[Kept, Kept], traded: str) -> None:
    gateway, _ = past
    body = json.dumps(order(traded, client_id=...)).encode()
    placed = (await gateway.send("bob", "POST", "/orders", body=body)).json()
    order_id, at = placed["order"]["order_id"], placed["sequence"]
    paths = [
        f"/orders/{order_id}?as_of_sequence={at}",
        f"/orders?client_id={BOB}&as_of_sequence={at}",
        f"/market/positions/{BOB}?as_of_sequence={at}",
    ]

    await gateway.send("bob", "GET", f"/orders?min_sequence={at}")  # the model has it from now on
    told = [await gateway.send("bob", "GET", path) for path in paths]
    own = [answer.status_code for answer in told]
    others = [(await gateway.send("plain", "GET", path)).status_code for path in paths]
    audit = [(await gateway.send("only audit", "GET", path)).status_code for path in paths]
    mine = await gateway.send("plain", "GET", f"/orders?as_of_sequence={at}")
    bare = await gateway.http.get(paths[0])
    book = await gateway.http.get(
        "/market/orderbook", params={"instrument": traded, "as_of_sequence": at}
    )

    expected = ([200] * 3, [404] * 3, [200] * 3)
    assert (own, others, audit) == expected, [answer.text for answer in told]
    assert mine.json()["client_id"] == ALICE
    assert bare.status_code == 401
    assert book.status_code == 200  # market data is for everybody


async def test_the_analysts_process_itself_is_for_audit(past: tuple[Kept, Kept]) -> None:
    _, analyst = past
    paths = ["/events", "/settlement/cycles?as_of_sequence=1", "/metrics"]

    bare = {(await analyst.http.get(path)).status_code for path in paths}
    plain = {(await analyst.send("plain", "GET", path)).status_code for path in paths}
    audit = {(await analyst.send("only audit", "GET", path)).status_code for path in paths}
    health = await analyst.http.get("/healthz")
    await asyncio.gather(*(analyst.http.get(path) for path in ("/livez", "/docs")))

    assert (bare, plain, audit) == ({401}, {403}, {200})
    assert set(health.json()) == {"status"}


async def test_a_pass_is_no_token_of_a_stranger(past: tuple[Kept, Kept]) -> None:
    gateway, analyst = past
    forged = {"Authorization": f"Bearer {'A' * 120}"}
    old = Tokens(MASTERS).make_pass(ALICE, "0" * 32, frozenset(), 1_700_000_000)

    answers = [
        await one.http.get("/orders?as_of_sequence=1", headers=headers)
        for one in (gateway, analyst)
        for headers in (forged, {"Authorization": f"Bearer {old}"})
    ]

    assert {answer.json()["code"] for answer in answers} == {"signature.bad"}


async def test_the_desk_asks_for_audit_to_look_and_for_admin_to_change(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchange.operator.process.NICENESS", 0)
    settings = replace(
        Settings.load({}, dotenv=None),
        database_url=kept.venue.database_url,
        redis_url=kept.venue.services.redis_database(DOOR_REDIS_DATABASE),
        operator_port=free_ports(1)[0],
        analyst_url=NOBODY,
        metrics_port=0,
        door="keys",
        keys_master=f"1:{'A' * 43}=",
    )
    change = b'{"expect_live": 1, "reason": "to see"}'
    async with desk_at(settings, allows_changes=True) as http:
        desk = Kept(http, kept.venue, kept.signers)
        async with asyncio.timeout(PATIENCE_S):
            while (await desk.send("only audit", "GET", "/state")).status_code == 503:
                await asyncio.sleep(0.05)
        looked = {
            name: (await desk.send(name, "GET", "/state")).status_code
            for name in ("plain", "only admin", "only audit")
        }
        changed = {
            name: (
                await desk.send(name, "POST", "/projections/nothing/pause", body=change)
            ).status_code
            for name in ("plain", "only audit", "only admin")
        }
        bare = [(await http.get(path)).status_code for path in ("/state", "/livez", "/")]

    assert looked == {"plain": 403, "only admin": 403, "only audit": 200}
    assert changed == {"plain": 403, "only audit": 403, "only admin": 404}
    assert bare == [401, 200, 200]
