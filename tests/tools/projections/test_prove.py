"""``prove`` as an operator types it: on a log that holds, and on one that does not."""

import json
import random

import asyncpg
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain import engine as rules
from exchange.domain.commands import Command as Asked
from exchange.domain.engine import State
from exchange.domain.events import Event, OrderRested
from exchange.domain.values import Quantity
from exchange.log.audit import deciding
from projections.registry import READ_MODELS
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.logs import LogWriter, registrations
from tests.tools.projections.conftest import Command

pytestmark = pytest.mark.anyio

FOLDED = sorted({*READ_MODELS} - {"feed"})


@pytest.fixture
async def heads(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> dict[int, int]:
    """Where two shards end that the read models have followed."""
    taken: set[str] = set()
    async with projector():
        for shard in (0, 1):
            async with LogWriter.open(database_url, shard, taken=taken) as writer:
                await writer.append(registrations(shard))
                for seed in (41, 42):
                    await writer.append_random(random.Random(seed), 120)
        await catch_up(engine, redis, connection)
    return dict(await connection.fetch("select shard, position from head order by shard"))


async def test_what_is_proved_of_the_log_is_what_generations_were_verified_with(
    heads: dict[int, int], connection: asyncpg.Connection, command: Command
) -> None:
    for name in FOLDED:
        assert (await command("verify-projection", name)).code == 0

    ended = await command("prove", "--json")
    shown = await command("prove")
    half = await command("prove", "--at", f"0:{heads[0] // 2},1:0", "--json")

    assert ended.code == shown.code == 0, (ended, shown)
    (found,) = ended.lines
    at = f"0:{heads[0]},1:{heads[1]}"
    assert (found["at"], found["holds"]) == (at, True)
    assert [one["problem"] for one in found["log"]] == [None, None]
    assert [one["up_to"] for one in found["decisions"]] == [heads[0], heads[1]]
    assert sorted(one["projection"] for one in found["models"]) == FOLDED
    for one in found["models"]:
        assert (one["generation"], one["verified"]) == (1, one["digest"]), one
        assert one["digest"] in shown.out
    assert f"All of it holds, by exchange 0.4.0, at {at}." in shown.out

    (before,) = half.lines
    pins = before["log"][0]["pins"][str(heads[0] // 2)]
    kept = [f"--expect=0:{heads[0] // 2}:{pins[what]}" for what in ("chain", "root")]
    assert (await command("verify", *kept)).code == 0
    assert {one["generation"] for one in before["models"]} == {None}
    alone = await command("prove", "--at", f"0:{heads[0] // 2},1:0")
    assert (
        f"Compared with nothing: {', '.join(one['projection'] for one in before['models'])}."
        in (alone.out)
    )
    assert "All that was compared holds, by exchange" in alone.out
    assert before["decisions"][1] == {
        "shard": 1, "up_to": 0, "commands": 0, "meant": {}, "otherwise": 0, "first": None,
        "broken": None,
    }  # fmt: skip

    await connection.execute("update generations set digest = 'ff' where projection = 'book'")
    differs = await command("prove")
    assert differs.code == 1
    assert "generation 1 had ff" in differs.out


def forgets_a_unit(state: State, asked: Asked, **context: object) -> list[Event]:
    return [
        replace(event, quantity=Quantity(event.quantity - 1))
        if isinstance(event, OrderRested)
        else event
        for event in rules.decide(state, asked, **context)  # type: ignore[arg-type]
    ]


async def test_the_first_command_that_would_be_decided_otherwise_is_named(
    heads: dict[int, int], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "decide", forgets_a_unit)

    as_json = await command("prove", "--decisions", "--json")
    shown = await command("prove", "--decisions")

    assert (as_json.code, shown.code) == (1, 1)
    (found,) = as_json.lines
    first = found["decisions"][0]["first"]
    recorded, decided = first["recorded"][0], first["decided"][0]
    assert (found["log"], found["models"], found["holds"]) == ([], [], False)
    assert first["command"]["type"] == "PlaceOrder"
    assert first["command"]["order_id"] == recorded["order_id"]
    assert first["position"] < first["differs_at"]
    assert recorded == decided | {"quantity": decided["quantity"] + 1}
    assert f"shard 0, event {first['position']}: the first command" in shown.out
    assert json.dumps(recorded) in shown.out
    assert f"Not all of it holds, by exchange 0.4.0, at 0:{heads[0]}" in shown.out


async def test_the_first_command_is_named_though_later_events_cannot_be_applied(
    heads: dict[int, int],
    connection: asyncpg.Connection,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (before,) = (await command("prove", "--decisions", "--json")).lines
    at: int = await connection.fetchval(
        "select max(position) from events"
        " where shard = 0 and type = 'OrderCancelled' and data->>'price' is not null"
    )
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute(
        "update events set data = replace(data::text, $2, $2 || 'nobody-')::json"
        " where shard = 0 and position = $1",
        at,
        '"order_id":"',
    )
    (broken,) = (await command("prove", "--decisions", "--json")).lines
    monkeypatch.setattr(deciding, "decide", forgets_a_unit)

    as_json = await command("prove", "--decisions", "--json")
    shown = await command("prove", "--decisions")

    (found,) = as_json.lines
    alone, earlier = broken["decisions"][0], found["decisions"][0]
    assert alone["first"]["position"] <= alone["broken"] == earlier["broken"] == at
    assert earlier["first"]["command"]["type"] == "PlaceOrder"
    assert earlier["first"]["position"] < at < heads[0]
    assert earlier["otherwise"] > alone["otherwise"] > 0
    assert before["decisions"][0]["commands"] > earlier["commands"] == alone["commands"] > 0
    assert found["decisions"][1]["broken"] is None
    assert f"shard 0: no command after event {at - 1:,} was decided again" in shown.out
    assert shown.out.count("the first command that would be decided otherwise") == 2


async def test_nothing_is_proved_of_a_log_that_was_changed(
    heads: dict[int, int], connection: asyncpg.Connection, command: Command
) -> None:
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute(
        "update events set data = replace(data::text, 'SMALL', 'SMAIL')::json"
        " where shard = 1 and position = 1"
    )

    ended = await command("prove", "--json")

    assert ended.code == 1
    (found,) = ended.lines
    assert [one["problem_position"] for one in found["log"]] == [None, 1]
    assert (found["decisions"], found["models"], found["holds"]) == ([], [], False)
    decided = await command("prove", "--decisions", "--at", "1:0")
    assert decided.code == 0, decided
    otherwise = await command("prove", "--decisions")
    assert otherwise.code == 1, otherwise
    assert "shard 1, event" in otherwise.out
    for at, told in (
        ("7:1", "There is no shard 7; there are: 0, 1."),
        (f"0:{heads[0] + 1}", f"Shard 0 ends at {heads[0]}"),
        ("0:x", "0:x is not SHARD:POSITION"),
    ):
        refused = await command("prove", "--at", at)
        assert refused.code != 0
        assert told in " ".join(refused.told.replace("│", " ").split())
