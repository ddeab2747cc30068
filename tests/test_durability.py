"""Settings under which acknowledged orders can be lost: which are refused, and how."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.durability import (
    DANGERS,
    IN_SYNC_REPLICAS,
    UNCLEAN_ELECTION,
    Unsafe,
    UnsafeSettings,
    check_durable,
    unsafe_database,
    unsafe_topic,
)
from exchange.log.writing.writer import PostgresEventStore, pin_durability
from exchange.stack.services.kafka import admin_client, ensure_topic
from exchange.transport.commands import KafkaCommandLog, unsafe_settings
from tests.conftest import Services

SAFE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
PROCESS_S = 60  # it takes one or two, on a machine that is not busy


@pytest.mark.parametrize("name", SAFE)
def test_each_setting_of_postgresql_that_is_off_is_unsafe(name: str) -> None:
    assert unsafe_database(SAFE) == []
    assert unsafe_database({**SAFE, name: "off"}) == [Unsafe("PostgreSQL", name, "off")]


@pytest.mark.parametrize("waits_for", ["local", "remote_write", "on", "remote_apply"])
def test_a_commit_that_waits_for_a_disk_is_safe(waits_for: str) -> None:
    assert unsafe_database({**SAFE, "synchronous_commit": waits_for}) == []


@pytest.mark.parametrize(
    ("unclean", "in_sync", "replicas", "unsafe"),
    [
        ("false", "1", 1, []),
        ("false", "1", 2, []),
        ("false", "2", 3, []),
        ("false", "1", 3, [IN_SYNC_REPLICAS]),
        ("false", "1", 5, [IN_SYNC_REPLICAS]),
        ("true", "2", 3, [UNCLEAN_ELECTION]),
        ("true", "1", 1, [UNCLEAN_ELECTION]),
        ("true", "1", 3, [UNCLEAN_ELECTION, IN_SYNC_REPLICAS]),
    ],
)
def test_a_topic_is_unsafe_that_can_lose_what_it_acknowledged(
    unclean: str, in_sync: str, replicas: int, unsafe: list[str]
) -> None:
    config = {UNCLEAN_ELECTION: unclean, IN_SYNC_REPLICAS: in_sync}

    assert [one.name for one in unsafe_topic("t", config, replicas=replicas)] == unsafe


def test_what_is_unsafe_is_refused_in_one_line_with_its_value_the_danger_and_the_way_out() -> None:
    found = [Unsafe("PostgreSQL", "fsync", "off"), Unsafe("the topic t", IN_SYNC_REPLICAS, "1")]

    with pytest.raises(UnsafeSettings) as refused:
        check_durable(found, {"full_page_writes"})

    assert str(refused.value) == (
        "fsync is off for PostgreSQL: a crash of its machine can leave the log lost or damaged;"
        " set fsync = on in postgresql.conf. min.insync.replicas is 1 for the topic t: a command"
        " counts as acknowledged when one broker of several has it; set min.insync.replicas=2 on"
        " the topic. To allow it knowingly:"
        " ALLOW_UNSAFE=fsync,full_page_writes,min.insync.replicas."
    )


def test_what_is_allowed_by_its_name_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    found = [Unsafe("PostgreSQL", name, "off") for name in DANGERS]

    check_durable(found, DANGERS)

    assert [vars(record)["setting"] for record in caplog.records] == list(DANGERS)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def described(error: int) -> "Future[dict[str, ConfigEntry]]":
    future: Future[dict[str, ConfigEntry]] = Future()
    future.set_exception(KafkaException(KafkaError(error)))
    return future


def test_a_broker_that_may_not_tell_the_settings_is_warned_of_and_one_that_is_away_is_not_trusted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = cast("Any", SimpleNamespace(name="t", partitions=[]))

    assert unsafe_settings(topic, described(KafkaError.TOPIC_AUTHORIZATION_FAILED)) == []
    assert "grant DescribeConfigs" in caplog.text
    with pytest.raises(KafkaException):
        unsafe_settings(topic, described(KafkaError._TIMED_OUT))


@pytest.mark.anyio
async def test_a_matcher_refuses_a_topic_that_elects_leaders_without_its_commands(
    services: Services, make_topic: Callable[..., str]
) -> None:
    topic, servers = make_topic(), services.kafka_bootstrap_servers
    set_on_topic(servers, topic, UNCLEAN_ELECTION, "true")

    async with KafkaCommandLog(servers, topic, Shard(0), allow_unsafe=()) as log:
        with pytest.raises(UnsafeSettings, match=rf"{UNCLEAN_ELECTION} is true for .*{topic}"):
            await log.topic_id()
    with pytest.raises(UnsafeSettings, match=f"ALLOW_UNSAFE={UNCLEAN_ELECTION}"):
        await ensure_topic(servers, topic, 1)

    await ensure_topic(servers, topic, 1, allow_unsafe=[UNCLEAN_ELECTION])
    allowed = KafkaCommandLog(servers, topic, Shard(0), allow_unsafe=[UNCLEAN_ELECTION])
    async with allowed as log:
        assert await log.topic_id()


def set_on_topic(servers: str, topic: str, name: str, value: str) -> None:
    change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    admin = admin_client(servers)  # alive until the answer is there
    admin.incremental_alter_configs([resource])[resource].result(10)


@asynccontextmanager
async def session(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def set_on_database(database_url: str, value: str) -> None:
    name = database_url.rpartition("/")[2]
    async with session(database_url) as connection:
        await connection.execute(f"alter database {name} set synchronous_commit = {value}")


@pytest.mark.anyio
async def test_a_writer_refuses_a_server_that_answers_before_it_has_written(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with session(database_url) as connection:
        assert await pin_durability(connection, ()) == SAFE
    await set_on_database(database_url, "off")

    with pytest.raises(UnsafeSettings, match="synchronous_commit is off for PostgreSQL"):
        async with PostgresEventStore(database_url, Shard(0)):
            pass
    async with PostgresEventStore(database_url, Shard(0), allow_unsafe=["synchronous_commit"]):
        assert "allowed by ALLOW_UNSAFE" in caplog.text


@pytest.mark.anyio
async def test_a_writer_commits_as_durably_as_when_it_began(database_url: str) -> None:
    await set_on_database(database_url, "remote_apply")
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await set_on_database(database_url, "off")
        await store.take_over("topic")
        first = await store._control.fetchval("show synchronous_commit")
        assert store._appending is not None
        later = await store._appending.fetchval("show synchronous_commit")
        source = await store._control.fetchval(
            "select source from pg_settings where name = 'synchronous_commit'"
        )

    assert (first, later) == ("remote_apply", "remote_apply")
    assert source == "session"  # which a reload of the server's or the database's does not reach


def test_a_matcher_ends_with_one_line_that_says_what_to_set(settings: Settings) -> None:
    set_on_topic(settings.kafka_bootstrap_servers, settings.kafka_topic, UNCLEAN_ELECTION, "true")

    ended = subprocess.run(
        [sys.executable, "-m", "exchange", "matcher", "--shard", "0"],
        env=settings.environment(),
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
        check=False,
    )

    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"{UNCLEAN_ELECTION} is true for the Kafka")
