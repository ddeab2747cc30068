"""Settings of Kafka and PostgreSQL under which acknowledged commands and events can be lost.

Read ``unsafe_topic`` and ``unsafe_database``: they judge settings that the caller has read.
``check_durable`` refuses what they return, unless ``ALLOW_UNSAFE`` names it. An allowed setting is
logged at each start.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from msgspec import Struct

logger = logging.getLogger(__name__)

UNCLEAN_ELECTION: Final = "unclean.leader.election.enable"
IN_SYNC_REPLICAS: Final = "min.insync.replicas"
RETENTION_TIME: Final = "retention.ms"
RETENTION_SIZE: Final = "retention.bytes"
CLEANUP: Final = "cleanup.policy"
REPLICAS_SAFE: Final = 3  # with two replicas, two in sync would stop the topic with one broker
IN_SYNC_SAFE: Final = 2


class UnsafeSettings(Exception):
    """Kafka or PostgreSQL could lose what they acknowledge, and nobody allowed that."""


class Danger(Struct, frozen=True):
    """Why a setting is unsafe, and what to do about it."""

    why: str
    way_out: str


class Unsafe(Struct, frozen=True):
    """A setting that was found to be unsafe; ``owner`` says whose it is."""

    owner: str
    name: str
    value: str


DANGERS: Final = {
    "fsync": Danger(
        "a crash of its machine can leave the log lost or damaged",
        "set fsync = on in postgresql.conf",
    ),
    "full_page_writes": Danger(
        "a page that is half written when its machine crashes damages the log",
        "set full_page_writes = on in postgresql.conf",
    ),
    "synchronous_commit": Danger(
        "orders that were answered are lost when the server is killed",
        "set synchronous_commit = on where it is off: of the server, the database or the role",
    ),
    UNCLEAN_ELECTION: Danger(
        "a broker that lacks acknowledged commands can become the leader, and they are lost",
        f"set {UNCLEAN_ELECTION}=false on the topic",
    ),
    IN_SYNC_REPLICAS: Danger(
        "a command counts as acknowledged when one broker of several has it",
        f"set {IN_SYNC_REPLICAS}={IN_SYNC_SAFE} on the topic",
    ),
    RETENTION_TIME: Danger(
        "published events that are older are deleted, and a new reader never has them",
        f"set {RETENTION_TIME}=-1 on the topic",
    ),
    RETENTION_SIZE: Danger(
        "published events are deleted when there are more, and a new reader never has them",
        f"set {RETENTION_SIZE}=-1 on the topic",
    ),
    CLEANUP: Danger(
        "of each instrument only the newest published event is kept",
        f"set {CLEANUP}=delete on the topic",
    ),
}
DATABASE_SETTINGS: Final = ("fsync", "full_page_writes", "synchronous_commit")


def unsafe_database(found: Mapping[str, str]) -> list[Unsafe]:
    """Return the unsafe ones of PostgreSQL's settings, as the writer's session has them."""
    return [Unsafe("PostgreSQL", n, found[n]) for n in DATABASE_SETTINGS if found[n] == "off"]


def unsafe_topic(topic: str, config: Mapping[str, str | None], *, replicas: int) -> list[Unsafe]:
    """Return a topic's unsafe settings.

    ``config`` has the settings in effect, ``replicas`` is the largest count of a partition.
    """
    owner = f"the Kafka topic {topic}"
    unsafe: list[Unsafe] = []
    if config.get(UNCLEAN_ELECTION) == "true":
        unsafe.append(Unsafe(owner, UNCLEAN_ELECTION, "true"))
    in_sync = config.get(IN_SYNC_REPLICAS)
    if in_sync is not None and replicas >= REPLICAS_SAFE and int(in_sync) < IN_SYNC_SAFE:
        unsafe.append(Unsafe(owner, IN_SYNC_REPLICAS, in_sync))
    return unsafe


def unsafe_history(topic: str, config: Mapping[str, str | None]) -> list[Unsafe]:
    """Return the settings in effect with which a topic does not keep every published event."""
    safe = {CLEANUP: "delete", RETENTION_TIME: "-1", RETENTION_SIZE: "-1"}
    owner = f"the Kafka topic {topic}"
    return [
        Unsafe(owner, name, value)
        for name, wanted in safe.items()
        if (value := config.get(name)) is not None and value != wanted
    ]


def check_durable(found: Iterable[Unsafe], allowed: Collection[str]) -> None:
    """Refuse unsafe settings that are not in ``allowed``; warn of those that are.

    Raises:
        UnsafeSettings: One line names each setting, its value, the danger and the way out.
    """
    refused: list[Unsafe] = []
    for one in found:
        if one.name not in allowed:
            refused.append(one)
            continue
        fields = {"setting": one.name, "value": one.value, "danger": DANGERS[one.name].why}
        logger.warning("A setting is unsafe, and allowed by ALLOW_UNSAFE", extra=fields)
    if refused:
        told = " ".join(map(_told, refused))
        names = ",".join(sorted({*allowed, *(one.name for one in refused)}))
        raise UnsafeSettings(f"{told} To allow it knowingly: ALLOW_UNSAFE={names}.")


def _told(one: Unsafe) -> str:
    danger = DANGERS[one.name]
    return f"{one.name} is {one.value} for {one.owner}: {danger.why}; {danger.way_out}."
