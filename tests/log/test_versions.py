"""Commands, events and outcomes of another build: their versions, and how unknown ones end."""

import asyncio
import json
import tomllib
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from msgspec import Raw
from redis.asyncio import Redis

from exchange import BUILD
from exchange.config import PROJECT
from exchange.domain import commands
from exchange.domain.commands import CancelOrder, CloseSettlementCycle
from exchange.domain.values import Offset, Position, Shard, Side
from exchange.log import command_form
from exchange.log import events as events_module
from exchange.log.command_form import SIGNED_VERSION, command_version
from exchange.log.events import UnknownEvent, decode_event_data
from exchange.log.reader import read_readable
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import CRASHES_MAX
from exchange.ports import CommandRecord, NewerCommand
from exchange.transport.messages import (
    Outcome,
    OutcomeMessage,
    build_of,
    decode_outcomes,
    encode_command,
    encode_outcomes,
    version_header,
    version_of,
)
from projections.feed import read_feed, stream_key
from projections.stores.checkpoints import Live
from tests.builders import cancelled, rested, stored
from tests.matcher.test_matcher import World, place, unkeyed
from tests.transport.test_messages import later

pytestmark = pytest.mark.anyio

NEWER_VERSION = command_form.commands_version() + 1
NEWER = f"{NEWER_VERSION} exchange 99.0".encode()


def record(version: bytes | None) -> CommandRecord:
    return CommandRecord(Offset(0), 0, b"", None, None, version=version)


# Commands


def test_a_new_version_of_commands_has_a_build_of_its_own() -> None:
    """Who meets a newer command is told the build that reads it, by its name alone."""
    assert (command_form.commands_version(), BUILD) == (4, "exchange 0.4.0")


def test_a_command_has_the_lowest_version_whose_readers_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gained = {"CloseSettlementCycle": 2, "LaterOrder.display": 3, "LaterOrder.side=sell": 4}
    monkeypatch.setattr(command_form, "LATER_COMMANDS", gained)

    versions = [
        command_version(command)
        for command in (
            CancelOrder("o", "BTC-USD", None),
            CloseSettlementCycle(1),
            later(side="buy"),
            later(side="buy", display=100_000),
            later(side="buy", display=7),
            later(side="sell", display=7),
        )
    ]

    assert versions == [1, 2, 1, 1, 3, 4]
    assert command_form.commands_version() == 4


def test_a_signed_command_waits_for_a_matcher_that_logs_its_key() -> None:
    versions = [
        command_version(command, signed=signed)
        for command in (CancelOrder("o", "BTC-USD", None), CloseSettlementCycle(1))
        for signed in (False, True)
    ]

    assert versions == [1, SIGNED_VERSION, 1, SIGNED_VERSION]
    assert command_form.commands_version() >= SIGNED_VERSION > 1


def test_whatever_commands_gained_is_there_and_may_be_left_out() -> None:
    for what in command_form.LATER_COMMANDS:
        name, _, field = what.partition(".")
        kind = getattr(commands, name)
        fields = [one for one in msgspec.structs.fields(kind) if one.name in field.split("=")]

        assert not field or (len(fields) == 1 and not fields[0].required), what


def test_a_header_tells_the_version_and_the_build() -> None:
    told = record(version_header(7))

    assert (version_of(told), build_of(told)) == (7, BUILD)


@pytest.mark.parametrize(
    "header", [None, b"", b"x", b"-2 exchange", b"2.0", b"99999 exchange", "\u0662".encode()]
)
def test_a_header_that_cannot_be_read_stands_for_the_first_version(header: bytes | None) -> None:
    assert version_of(record(header)) == 1


def test_a_build_is_named_as_pyproject_names_it() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    assert f"{project['name']} {project['version']}" == BUILD


