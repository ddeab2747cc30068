"""Operators rebuild read models of a running exchange, and nobody who reads it notices.

The commands are processes of their own. Meanwhile traders trade, readers ask every query of every
gateway, and subscribers follow every channel: each answer is as new as the one before, and the
stream has neither gap nor repetition. In the long run all read models are rebuilt, three times, and
the load is half of what the exchange takes.
"""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from exchange.log.reader import read_heads
from exchange.ports import StoredEvent
from projections.registry import READ_MODELS
from tests.e2e.conftest import client_of
from tests.e2e.operator_commands import OPERATOR, WIDTH, begun, done, ended, run
from tests.e2e.test_subscribers import (
    assert_same_books,
    shards_of,
    streams_of,
    until_told,
)
from tests.e2e.test_trading import new_instrument
from tests.load import Load, Pace
from tests.projections.models import read_log
from tests.readers import Late, Reader, furnish, questions_of
from tests.running import Exchange
from tests.subscribers import FollowerOfAll

pytestmark = pytest.mark.anyio

INSTRUMENTS = 2
AT_ONCE = 5  # commands; each takes a second of a core to start
LIGHT = Pace(pause_s=0.2)
ROUNDS_LONG = 3
SOME = ("positions", "feed")  # rows of PostgreSQL, and of Redis
LATE_SHARE_MAX = 0.01  # of the answers, on a machine that is busy
AFTER_SWITCH_S = 2.0  # it is noted as it begins, takes a second at most, and is felt for another
DROP_AFTER_S = (2.0, 6.0)
READ_SWITCHES = "select at from operations where action in ('switch', 'rollback')"
OF_ORDERS = {"OrderAccepted", "OrderRejected", "OrderRested", "TradeExecuted", "OrderCancelled"}


@asynccontextmanager
async def watched(
    exchange: Exchange, name: str, *, pace: Pace, traders: int, read_pause_s: float
) -> AsyncIterator[list[str]]:
    """Trade new instruments, read and subscribe; then compare what subscribers got with the log."""
    async with client_of(exchange.urls[0]) as http:
        on = [number % exchange.settings.shards for number in range(INSTRUMENTS)]
        instruments = [await new_instrument(http, shard=shard) for shard in on]
        await furnish(http, instruments)
    shards = await shards_of(exchange)
    mine = {instrument: shards[instrument] for instrument in instruments}
    readers = [Reader(url, questions_of(mine), pause_s=read_pause_s) for url in exchange.urls]
    followers = [
        FollowerOfAll(n, streams_of(exchange), instrument, DROP_AFTER_S)
        for n, instrument in enumerate(instruments)
    ]
    stop = asyncio.Event()
    reading = [asyncio.create_task(reader.read(stop)) for reader in readers]
    following = [asyncio.create_task(follower.follow(stop)) for follower in followers]
    try:
        async with Load(exchange.urls, instruments, name=name, pace=pace, traders=traders) as load:
            yield instruments
        stop.set()
        await asyncio.gather(*reading)
        log = await _all_told(exchange, followers, following, mine)
    finally:
        for task in (*reading, *following):
            task.cancel()
        await asyncio.gather(*reading, *following, return_exceptions=True)
    assert load.history.unresolved == []
    await assert_same_books(exchange, [*followers])
    for follower in followers:
        _assert_complete(follower, log)
    await _assert_none_late_by_a_switch(exchange, [one for r in readers for one in r.late])
    for reader in readers:
        assert len(reader.late) <= LATE_SHARE_MAX * reader.answers.total(), reader.late
        assert len(reader.answers) == len({question.path for question in questions_of(mine)})


async def _all_told(
    exchange: Exchange,
    followers: list[FollowerOfAll],
    following: list[asyncio.Task[None]],
    shards: dict[str, int],
) -> list[StoredEvent]:
    """Wait until the subscribers were told of the whole log, and return it."""
    connection = await asyncpg.connect(exchange.settings.database_url, ssl=False)
    try:
        heads = await read_heads(connection)
        wanted = {name: heads[shard] for name, shard in shards.items()}
        await until_told([*followers], following, wanted)
        return await read_log(connection)
    finally:
        await connection.close()


