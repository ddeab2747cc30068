"""Changes at the desk: who made them and why stays for ever, and a stale one changes nothing."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.operator.comparing import ended
from projections.builder.working import Connect
from tests.operator.conftest import Desk
from tests.projections.builder.test_builder import building_in
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[LogWriter]:
    """A log of some events."""
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(42), 30)
        yield writer


@pytest.fixture
async def client(
    writer: LogWriter,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    desk: Desk,
) -> AsyncIterator[httpx.AsyncClient]:
    """A desk that allows changes, with the log's models, which are kept up."""
    del writer
    async with projector():
        await catch_up(engine, redis, connection)
        async with desk(allows_changes=True) as client:
            yield client


async def change(client: httpx.AsyncClient, what: str, **body: Any) -> httpx.Response:
    return await client.post(f"/projections/{what}", json={"expect_live": 1, **body})


async def test_a_change_is_made_by_somebody_who_says_why(client: httpx.AsyncClient) -> None:
    paused = await change(client, "orders/pause", operator="ada", reason="to look at its rows")
    resumed = await change(client, "orders/resume", operator="ada")
    found = (await client.get("/state")).json()

    assert (paused.status_code, paused.json()["generations"]) == (200, [1]), paused.text
    assert paused.json()["message"].startswith("Generation 1 of orders is paused.")
    assert resumed.status_code == 200
    newest = [(one["operator"], one["action"], one["reason"]) for one in found["operations"][:2]]
    assert newest == [("ada", "resume", None), ("ada", "pause", "to look at its rows")]


async def test_a_stale_change_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    before = await connection.fetchval("select count(*) from operations")
    for stale in (2, None):
        answer = await change(client, "book/pause", expect_live=stale)
        assert (answer.status_code, answer.json()["code"]) == (409, "operator.refused"), answer.text
        assert "Generation 1 of book is live" in answer.json()["detail"].replace("gen", "Gen")
    without = await client.post("/projections/book/pause", json={})

    assert (without.status_code, without.json()["field"]) == (422, "expect_live")
    assert await connection.fetchval("select count(*) from operations") == before


REFUSED: list[tuple[str, dict[str, Any], int]] = [
    ("book/explode", {}, 404),
    ("nothing/pause", {}, 404),
    ("book/rollback", {}, 409),  # no former generation is kept
    ("book/skip", {}, 422),
    ("book/skip", {"at": "0:0x1", "reason": "x"}, 422),
    ("book/skip", {"at": "0:3", "reason": "none failed there"}, 409),
    ("book/retry", {"generation": 7}, 409),
    ("book/verify", {"generation": 7}, 409),
    ("book/pause", {"operator": "a\u202eb"}, 422),
    ("book/pause", {"reason": "x" * 1_001}, 422),
    ("book/pause", {"expect_live": "1"}, 422),
    ("book/pause", {"more": 1}, 422),
]


async def test_what_does_not_fit_is_refused_with_a_reason(client: httpx.AsyncClient) -> None:
    for what, body, status in REFUSED:
        answer = await change(client, what, **body)

        assert answer.status_code == status, (what, body, answer.text)
        assert answer.json()["detail"]


STRANGERS = [
    ({"Origin": "https://stranger.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Host": "rebound.example"}, 421),
]


