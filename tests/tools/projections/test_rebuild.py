"""Rebuilds as operators ask for them and watch them, to whatever end."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from msgspec import to_builtins
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.tools.projections import rebuild
from exchange.tools.projections.changes import HOW_IT_GOES
from exchange.tools.projections.overview import BuildProgress
from exchange.tools.projections.rebuild import (
    TotalCost,
    Watch,
    far_of,
    outcome_of,
    told_silence,
)
from exchange.tools.telling import told
from projections.builder.build import Build
from projections.builder.estimate import events_read
from projections.builder.reading import CannotFold
from projections.builder.working import Connect
from projections.lifecycle.changes import Refused, begin_rebuild, retire
from projections.lifecycle.generations import (
    BUILDING,
    CATCHING_UP,
    FAILED,
    KEPT,
    LIVE,
    PAUSED,
    RETIRED,
    Generation,
    generations_of,
)
from projections.registry import READ_MODELS
from tests.conftest import Services
from tests.projections.builder.test_builder import building_in
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR, projection_of
from tests.projections.logs import LogWriter, registrations
from tests.tools.projections.conftest import Command

pytestmark = pytest.mark.anyio

END_S = 30.0


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "LOOK_S", 0.05)


@pytest.mark.parametrize(
    ("state", "replaces", "stay", "succeeded"),
    [
        (BUILDING, 1, False, None),
        (CATCHING_UP, 1, False, None),
        (CATCHING_UP, None, True, True),
        (CATCHING_UP, None, False, False),
        (FAILED, 1, False, False),
        (FAILED, None, True, False),
        (PAUSED, None, True, False),
        (KEPT, None, False, False),
        (RETIRED, None, False, False),
        ("of a later build", None, True, False),
    ],
)
def test_only_what_is_being_made_is_watched_on(
    state: str, replaces: int | None, stay: bool, succeeded: bool | None
) -> None:
    book = Generation("book", 2, state, live=False, replaces=replaces)

    found = outcome_of(book, None, 1.0, stay=stay, keep_hours=24)

    assert (None if found is None else found.succeeded) is succeeded


def test_what_is_live_has_succeeded_and_what_was_live_is_said_to_be_kept() -> None:
    live = outcome_of(Generation("book", 2, LIVE, live=True), None, 1.0, stay=False, keep_hours=24)
    kept = outcome_of(Generation("book", 2, KEPT, live=False), None, 1.0, stay=False, keep_hours=24)

    assert live is not None
    assert live.succeeded
    assert kept is not None
    assert "generation 2 was live, and is kept" in kept.message


def test_the_way_back_is_told_only_if_there_is_one() -> None:
    book = Generation("book", 2, LIVE, live=True)
    with_kept, without = (
        outcome_of(book, None, 1.0, stay=False, keep_hours=hours) for hours in (24, 0)
    )

    assert with_kept is not None
    assert "is kept for 24 h. To go back: make rollback" in with_kept.message
    assert without is not None
    assert without.message.endswith(
        "The former one is not kept (KEEP_FORMER_HOURS is 0): there is no way back."
    )


def test_what_waits_for_a_switch_is_told_with_all_that_can_be_done() -> None:
    waiting = Generation("vwap", 4, CATCHING_UP, live=False)
    compared = Generation("vwap", 4, CATCHING_UP, live=False, verified="0:9")

    first, second = (
        outcome_of(one, None, 1.0, stay=False, keep_hours=24) for one in (waiting, compared)
    )

    assert first is not None
    assert second is not None
    for command in (
        "make switch PROJECTION=vwap",
        "make operations PROJECTION=vwap",
        "exchange retire vwap --generation 4",
    ):
        assert command in first.message
        assert command in second.message
    assert "exchange verify-projection vwap --generation 4" in first.message
    assert "verify-projection" not in second.message


async def test_a_rebuild_that_is_refused_costs_and_retires_nothing(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    command: Command,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)

    told = await command("rebuild", "book", "--expect-live", "7")

    assert (told.code, told.out) == (1, "")
    assert "Generation 1 of book is live, not 7 as was expected" in told.err


def test_what_was_stopped_is_told_with_how_to_go_on() -> None:
    paused, retired = (
        outcome_of(Generation("book", 2, state, live=False), None, 1.0, stay=False, keep_hours=24)
        for state in (PAUSED, RETIRED)
    )

    assert paused is not None
    assert paused.message.endswith("is paused. To go on: make resume PROJECTION=book")
    assert retired is not None
    assert retired.message.endswith("is retired. To see why: make operations PROJECTION=book")


def test_while_rows_are_compared_no_share_is_told() -> None:
    book = Generation("book", 2, CATCHING_UP, live=False, replaces=1)
    folding = BuildProgress("verifying", 5, 10, 2.0, 9.0, {})
    comparing = BuildProgress("verifying", 10, 10, 2.0, None, {})

    assert told(far_of(book, None)) == "book generation 2: waits for a builder"
    assert told(far_of(book, folding)) == (
        "book generation 2: verifying: 50%, 5 of 10 events, 2/s, 9 s left"
    )
    assert told(far_of(book, comparing)) == "book generation 2: comparing rows"


def test_a_builder_that_is_gone_is_told() -> None:
    book = Generation("book", 2, BUILDING, live=False, replaces=1, fingerprint="1-ab")
    silent = BuildProgress("reading", 5, 10, 2.0, 9.0, {}, silent_s=12.3)

    assert "its builder is gone, nothing was heard of it for 12 s" in told_silence(book, silent)
    assert told_silence(book, None).startswith("No builder of this definition (1-ab) has taken")


def test_a_script_gets_the_fields_of_a_total_beside_its_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    total = TotalCost(9, 9_000, 3.2, 2_500_000)

    Watch(as_json=True).tell(total.message, total=to_builtins(total))

    told = json.loads(capsys.readouterr().out)
    assert told["message"] == (
        "9 rebuilds: 9,000 events to read, about 3 s, 2.5 MB more while the former ones are kept."
    )
    assert told["total"] == {"rebuilds": 9, "events": 9_000, "seconds": 3.2, "disk_bytes": 2500000}


async def test_a_model_that_keeps_the_newest_events_reads_no_others(
    engine: AsyncEngine, redis: Redis
) -> None:
    heads = {0: 1_000_000, 1: 10}

    read = {
        name: events_read(projection_of(engine, redis, name), heads)  # type: ignore[arg-type]
        for name in ("book", "orders", "feed")
    }

    assert read == {"book": 1_000_010, "orders": 1_000_010, "feed": 50_010}


async def test_all_are_begun_at_once_and_one_that_is_refused_or_fails_stops_no_other(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail(monkeypatch, "trades")
    refuse(monkeypatch, "positions")
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(41), 50)
        await catch_up(engine, redis, connection)
        watching = asyncio.create_task(command("rebuild-all"))
        await until_begun(connection, len(READ_MODELS) - 1)  # and no builder runs yet
        async with building_in(connect, engine, redis):
            told = await watching

    live = {row["projection"]: row["generation"] for row in await connection.fetch("table live")}
    assert told.code == 1
    assert told.err == "Refused, nothing was changed: Somebody was faster with positions.\n"
    assert told.out.startswith(f"{len(READ_MODELS)} rebuilds: ")
    assert told.out.endswith(f"{len(READ_MODELS) - 2} of {len(READ_MODELS)} are live.\n")
    assert live == {name: 1 if name in {"trades", "positions"} else 2 for name in READ_MODELS}
    for name in READ_MODELS:
        assert (f"{name}: generation 2 is live" in told.out) is (live[name] == 2)
    assert "trades: generation 2 failed: shard 0: position 1 of shard 0: planted" in told.out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ("retry", "trades"),
            f"Generation 2 of trades is tried again. {HOW_IT_GOES}\n",
        ),
        (
            ("skip", "trades", "0:1", "--reason", "planted"),
            f"trades passes over event 0:1; generation 2 goes on. {HOW_IT_GOES}\n",
        ),
    ],
)
async def test_a_build_that_fails_is_told_by_the_status_and_can_be_gone_on_with(
    change: Sequence[str],
    told: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        async with building_in(connect, engine, redis):
            with monkeypatch.context() as failing:
                fail(failing, "trades")
                failed = await command("rebuild", "trades", "--no-switch")
            again = await command(*change)
            built = await command("rebuild", "trades", "--no-switch")

    assert failed.code == 1
    assert "trades: generation 2 failed: shard 0: position 1" in failed.out
    assert (again.code, again.out) == (0, told)
    assert built.code == 0
    assert "trades: generation 2 is built, and kept up" in built.out


async def test_watching_goes_on_after_an_outage_unless_it_lasts(
    services: Services,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    tell = Watch.tell

    def noted(watch: Watch, text: str, **fields: object) -> None:
        told.append(text)
        tell(watch, text, **fields)

    monkeypatch.setattr(Watch, "tell", noted)
    async with LogWriter.open(database_url), projector():
        await catch_up(engine, redis, connection)
    await engine.dispose()

    watching = asyncio.create_task(command("rebuild", "vwap"))
    await until_begun(connection, 1)
    async with away(services, database_url, connection):
        await until(lambda: any(text.startswith("PostgreSQL is away") for text in told))
    await retire(connection, "vwap", 2, OPERATOR)
    gone_on = await watching
    monkeypatch.setattr(rebuild, "AWAY_S_MAX", 0.2)
    watching = asyncio.create_task(command("rebuild", "vwap"))
    await until_begun(connection, 2)
    async with away(services, database_url, connection):
        given_up = await watching

    assert gone_on.code == 1
    assert "vwap: generation 2 is retired." in gone_on.out
    assert given_up.code == 1
    assert "PostgreSQL does not answer" in given_up.err
    assert given_up.err.endswith("The rebuild of vwap goes on without you: see make status.\n")
    assert [g.state for g in await generations_of(connection, "vwap")][2:] == [BUILDING]


def fail(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let every build of a model stop at the first event."""
    honest = Build.run

    async def run(build: Build) -> None:
        if build._place[0] == name:
            raise CannotFold(0, 1, "planted")
        await honest(build)

    monkeypatch.setattr(Build, "run", run)


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a rebuild be refused, as if another operator had been faster."""

    async def begin(connection: asyncpg.Connection, projection: str, *args: Any, **of: Any) -> int:
        if projection == name:
            raise Refused(f"Somebody was faster with {name}.")
        return await begin_rebuild(connection, projection, *args, **of)

    monkeypatch.setattr(rebuild, "begin_rebuild", begin)


@asynccontextmanager
async def away(
    services: Services, database_url: str, connection: asyncpg.Connection
) -> AsyncIterator[None]:
    """Let nobody but this connection use a database until the end of the context."""
    name = database_url.rpartition("/")[2]
    server = await asyncpg.connect(services.database_url, ssl=False)
    try:
        await server.execute(f"alter database {name} allow_connections false")
        await server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = $1 and pid <> $2",
            name,
            connection.get_server_pid(),
        )
        yield
    finally:
        await server.execute(f"alter database {name} allow_connections true")
        await server.close()


async def until_begun(connection: asyncpg.Connection, count: int) -> None:
    """Wait until so many rebuilds were asked for."""
    query = "select count(*) from operations where action = 'rebuild'"

    async def begun() -> bool:
        return bool(await connection.fetchval(query) >= count)

    await until(begun)


async def until(is_so: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(END_S):
        while True:
            found = is_so()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)