async def _assert_none_late_by_a_switch(exchange: Exchange, late: list[Late]) -> None:
    connection = await asyncpg.connect(exchange.settings.database_url, ssl=False)
    try:
        switches_s = [row["at"].timestamp() for row in await connection.fetch(READ_SWITCHES)]
    finally:
        await connection.close()
    assert [
        one
        for one in late
        for at_s in switches_s
        if one.asked_s <= at_s + AFTER_SWITCH_S and one.answered_s >= at_s
    ] == []


def _assert_complete(follower: FollowerOfAll, log: list[StoredEvent]) -> None:
    happened = [e for e in log if e.instrument == follower.instrument]
    trades = [e.position for e in happened if e.type == "TradeExecuted"]
    orders = {e.position for e in happened if e.type in OF_ORDERS}
    assert follower.start is not None
    assert follower.orders_start is not None
    told = [trade["sequence"] for trade in follower.trades]
    assert told == [position for position in trades if position > follower.start]
    assert follower.orders == sorted(follower.orders)
    assert set(follower.orders) == {at for at in orders if at > follower.orders_start}
    assert follower.tickers > 0


@asynccontextmanager
async def half_loaded(exchange: Exchange, instrument: str) -> AsyncIterator[None]:
    """Send half of the orders that the exchange takes, until the end."""
    of = ("load", "--instrument", instrument)
    measured = await ended(await begun(exchange, *of, "--total", "5000", "--json"))
    rate = json.loads(measured.out)["orders_per_second"] / 2
    limits = ("--total", "0", "--duration", "3600", "--seed", "2")
    load = await begun(exchange, *of, "--rate", f"{rate:.0f}", *limits)
    try:
        yield
    finally:
        load.terminate()
        await ended(load)


async def each_rebuilt(exchange: Exchange, names: Sequence[str]) -> None:
    """Rebuild and verify read models, a few at a time."""
    await _some_at_once(names, lambda name: _rebuilt(exchange, name))


async def _rebuilt(exchange: Exchange, name: str) -> None:
    before = await live_generation(exchange, name)
    told = await ended(await begun(exchange, "rebuild", name, "--json"))
    assert told.code == 0, told
    lines = told.lines
    assert lines[0]["message"].startswith(f"{name}: "), lines[0]
    assert lines[-1]["message"].startswith(f"{name}: generation "), lines[-1]
    assert "is live" in lines[-1]["message"]
    assert {line["projection"] for line in lines if "build" in line} <= {name}
    assert await live_generation(exchange, name) == before + 1
    verified = (await done(exchange, "verify-projection", name, "--json")).lines[0]
    assert (verified["different"], verified["generation"]) == (0, before + 1)


async def each_rolled_back(exchange: Exchange, names: Sequence[str]) -> None:
    """Roll read models back, and forward again."""
    await _some_at_once(names, lambda name: _back_and_forward(exchange, name))


async def _back_and_forward(exchange: Exchange, name: str) -> None:
    now = await live_generation(exchange, name)
    back = await done(exchange, "rollback", name, "--expect-live", str(now))
    forth = f"To go forward again: make rollback PROJECTION={name} EXPECT_LIVE={now - 1}"
    assert back.told == f"Generation {now - 1} of {name} is live again, instead of {now}. {forth}\n"
    again = await run(exchange, "rollback", name, "--expect-live", str(now))
    assert again.code == 1
    assert f"Generation {now - 1} of {name} is live, not {now} as was expected" in again.err
    forward = (
        await done(exchange, "rollback", name, "--expect-live", str(now - 1), "--json")
    ).lines
    (told,) = forward
    assert (told["projection"], told["generations"]) == (name, [now])
    assert told["message"].startswith(
        f"Generation {now} of {name} is live again, instead of {now - 1}."
    )


async def _some_at_once(
    names: Sequence[str], work: Callable[[str], Coroutine[Any, Any, None]]
) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(name: str) -> None:
        async with turns:
            await work(name)

    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(in_turn(name))


