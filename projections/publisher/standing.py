"""Whether a partition of the topic goes with the log, and what to do if it does not.

Read ``check_standing``. The topic decides where publishing goes on, never the log's own word for
what was published: the two are not one transaction. That word only tells an empty partition that is
new from one that has lost its events.
"""

from typing import Final

import asyncpg

from exchange.log.reader import read_chain, read_heads
from exchange.ports import EMPTY_CHAIN
from projections.publisher.records import Ends, Written

ANEW: Final = (
    "Restore the topic; or name another one in KAFKA_EVENTS_TOPIC, or let `exchange republish`"
    " forget what was published, and all events come again from the first: readers then begin again"
    " too."
)


class CannotPublish(Exception):
    """The topic does not go with the log. Nothing is published until somebody has decided."""


async def check_standing(
    connection: asyncpg.Connection,
    topic: str,
    shard: int,
    ends: Ends | None,
    *,
    log_id: str,
    published: int,
) -> tuple[int, bytes]:
    """Return the position of a partition's last event, and the chain after it.

    Args:
        connection: To the log.
        topic: For messages.
        shard: Whose log and partition.
        ends: What the partition has; None if it is empty.
        log_id: Of the log.
        published: Up to where the log says that it was published.

    Raises:
        CannotPublish: The partition does not go with the log.
    """
    if ends is None:
        if published:
            raise _partition_is_empty(topic, shard, published)
        return 0, EMPTY_CHAIN
    last = ends.last
    for one in (ends.first, last):
        if (one.log_id, one.shard) != (log_id, shard):
            told = f"position {one.position} of shard {one.shard} of log {one.log_id}"
            raise is_foreign(topic, shard, told)
    if ends.first.position != 1 and not ends.was_cut:
        raise _begins_late(topic, ends.first)
    head = (await read_heads(connection)).get(shard, 0)
    if last.position > head:
        raise _is_ahead(topic, last, head)
    if await read_chain(connection, shard, last.position) != last.chain:
        raise _has_other_events(topic, last)
    return last.position, last.chain


def topic_is_gone(topic: str) -> CannotPublish:
    """Say that there is no topic any more."""
    return CannotPublish(
        f"the Kafka topic {topic} does not exist, and the log says that events were published to"
        f" it. {ANEW}"
    )


def _partition_is_empty(topic: str, shard: int, published: int) -> CannotPublish:
    return CannotPublish(
        f"partition {shard} of {topic} is empty, and the log says that events up to position"
        f" {published} were published to it. {ANEW}"
    )


def _begins_late(topic: str, first: Written) -> CannotPublish:
    return CannotPublish(
        f"partition {first.shard} of {topic} begins with position {first.position}: the events"
        f" before it are missing. {ANEW}"
    )


def is_foreign(topic: str, shard: int, why: str) -> CannotPublish:
    """Say that somebody else writes to the topic."""
    return CannotPublish(
        f"{topic} has records that are not of this log: {why}. Partition {shard} is not published."
        " Name another topic in KAFKA_EVENTS_TOPIC, or connect to the database of that log."
    )


def _is_ahead(topic: str, last: Written, head: int) -> CannotPublish:
    return CannotPublish(
        f"partition {last.shard} of {topic} has position {last.position}, and the log ends at"
        f" {head}. If the log was restored from a backup, its matcher decides the rest again, and"
        " publishing goes on when the log is as far. If those events are lost, readers have seen"
        " what never happened: name another topic in KAFKA_EVENTS_TOPIC."
    )


def _has_other_events(topic: str, last: Written) -> CannotPublish:
    return CannotPublish(
        f"partition {last.shard} of {topic} has another history than the log, at position"
        f" {last.position} or before: the hash chains differ. `exchange verify` tells whether the"
        " log was changed. If it is whole, readers have seen what never happened: name another"
        " topic in KAFKA_EVENTS_TOPIC."
    )
