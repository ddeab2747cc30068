"""How far the log is with what Kafka has: what health, metrics and "not found" make of it."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from exchange.command_log import CommandProducer
from tests.gateway.conftest import Venue, gateway_at

pytestmark = pytest.mark.anyio


class Lost(CommandProducer):
    """Finds every partition empty, as one that was recreated is."""

    async def end_offsets(self, shards: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(shards, 0)


async def test_a_topic_that_ends_before_what_was_decided_is_unhealthy_and_denies_nothing(
    venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    lost = Lost(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)
    async with gateway_at(venue, lost) as http:
        health = await http.get("/healthz")
        metrics = (await http.get("/metrics")).text
        cancelled = await http.post("/orders/nobody/cancel")
        asked = await http.get(f"/commands/{uuid4()}?at=0:0")

    assert (health.status_code, health.json()["matching"]) == (503, {"0": "unhealthy"})
    assert 'exchange_undecided_commands{shard="0"} -' in metrics
    for denied in (cancelled, asked):
        assert (denied.status_code, denied.json()["code"]) == (503, "kafka.unavailable")
    assert "Kafka ends before what was decided" in caplog.text