async def live_generation(exchange: Exchange, name: str) -> int:
    """Return the number of the generation that queries read."""
    return int(
        await _value(exchange, "select generation from live where projection = $1", name) or 0
    )


async def _value(exchange: Exchange, query: str, *arguments: object) -> Any:
    connection = await asyncpg.connect(exchange.settings.database_url, ssl=False)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


@pytest.mark.timeout(300)
async def test_read_models_are_rebuilt_and_nobody_notices(exchange: Exchange) -> None:
    async with watched(exchange, "light", pace=LIGHT, traders=4, read_pause_s=0.05):
        await each_rebuilt(exchange, SOME)
        await each_rolled_back(exchange, SOME)


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_three_rounds_of_rebuilds_under_load(exchange: Exchange) -> None:
    async with (
        watched(exchange, "heavy", pace=LIGHT, traders=4, read_pause_s=0.02) as instruments,
        half_loaded(exchange, instruments[0]),
    ):
        for _ in range(ROUNDS_LONG):
            await each_rebuilt(exchange, READ_MODELS)
            await each_rolled_back(exchange, READ_MODELS)


async def test_a_rebuild_that_is_not_on_a_terminal_tells_plain_lines(exchange: Exchange) -> None:
    told = await ended(await begun(exchange, "rebuild", "ticker"))

    assert told.code == 0, told
    first, *_, live, _, last = told.out.splitlines()
    assert first.startswith("ticker: ")
    assert "events to read" in first
    assert live.startswith("ticker: generation ")
    assert re.search(r"To go back: make rollback PROJECTION=ticker EXPECT_LIVE=\d+$", last)
    assert "\x1b" not in told.told


async def test_a_second_operator_is_told_who_is_at_it(exchange: Exchange) -> None:
    await done(exchange, "rebuild", "vwap", "--no-switch", operator="anna")
    number = await live_generation(exchange, "vwap") + 1

    second = await done(exchange, "rebuild", "vwap", "--no-switch", operator="bert")
    assert f"Generation {number} of vwap is catching-up: anna began it at 20" in second.told

    unseen = await run(exchange, "switch", "vwap")
    assert "was not compared with the log: exchange verify-projection" in unseen.told
    await done(exchange, "verify-projection", "vwap", "--generation", str(number))
    await done(exchange, "switch", "vwap", "--reason", "tried enough")
    assert await live_generation(exchange, "vwap") == number


async def test_the_end_of_the_command_is_not_the_end_of_the_rebuild(exchange: Exchange) -> None:
    number = await live_generation(exchange, "orders") + 1
    first = await begun(exchange, "rebuild", "orders", "--json")
    assert first.stdout is not None
    shown = b""
    while b'"state"' not in shown:  # it watches
        shown = await first.stdout.readline()
    first.send_signal(signal.SIGINT)
    stopped = await ended(first)
    again = await done(exchange, "rebuild", "orders")

    assert stopped.code == 1
    assert stopped.err == "The rebuild of orders goes on without you: see make status.\n"
    assert "Traceback" not in stopped.told
    is_shown = f"Generation {number} of orders is" in again.told  # else it had ended before
    assert await live_generation(exchange, "orders") == (number if is_shown else number + 1)


async def test_what_the_operator_did_not_see_is_refused(exchange: Exchange) -> None:
    await done(exchange, "rebuild", "positions")
    now = await live_generation(exchange, "positions")
    before = await _operations(exchange, "positions")

    for command in (("rebuild",), ("rollback",), ("switch", "--generation", str(now - 1))):
        name, *more = command
        told = await run(exchange, name, "positions", "--expect-live", str(now + 7), *more)
        assert told.code == 1
        expected = f"Generation {now} of positions is live, not {now + 7} as was expected"
        assert expected in told.err
    for name, would in (("rollback", "be"), ("retire", "be retired")):
        unsaid = await run(exchange, name, "positions")
        assert unsaid.code == 1
        assert unsaid.err.startswith("Refused, nothing was changed:")
        assert f"generation {now - (name == 'retire')}" in unsaid.err
        assert f"would {would}" in unsaid.err
        assert f"make {name} PROJECTION=positions EXPECT_LIVE={now}\n" in unsaid.err
    unknown = await run(exchange, "rebuild", "nothing")

    assert unknown.code == 1
    assert "There is no projection 'nothing'" in unknown.err
    assert await _operations(exchange, "positions") == before
    assert await live_generation(exchange, "positions") == now


