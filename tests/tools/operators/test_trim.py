"""Kafka's records go up to the oldest wanted backup's head, and never beyond it.

The property draws records from ten and lives of the topic from two, so that heads of one life and
of another, before and behind each other, are all frequent.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.log.identity import uuid7
from exchange.ports import CommandsCut
from exchange.tools.operators.backups.backup import backup
from exchange.tools.operators.backups.kafka import Topic, following
from exchange.tools.operators.backups.manifests import (
    Backup,
    Manifest,
    ShardHead,
    backups_in,
    encoded,
)
from exchange.tools.operators.backups.restore import restore
from exchange.tools.operators.backups.trim import trim
from exchange.tools.operators.backups.trimming import CannotTrim, Cut, Log, plan
from exchange.tools.operators.quarantine import retry_quarantined
from exchange.tools.terminal import ToolError
from exchange.transport.commands import KafkaCommandLog
from tests.matcher.test_matcher import BTC
from tests.tools.operators.test_adoption import (
    Sent,
    adopt,
    decide_up_to,
    orders,
    send,
    start_matcher,
)
from tests.tools.operators.test_quarantine import matching, quarantine

pytestmark = pytest.mark.anyio

FIRST: list[Sent] = [(BTC, uuid7()), *orders(1, 10)]
LATER_BASE = 10**12  # of the life of a topic that `exchange adopt-topic` begins
COUNT_EVENTS = "select count(*) from events"


# What may go, by what the manifests tell.


def head(shard: int, next_offset: int, *, base: int = 0, topic_id: str = "topic") -> ShardHead:
    last = next_offset - 1 if next_offset > base else None
    return ShardHead(shard, 1, 9, topic_id, next_offset, base, "", "", last)


def backup_of(*heads: ShardHead, log_id: str = "log", age_days: int = 0) -> Backup:
    taken_at = datetime(2026, 5, 1, tzinfo=UTC) - timedelta(days=age_days)
    manifest = Manifest(taken_at, "", "", 18, log_id, list(heads), 0, 1, "x.dump", 0, "")
    return Backup(Path("x.dump"), manifest)


def log_of(*heads: ShardHead) -> Log:
    return Log("log", {one.shard: one for one in heads})


heads = st.tuples(
    st.builds(
        lambda base, record: head(0, base + record, base=base),
        st.sampled_from([0, LATER_BASE]),
        st.integers(0, 9),
    ),
    st.builds(lambda record: head(1, record), st.integers(0, 9)),
).flatmap(lambda both: st.sampled_from([both, both[:1]]))
logs = st.builds(lambda known: log_of(*known), heads)


def test_the_oldest_backup_keeps_its_last_decided_record_and_all_after_it() -> None:
    base = LATER_BASE
    log = log_of(head(0, 90), head(1, base + 50, base=base), head(2, 0))
    older = backup_of(head(0, 40), head(1, base + 30, base=base))
    newer = backup_of(head(0, 80), head(1, base + 20, base=base), head(2, 0))
    topic = Topic("topic", {0: (7, 95), 1: (0, 60), 2: (0, 5), 3: (0, 5)})

    cuts = plan(log, topic, [newer, older])

    # Shard 2 has decided nothing, and shard 3 came after both backups.
    assert cuts == [Cut(0, 7, 39), Cut(1, 0, 19), Cut(2, 0, 0), Cut(3, 0, 0)]
    assert plan(log, topic, [newer])[0] == Cut(0, 7, 79)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ([], "there is no backup: take one first"),
        ([backup_of(head(0, 40), log_id="other")], "is of the log other, and this one is log"),
        ([backup_of(head(0, 40, topic_id="other"))], "is of another topic than shard 0"),
        ([backup_of(head(0, 91))], "decided shard 0 up to offset 91, and the log is at 90"),
        ([backup_of(head(5, 1))], "decided shard 5 up to offset 1, and the log is at 0"),
        (
            [backup_of(head(0, 80)), backup_of(head(0, 6))],
            "head of shard 0 in x.dump is at offset 6, below Kafka's first record 7",
        ),
    ],
)
def test_a_backup_that_does_not_fit_lets_nothing_be_deleted(wanted: list[Backup], why: str) -> None:
    with pytest.raises(CannotTrim, match=why):
        plan(log_of(head(0, 90)), Topic("topic", {0: (7, 95)}), wanted)


def test_a_backup_of_a_former_life_does_not_tell_what_the_log_has_decided() -> None:
    log = log_of(head(0, LATER_BASE + 700, base=LATER_BASE))

    with pytest.raises(CannotTrim, match="of another life of the topic than shard 0"):
        plan(log, Topic("topic", {0: (0, 2000)}), [backup_of(head(0, 1000))])


@given(log=logs, backups=st.lists(st.builds(lambda heads: backup_of(*heads), heads), min_size=1))
def test_no_record_that_a_head_still_wants_is_deleted(log: Log, backups: list[Backup]) -> None:
    try:
        cuts = plan(log, Topic("topic", {0: (0, 9), 1: (2, 9)}), backups)
    except CannotTrim:
        return

    for cut in cuts:
        deleted = range(cut.begin, cut.first)
        for known in (log.heads.values(), *(one.manifest.shards for one in backups)):
            wanted = [one.first_wanted for one in known if one.shard == cut.shard]
            assert not deleted or deleted[-1] < wanted[0]


def test_nothing_is_deleted_of_a_topic_that_is_not_the_logs() -> None:
    with pytest.raises(CannotTrim, match="decided from another topic"):
        plan(log_of(head(0, 90)), Topic("new", {0: (0, 95)}), [backup_of(head(0, 90))])


def test_what_kafka_has_after_a_head_is_told_by_shard() -> None:
    heads = {0: head(0, 40), 1: head(1, 6), 2: head(2, 99), 4: head(4, 1)}
    spans = {0: (7, 95), 1: (7, 95), 2: (7, 95), 3: (0, 5)}

    told = following(heads, Topic("topic", spans))

    assert [(one.shard, one.to_decide) for one in told] == [(0, 55), (1, 0), (2, 0), (3, 5), (4, 0)]
    problems = [one.problem for one in told]
    assert (problems[0], problems[3]) == (None, None)
    assert "head of shard 1 is at offset 6, below Kafka's first record 7" in str(problems[1])
    assert "decided up to offset 98, and Kafka ends at 95" in str(problems[2])
    assert "no partition" in str(problems[4])


# On a broker.


@pytest.fixture
def one_shard(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(Settings, "load", lambda: settings)
    return settings


@pytest.fixture
async def connection(one_shard: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(one_shard.database_url)
    yield connection
    await connection.close()


async def decide(settings: Settings, connection: asyncpg.Connection, commands: list[Sent]) -> None:
    """Have commands decided that follow all others."""
    end = (await span(settings))[1]
    await asyncio.to_thread(send, settings, commands)
    await decide_up_to(connection, settings, end + len(commands))


async def span(settings: Settings) -> tuple[int, int]:
    place = (settings.kafka_bootstrap_servers, settings.kafka_topic, Shard(0))
    async with KafkaCommandLog(*place) as commands:
        return await commands.span()


async def take(directory: Path) -> Backup:
    await asyncio.to_thread(backup, to=directory, as_json=False)
    return backups_in(directory)[0]


async def trim_all(directory: Path, **options: Any) -> None:
    chosen = {"keep": None, "give_up_quarantined": False, "as_json": False, "yes": True} | options
    await asyncio.to_thread(trim, backups=directory, **chosen)


async def test_records_go_up_to_the_oldest_wanted_backup_and_matchers_go_on(
    one_shard: Settings,
    connection: asyncpg.Connection,
    make_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await decide(one_shard, connection, FIRST)
    older = await take(tmp_path)
    await decide(one_shard, connection, orders(10, 15))
    await take_later(tmp_path, older)
    await decide(one_shard, connection, orders(15, 20))

    await trim_all(tmp_path)
    assert await span(one_shard) == (9, 20)
    assert "Deleted 9 records." in capsys.readouterr().out
    await decide(one_shard, connection, orders(20, 22))
    await trim_all(tmp_path)
    assert "Nothing was deleted" in capsys.readouterr().out
    await trim_all(tmp_path, keep=1, as_json=True)
    assert msgspec.json.decode(capsys.readouterr().out) == [{"shard": 0, "begin": 9, "first": 14}]
    assert await span(one_shard) == (14, 22)
    await decide(one_shard, connection, orders(22, 24))
    with pytest.raises(ToolError, match="below Kafka's first record 14: nobody can go on from it"):
        await trim_all(tmp_path)

    # The older backup is not gone on from, and that is said in the same words everywhere.
    other = replace(one_shard, database_url=make_database())
    words = "the head of shard 0 is at offset 10, below Kafka's first record 14"
    with pytest.raises(typer.Exit):
        await restore(other, older.dump, replace=False, yes=True, as_json=False)
    assert words in capsys.readouterr().out
    with pytest.raises(CommandsCut, match=words):
        await start_matcher(other)

    # Unless its loss is accepted.
    monkeypatch.setattr(Settings, "load", lambda: other)
    await adopt()
    restored = await asyncpg.connect(other.database_url)
    await decide_up_to(restored, other, 10**12 + 24)
    await restored.close()


async def take_later(directory: Path, older: Backup) -> Backup:
    """Take a backup that has another name than one of the same second."""
    while True:
        try:
            newer = await take(directory)
        except ToolError:
            await asyncio.sleep(0.1)
            continue
        assert newer.dump != older.dump
        return newer


async def test_a_backup_that_was_harmed_or_is_of_another_log_lets_nothing_be_deleted(
    one_shard: Settings, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    with pytest.raises(ToolError, match="Nothing was deleted: there is no backup"):
        await trim_all(tmp_path)
    with pytest.raises(ToolError, match="give --yes too"):
        await trim_all(tmp_path, yes=False, as_json=True)
    await decide(one_shard, connection, FIRST)
    taken = await take(tmp_path)
    whole = taken.dump.read_bytes()

    taken.dump.write_bytes(bytes(len(whole)))
    with pytest.raises(ToolError, match=r"Nothing was deleted: .* is damaged"):
        await trim_all(tmp_path)
    taken.dump.unlink()
    with pytest.raises(ToolError, match=r"Nothing was deleted: .* cannot be read: No such file"):
        await trim_all(tmp_path)
    taken.dump.write_bytes(whole)
    another = structs.replace(taken.manifest, log_id="another")
    taken.dump.with_suffix(".json").write_bytes(encoded(another))
    with pytest.raises(ToolError, match="is of the log another"):
        await trim_all(tmp_path)
    assert await span(one_shard) == (0, 10)


async def test_a_quarantined_record_stays_until_it_is_tried_again_or_given_up(
    one_shard: Settings,
    connection: asyncpg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await quarantine(one_shard, monkeypatch)
    await decide(one_shard, connection, FIRST)
    await take(tmp_path)

    with pytest.raises(ToolError, match="records at 0:0 were quarantined and not tried again"):
        await trim_all(tmp_path)
    assert await span(one_shard) == (0, 11)
    async with matching(one_shard):
        await asyncio.to_thread(retry_quarantined, "0:0", yes=True)
    await trim_all(tmp_path)
    assert await span(one_shard) == (10, 12)


async def test_a_quarantined_record_that_is_given_up_goes(
    one_shard: Settings,
    connection: asyncpg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await quarantine(one_shard, monkeypatch)
    await decide(one_shard, connection, FIRST)
    await take(tmp_path)

    await trim_all(tmp_path, give_up_quarantined=True)

    assert await span(one_shard) == (10, 11)
    with pytest.raises(ToolError, match="Kafka no longer has the record"):
        await asyncio.to_thread(retry_quarantined, "0:0", yes=True)
