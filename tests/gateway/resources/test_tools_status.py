"""What ``exchange status`` says of an exchange that is not healthy."""

import asyncio

import pytest
from typer.testing import CliRunner

from exchange.cli import app
from tests.gateway.conftest import Venue, away_redis, gateway_at


@pytest.mark.anyio
async def test_a_status_that_is_not_healthy_exits_with_1(venue: Venue) -> None:
    away = away_redis()
    cut_off = Venue(venue.services, venue.database_url, venue.topic, venue.engine, away)
    async with away, gateway_at(cut_off) as http:
        arguments = ["status", "--base-url", str(http.base_url)]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)

    assert result.exit_code == 1
    assert "degraded" in result.stdout
    assert "redis unhealthy" in result.stdout