async def test_a_model_is_paused_resumed_and_the_former_one_retired(exchange: Exchange) -> None:
    await done(exchange, "rebuild", "settlement")
    now = await live_generation(exchange, "settlement")

    paused = await done(exchange, "pause", "settlement", "--reason", "to look at it")
    state = await _generation(exchange, "settlement", now)
    resumed = await done(exchange, "resume", "settlement")
    retired = await done(exchange, "retire", "settlement", "--expect-live", str(now))
    nothing_left = await run(exchange, "rollback", "settlement")
    twice = await run(exchange, "resume", "settlement")

    assert paused.out.startswith(f"Generation {now} of settlement is paused")
    assert (state["state"], state["live"]) == ("paused", True)
    assert resumed.out == f"Generation {now} of settlement goes on.\n"
    assert retired.out.startswith(f"Generation {now - 1} of settlement is retired")
    assert nothing_left.code == 1
    assert "there is no way back" in nothing_left.err
    assert twice.code == 1
    assert "No generation of settlement is paused" in twice.err
    told = await _operations(exchange, "settlement")
    newest = [one for one in told if one["operator"] == OPERATOR][:3]
    assert [one["action"] for one in newest] == ["retire", "resume", "pause"]
    assert newest[-1]["reason"] == "to look at it"


async def test_operations_tell_everything_that_happened(exchange: Exchange) -> None:
    number = await live_generation(exchange, "book") + 1
    await done(exchange, "rebuild", "book", "--reason", "a [/new] release", operator="anna")
    why = ("--reason", "it looks odd")
    back, forward = ("--expect-live", str(number)), ("--expect-live", str(number - 1))
    await done(exchange, "rollback", "book", *back, *why, operator="bert")
    await done(exchange, "rollback", "book", *forward, operator="anna")

    every = await _operations(exchange, "book")
    told = [one for one in every if one["operator"] in ("anna", "bert")]
    made = [
        (one["operator"], one["action"], one["from_generation"], one["to_generation"])
        for one in told
    ]
    assert made[:4] == [
        ("anna", "rollback", number - 1, number),
        ("bert", "rollback", number, number - 1),
        ("anna", "switch", number - 1, number),
        ("anna", "rebuild", number - 1, number),
    ] or made[3] == ("anna", "retire", number - 2, number - 2)
    assert told[1]["reason"] == "it looks odd"
    assert told[2]["digest"]
    assert told[3]["reason"] == "a [/new] release"
    assert all(datetime.fromisoformat(one["at"]).tzinfo for one in told)
    text = (await done(exchange, "operations", "--projection", "book")).out
    assert "it looks odd" in text
    assert "a [/new] release" in text


async def test_the_status_shows_each_generation_and_fits_the_terminal(exchange: Exchange) -> None:
    await done(exchange, "rebuild", "trades")
    now = await live_generation(exchange, "trades")

    text = (await run(exchange, "status")).out
    document = (await run(exchange, "status", "--json")).out

    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    states = {
        (one["projection"], one["generation"]): one["state"]
        for one in json.loads(document)["generations"]
    }
    assert states["trades", now] == "live"
    assert states["trades", now - 1] == "kept"
    assert {name for name, _ in states} == set(READ_MODELS)


async def _generation(exchange: Exchange, name: str, number: int) -> dict[str, Any]:
    found = (await run(exchange, "status", "--json")).out
    generations = json.loads(found)["generations"]
    wanted = [g for g in generations if (g["projection"], g["generation"]) == (name, number)]
    one: dict[str, Any] = wanted[0]
    return one


async def _operations(exchange: Exchange, name: str) -> list[dict[str, Any]]:
    told = await done(exchange, "operations", "--projection", name, "--json")
    found: list[dict[str, Any]] = told.lines[0]  # type: ignore[assignment]
    return found