async def test_a_matcher_ends_at_a_newer_command_and_holds_it_against_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    newer = world.topic.produce(
        b'{"type":"PlaceOrder","mood":"good"}', command_id=unkeyed(2).bytes, version=NEWER
    )
    world.send(place("o3"), unkeyed(3))

    errors = [await end_of(world) for _ in range(2 * CRASHES_MAX)]

    assert all(isinstance(error, NewerCommand) for error in errors)
    assert "exchange 99.0" in str(errors[0])
    assert f"offset {newer} " in str(errors[0])
    assert world.next_offset == newer
    assert [event.type for event in world.log] == [
        "InstrumentRegistered",
        "OrderAccepted",
        "OrderRested",
    ]
    assert world.database.attempts == {}

    world.topic.records[newer] = msgspec.structs.replace(
        world.topic.records[newer], value=encode_command(place("o2"))
    )
    monkeypatch.setattr(command_form, "LATER_COMMANDS", {"PlaceOrder.mood": NEWER_VERSION})
    await world.match_all()

    assert [event.type for event in world.log][3:] == ["OrderAccepted", "OrderRested"] * 2


async def end_of(world: World) -> BaseException:
    running = asyncio.create_task(world.matcher().run())
    await asyncio.wait([running], timeout=30)
    await world.end()
    failure = running.exception()
    assert isinstance(failure, BaseExceptionGroup)
    return failure.exceptions[0]


async def test_the_head_tells_what_its_writer_reads_and_not_what_an_earlier_one_did(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(database_url)
    monkeypatch.setattr(command_form, "LATER_COMMANDS", {"PlaceOrder.mood": 3})
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.take_over("topic")
        newer = await read_readable(connection)
    await connection.execute("update head set epoch = epoch + 1")  # as builds of before it do
    unaware = await read_readable(connection)
    await connection.close()

    assert (newer, unaware) == ({0: 3}, {0: 1})


# Events beside the log


async def test_an_outcome_tells_the_versions_of_events_that_have_a_later_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, newer = World(), World()
    for world in (plain, newer):
        world.send(place("o1"), unkeyed(1))
    await plain.match_all()
    monkeypatch.setitem(events_module.UPCASTERS, "OrderRested", (str,))
    await newer.match_all()

    assert [outcome.versions for outcome in plain.outcomes] == [[], []]
    assert [outcome.versions for outcome in newer.outcomes] == [[], [1, 2]]


def test_an_event_beside_the_log_is_lifted_or_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    event = rested(1, Side.BUY, price=1000, quantity=10)
    data = Raw(stored(event).data.encode())

    def lift(text: str) -> str:
        return json.dumps({**json.loads(text), "quantity": 11})

    monkeypatch.setitem(events_module.UPCASTERS, "OrderRested", (lift,))

    lifted = decode_event_data(data, 1)

    assert lifted == rested(1, Side.BUY, price=1000, quantity=11)
    assert decode_event_data(data, 2) == event
    for unknown in (3, 0):
        with pytest.raises(UnknownEvent):
            decode_event_data(data, unknown)
    with pytest.raises(UnknownEvent):
        decode_event_data(Raw(b'{"type":"MoodChanged"}'), 1)


def test_a_message_of_another_form_is_no_message_here() -> None:
    sent = json.loads(encode_outcomes(OutcomeMessage(0, {}, [Outcome(1, 2)])))

    with pytest.raises(ValueError, match="version 2"):
        decode_outcomes(json.dumps({**sent, "version": 2}).encode())
    del sent["version"]
    assert decode_outcomes(json.dumps(sent).encode()).outcomes == [Outcome(1, 2)]


async def test_the_feed_reads_older_entries_and_ends_before_one_of_a_later_version(
    redis_url: str,
) -> None:
    events = [cancelled(number, Side.BUY, price=10, quantity=1) for number in (1, 2, 3)]
    async with Redis.from_url(redis_url) as redis:
        for position, (event, version) in enumerate(
            zip(events, (None, 1, 99), strict=True), start=1
        ):
            told = {} if version is None else {"v": version}
            fields: Any = {
                "e": events_module.encode_event_data(event),
                "c": UUID(int=1).bytes,
                "o": 7,
                **told,
            }
            await redis.xadd(stream_key(1, 0), fields, id=f"{position}-0")
        found = await read_feed(redis, Live("feed", 1), 0, 0, block_ms=None)

    assert [(one.position, one.event) for one in found] == [
        (Position(1), events[0]),
        (Position(2), events[1]),
    ]