async def test_no_page_of_a_stranger_changes_anything(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    for headers, status in STRANGERS:
        sent = {"Content-Type": "application/json", **headers}
        answer = await client.post(
            "/projections/book/pause", content='{"expect_live": 1}', headers=sent
        )
        assert answer.status_code == status, (headers, answer.text)

    assert await connection.fetchval("select count(*) from generations where state='paused'") == 0


async def test_the_desks_own_page_may(client: httpx.AsyncClient) -> None:
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    answer = await client.post(
        "/projections/book/pause",
        json={"expect_live": 1},
        headers={"Origin": own, "Sec-Fetch-Site": "same-origin"},
    )

    assert answer.status_code == 200, answer.text


async def test_a_rebuild_is_told_what_it_costs_and_is_a_row_for_the_builder(
    client: httpx.AsyncClient,
) -> None:
    cost = (await client.get("/projections/trades/cost")).json()
    begun = await change(client, "trades/rebuild", operator="ada", stays=True)
    again = await change(client, "trades/rebuild", operator="bob")
    found = (await client.get("/state")).json()

    assert cost["message"].startswith("trades: ")
    assert begun.json()["generations"] == [2], begun.text
    assert again.status_code == 409
    assert "ada" in again.json()["detail"]
    (made,) = [
        g for g in found["generations"] if (g["projection"], g["generation"]) == ("trades", 2)
    ]
    assert (made["state"], made["begun_by"], made["replaces"]) == ("building", "ada", None)


async def test_a_model_is_built_compared_switched_and_taken_back(
    client: httpx.AsyncClient,
    engine: AsyncEngine,
    redis: Redis,
    connect: Connect,
) -> None:
    begun = await change(client, "trades/rebuild", operator="ada", stays=True)
    async with building_in(connect, engine, redis):
        await until(client, lambda found: state_of(found, "trades", 2) == "catching-up")
        compared = await change(
            client, "trades/verify", generation=2, operator="ada", reason="same?"
        )
        second = await change(client, "trades/verify", generation=1)
        found = await until(client, lambda found: found["comparison"]["ended"])
        switched = await change(client, "trades/switch", generation=2, reason="it is the same")
        back = await change(client, "trades/rollback", expect_live=2)

    assert begun.status_code == 200, begun.text
    assert compared.status_code == 200, compared.text
    assert second.status_code == 409
    assert "one at a time" in second.json()["detail"]
    assert found["comparison"]["ended"]["same"] is True, found["comparison"]
    noted = [one for one in found["operations"] if one["action"] == "verify"]
    assert [(one["operator"], one["reason"], one["to_generation"]) for one in noted] == [
        ("ada", "same?", 2)
    ]
    assert switched.status_code == 200, switched.text
    assert back.json()["generations"] == [1], back.text


def state_of(found: dict[str, Any], projection: str, generation: int) -> str | None:
    place = (projection, generation)
    every = found["generations"]
    return next(
        (one["state"] for one in every if (one["projection"], one["generation"]) == place), None
    )


async def until(
    client: httpx.AsyncClient, is_so: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    async with asyncio.timeout(50):
        while True:
            found: dict[str, Any] = (await client.get("/state")).json()
            if is_so(found):
                return found
            await asyncio.sleep(0.2)


def test_a_comparison_that_found_something_says_how_much() -> None:
    out = b'{"different": 2, "rows": 1000, "positions": {"0": 7}, "digest": "d"}'

    assert ended(out, 1, []) == {
        "same": False,
        "message": "At 0:7: 2 of 1,000 rows differ from the log.",
    }
    alone = out.replace(b"2", b"0").replace(b"1000", b"1")
    assert ended(alone, 0, [])["message"] == "At 0:7: 1 row, none differs from the log, digest d."
    assert ended(b"", 1, ["PostgreSQL does not answer"])["same"] is None


# What PostgreSQL says of a value that a table cannot take: that stops a model at its event.
REFUSE_ORDERS = "alter table orders_g1 add constraint refused check (false) not valid"
TAKE_ORDERS = "alter table orders_g1 drop constraint refused"


async def test_a_model_that_stopped_is_tried_again_or_goes_on_without_the_event(
    client: httpx.AsyncClient, connection: asyncpg.Connection, writer: LogWriter
) -> None:
    await connection.execute(REFUSE_ORDERS)
    await writer.append_random(random.Random(43), 30)
    found = await until(client, lambda found: state_of(found, "orders", 1) == "failed")
    (stopped,) = [one for one in found["generations"] if one["projection"] == "orders"]
    at = stopped["failed_at"]

    stale = [
        await change(client, f"orders/{what}", expect_live=7, **more)
        for what, more in (("retry", {}), ("skip", {"at": at, "reason": "?"}))
    ]
    elsewhere = await change(client, "orders/skip", at="0:1", reason="it did not fail there")
    silent = await change(client, "orders/skip", at=at)
    retried = await change(client, "orders/retry", generation=1, operator="ada")
    await until(
        client,
        lambda found: (
            [one["action"] for one in found["operations"][:2]] == FAILED_AGAIN
            and state_of(found, "orders", 1) == "failed"  # a look reads it before the operations
        ),
    )
    await connection.execute(TAKE_ORDERS)
    skipped = await change(client, "orders/skip", at=at, operator="ada", reason="it is refused")
    gone_on = await until(client, lambda found: has_caught_up(found, "orders", writer.position))

    assert found["readers"]["orders"] == "Queries read it as of now."
    assert [answer.status_code for answer in stale] == [409, 409]
    assert (elsewhere.status_code, silent.status_code) == (409, 409)
    assert "why" in silent.json()["detail"].lower()
    assert retried.status_code == 200, retried.text
    assert skipped.status_code == 200, skipped.text
    (passed,) = gone_on["skips"]
    place = f"{passed['shard']}:{passed['position']}"
    assert (place, passed["skipped_by"], passed["reason"]) == (at, "ada", "it is refused")


FAILED_AGAIN = ["failed", "retry"]


def has_caught_up(found: dict[str, Any], projection: str, position: int) -> bool:
    (one,) = [one for one in found["generations"] if one["projection"] == projection]
    return bool(one["state"] == "live" and one["positions"] == {"0": position})
