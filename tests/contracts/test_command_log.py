import asyncio
from typing import Any

import msgspec
import pytest

from exchange.domain.values import Offset
from exchange.ports import CommandRecord, CommandsCut
from tests.contracts.conftest import COMMAND_ID, CommandWorld

pytestmark = pytest.mark.anyio


async def test_records_come_back_whole_and_in_order(commands: CommandWorld) -> None:
    offsets = [await commands.produce(b"command %d" % n) for n in range(3)]
    log = await commands.open()

    await log.seek(Offset(0))
    records: list[CommandRecord] = []
    while len(records) < 3:
        records += await log.read(limit=10)

    assert offsets == [0, 1, 2]
    assert [(r.offset, r.value) for r in records] == [
        (0, b"command 0"),
        (1, b"command 1"),
        (2, b"command 2"),
    ]
    assert {r.command_id for r in records} == {COMMAND_ID.bytes}
    assert {r.reply_to for r in records} == {b"gateway:7"}
    times = [r.time_ms for r in records]
    assert times == sorted(times)
    assert times[0] > 0


async def test_reading_goes_on_where_it_was_told_to(commands: CommandWorld) -> None:
    for n in range(3):
        await commands.produce(b"command %d" % n)
    log = await commands.open()

    await log.seek(Offset(2))

    assert [r.offset for r in await log.read(limit=10)] == [2]


async def test_no_more_than_the_limit_is_read(commands: CommandWorld) -> None:
    for n in range(5):
        await commands.produce(b"command %d" % n)
    log = await commands.open()

    await log.seek(Offset(0))
    first = await log.read(limit=2)
    second = await log.read(limit=2)

    assert 1 <= len(first) <= 2
    assert [r.offset for r in first + second] == list(range(len(first) + len(second)))


async def test_a_read_waits_for_the_next_command(commands: CommandWorld) -> None:
    log = await commands.open()
    await log.seek(Offset(0))

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(log.read(limit=10))
        await asyncio.sleep(0.05)
        assert not reading.done()
        await commands.produce(b"late")

    assert [r.value for r in reading.result()] == [b"late"]


async def test_an_offset_that_does_not_exist_is_an_error(commands: CommandWorld) -> None:
    await commands.produce(b"only one")
    log = await commands.open()

    with pytest.raises(CommandsCut, match="ends at 1: it was cut"):
        await log.seek(Offset(5))


async def test_reading_goes_on_after_the_last_record_that_was_decided(
    commands: CommandWorld,
) -> None:
    for n in range(3):
        await commands.produce(b"command %d" % n)
    log = await commands.open()
    await log.seek(Offset(0))
    first = (await log.read(limit=1))[0]

    again = await commands.open()
    await again.seek(Offset(1), last=first.last)

    assert [r.value for r in await again.read(limit=1)] == [b"command 1"]
    assert again.next_offset == 2


async def test_what_is_between_the_last_record_and_the_offset_is_not_read_again(
    commands: CommandWorld,
) -> None:
    for n in range(4):
        await commands.produce(b"command %d" % n)
    log = await commands.open()
    await log.seek(Offset(0))
    first = (await log.read(limit=1))[0]

    again = await commands.open()
    await again.seek(Offset(3), last=first.last)  # as a head is that an earlier build has moved

    assert again.next_offset == 3
    assert [r.value for r in await again.read(limit=10)] == [b"command 3"]


@pytest.mark.parametrize("spoilt", [{"digest": bytes(32)}, {"offset": Offset(1)}])
async def test_another_record_in_the_place_of_the_last_is_a_topic_that_was_cut(
    commands: CommandWorld, spoilt: dict[str, Any]
) -> None:
    for n in range(3):
        await commands.produce(b"command %d" % n)
    log = await commands.open()
    await log.seek(Offset(0))
    first = (await log.read(limit=1))[0]

    again = await commands.open()

    with pytest.raises(CommandsCut, match="another record"):
        await again.seek(Offset(2), last=msgspec.structs.replace(first.last, **spoilt))


async def test_offsets_count_from_the_base_of_the_topics_life(commands: CommandWorld) -> None:
    for n in range(3):
        await commands.produce(b"command %d" % n)
    log = await commands.open()

    await log.seek(Offset(102), base=100)
    (record,) = await log.read(limit=10)

    assert (record.offset, record.value) == (102, b"command 2")
    assert (log.next_offset, await log.end()) == (103, 103)
    again = await commands.open()
    await again.seek(Offset(103), base=100, last=record.last)
    with pytest.raises(CommandsCut, match="ends at 3"):
        await (await commands.open()).seek(Offset(104), base=100)


async def test_the_topic_id_stays_the_same(commands: CommandWorld) -> None:
    first, second = await commands.open(), await commands.open()

    assert await first.topic_id() == await second.topic_id() != ""


async def test_a_topic_that_was_recreated_has_another_id(commands: CommandWorld) -> None:
    await commands.produce(b"first")
    before = await (await commands.open()).topic_id()

    await commands.recreate()
    log = await commands.open()

    assert await log.topic_id() != before
    assert await log.end() == 0


async def test_the_end_is_where_the_next_command_goes(commands: CommandWorld) -> None:
    log = await commands.open()
    await log.seek(Offset(0))
    assert await log.end() == 0
    await commands.produce(b"first")

    assert await log.end() == 1
    assert await commands.produce(b"second") == 1
