"""What clients are told of a command that crashed the matcher, and after an operator's retry."""

from typing import Any

import pytest
from sqlalchemy import text

from exchange.domain.commands import RetryQuarantined
from exchange.domain.values import Offset
from exchange.log.identity import keyed_command_id, retry_command_id
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher import matcher as matcher_module
from exchange.transport.commands import KafkaCommandLog
from exchange.transport.messages import encode_command
from tests.gateway.conftest import SHARD, Venue, gateway_at, matching, order, register
from tests.gateway.orders.test_placing import follow

pytestmark = pytest.mark.anyio

KEYED = {"client_id": "alice", "idempotency_key": "k"}
LATER = {"Prefer": "respond-async"}
LEAVE_CLAIM = text("insert into claims values ('order:mine', 0, :offset, 'body')")


async def quarantine(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> int:
    """Send a request that the next matcher takes for one which crashed it; return its offset."""
    async with gateway_at(venue, order_wait_ms=1) as http:
        pending = await http.post(path, json=body, headers=LATER)
        assert pending.status_code == 202, pending.text
        location = pending.headers["Location"]
        offset = int(location.partition("?at=0:")[2].partition("&")[0])
        async with PostgresEventStore(venue.database_url, SHARD) as store:
            await store.count_start(Offset(offset))
        monkeypatch.setattr(matcher_module, "CRASHES_MAX", 0)
        async with matching(venue):
            outcome = await follow(http, location)
        monkeypatch.undo()
    assert outcome["problem"]["code"] == "command.quarantined"
    return offset


async def retry(venue: Venue, offset: int) -> None:
    """Send what an operator would; the outcome is for the caller to wait for."""
    async with KafkaCommandLog(
        venue.services.kafka_bootstrap_servers, venue.topic, SHARD
    ) as commands:
        await commands.seek(Offset(offset))
        (record,) = await commands.read(1)
    producer = venue.producer()
    producer.produce(
        SHARD,
        key="retry",
        value=encode_command(RetryQuarantined(offset, record.value)),
        version=2,
        command_id=retry_command_id(SHARD, offset),
        reply_to=b"",
        on_delivery=lambda _delivery: None,
    )
    await producer.stop()


async def test_a_resend_is_told_of_the_quarantine_and_then_what_the_retry_did(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    body = order("BTC-USD", order_id="mine", **KEYED)
    offset = await quarantine(idle_venue, monkeypatch, "/orders", body)
    async with idle_venue.engine.begin() as connection:  # as if its batch had left it to the next
        await connection.execute(LEAVE_CLAIM, {"offset": offset})
    at = f"/commands/{keyed_command_id('alice', 'k')}"

    async with matching(idle_venue), gateway_at(idle_venue) as http:
        quarantined = [await http.post("/orders", json=b) for b in (body, body | {"quantity": 2})]
        await retry(idle_venue, offset)
        await http.post("/orders", json=order("BTC-USD"))  # decided after the retry
        again = await http.post("/orders", json=body)
        other = await http.post("/orders", json=body | {"quantity": 2})
        found = (await http.get(at)).json()
        cancelled = await http.post("/orders/mine/cancel")

    for response in quarantined:
        assert (response.status_code, response.json()["code"]) == (500, "command.quarantined")
        assert f"retry-quarantined 0:{offset})" in response.json()["detail"]
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json()["order"]["order_id"] == "mine"
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")
    assert (found["status"], found["order"]["order_id"]) == ("accepted", "mine")
    assert cancelled.status_code == 200


async def test_so_is_the_registration_of_an_instrument(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = {
        "instrument": "BTC-USD",
        "base": "BTC",
        "quote": "USD",
        "price_scale": 2,
        "quantity_scale": 8,
        "tick_size": 0.01,
        "lot_size": "0.00000001",
    }
    offset = await quarantine(idle_venue, monkeypatch, "/instruments", definition)

    async with matching(idle_venue), gateway_at(idle_venue) as http:
        quarantined = await http.post("/instruments", json=definition)
        await retry(idle_venue, offset)
        await register(http, "ETH-USD")  # decided after the retry
        again = await http.post("/instruments", json=definition)
        other = await http.post("/instruments", json=definition | {"tick_size": 0.5})

    assert quarantined.json()["code"] == "command.quarantined"
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.json()["instrument"]["instrument"] == "BTC-USD"
    assert (other.status_code, other.json()["code"]) == (409, "instrument.exists")
