"""The client at a door that asks for keys: it signs, sets its clock, and ends with its key."""

import time
from collections.abc import AsyncIterator
from itertools import count
from types import SimpleNamespace

import httpx
import pytest

from exchange.client import (
    AsyncClient,
    Following,
    Heartbeat,
    OrdersTold,
    Placed,
    Refused,
    Update,
    cancel,
    fills,
    limit_order,
    market_order,
    orders,
    wire,
)
from exchange.client.messages import OrderUpdate, Subscribed
from exchange.tools.market.load import Measured, Plan, run_load
from exchange.tools.market.mix import Mix, of_one_client
from tests.gateway.conftest import register
from tests.gateway.door.conftest import ALICE, Kept

pytestmark = pytest.mark.anyio


_numbers = count(1)


@pytest.fixture
async def traded(http: httpx.AsyncClient) -> str:
    """An instrument of the test's own: what rests on another one would trade first."""
    name = f"CLIENT{next(_numbers)}-USD"
    response = await register(http, name)
    assert response.status_code == 201, response.text
    return name


def client_of(kept: Kept, signer: str) -> AsyncClient:
    return AsyncClient(str(kept.http.base_url), signer=kept.signers[signer])


@pytest.mark.parametrize(("signer", "client_id"), [("plain", None), ("hmac", ALICE)])
async def test_orders_are_of_the_client_of_the_key(
    kept: Kept, traded: str, signer: str, client_id: str | None
) -> None:
    async with client_of(kept, signer) as client, client_of(kept, "bob") as bob:
        order_id = f"signed {signer} %2F?&="
        following = Following(traded, "orders", client_id=client_id)
        async with client.follow(following) as updates:
            placed = await client.send(limit_order(traded, "buy", 1, 10, order_id=order_id))
            await bob.send(market_order(traded, "sell", 1))
            told = [u async for u in _until_filled(updates, order_id)]
        (again,) = await client.send_all([limit_order(traded, "buy", 1, 11)])
        assert isinstance(again, Placed)
        cancelled = await client.send(cancel(again.order.order_id))
        seen = cancelled.sequence
        listed = [one.order_id async for one in client.each(orders(limit=1, min_sequence=seen))]
        sold = [one.role async for one in client.each(fills(traded, min_sequence=seen))]

    assert placed.order.client_id == cancelled.order.client_id == ALICE
    assert {one.order.client_id for one in told} == {ALICE}
    assert {order_id, again.order.order_id} <= set(listed)
    assert set(sold) == {"maker"}


async def _until_filled(
    updates: AsyncIterator[Update], order_id: str
) -> AsyncIterator[OrderUpdate]:
    """Yield what is told of orders until one is filled."""
    async for update in updates:
        if isinstance(update, OrdersTold):
            for one in update.orders:
                yield one
                if (one.order.order_id, one.order.status) == (order_id, "filled"):
                    return


async def test_a_wrong_clock_is_set_by_what_the_exchange_says(
    kept: Kept, traded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "time", SimpleNamespace(time=lambda: time.time() - 3_600))

    async with client_of(kept, "alice") as client:
        placed = await client.send(limit_order(traded, "buy", 1, 9))
    async with (
        client_of(kept, "alice") as client,
        client.follow(Following(traded, "orders")) as updates,
    ):
        begun = [type(update).__name__ async for update in _up_to_subscribed(updates)]

    assert placed.order.status == "open"
    assert begun == ["Connected", "Interrupted", "Connected", "Subscribed"]


async def _up_to_subscribed(updates: AsyncIterator[Update]) -> AsyncIterator[Update]:
    async for update in updates:
        if not isinstance(update, Heartbeat):
            yield update
        if isinstance(update, Subscribed):
            return


@pytest.mark.parametrize(
    ("signer", "code"), [("revoked", "signature.revoked_key"), ("expired", "signature.expired_key")]
)
async def test_a_key_that_has_ended_is_not_tried_again(
    kept: Kept, traded: str, signer: str, code: str
) -> None:
    async with client_of(kept, signer) as client:
        with pytest.raises(Refused) as refused:
            await client.send(limit_order(traded, "buy", 1, 9))
        with pytest.raises(Refused) as of_stream:
            async with client.follow(Following(traded, "orders")):
                pass
        (one,) = await client.send_all([market_order(traded, "buy", 1)])

    assert refused.value.code == of_stream.value.code == code
    assert isinstance(one, Refused)
    assert one.code == code


@pytest.mark.parametrize(("websocket", "batch"), [(False, 1), (True, 1), (False, 5), (True, 5)])
async def test_a_load_is_signed(kept: Kept, traded: str, websocket: bool, batch: int) -> None:
    mix = Mix(1, traded, f"signed-{websocket}-{batch}")
    plan = Plan(str(kept.http.base_url), 2, 20, 60.0, 0.0, websocket, batch)
    measured = Measured()

    signer = kept.signers["plain"]
    await run_load(plan, of_one_client(mix.orders()), measured, lambda: None, signer)

    assert (measured.accepted, measured.answered) == (20, 20), measured.answers
