"""Which of Kafka's records no backup needs any more, and deleting them.

Read ``plan``. A matcher that starts, on this log or on a restored backup, reads Kafka from the last
record that was decided, so all before the last decided record may go: of the oldest backup, or of
this log where that is the earlier one. Offsets of two lives of a topic (``exchange adopt-topic``)
say nothing of each other, so a backup of another life than the log's is refused.

Only a quarantined record is needed longer: ``exchange retry-quarantined`` reads it from Kafka.
Everything else that asks for a command (outcomes, look-ups, claims, ``exchange verify``) has it
from the log.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import asyncpg
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, DeletedRecords
from msgspec import Struct

from exchange.config import Settings
from exchange.log.identity import command_claim, retry_command_id
from exchange.log.reader import read_claims, read_log_id
from exchange.tools.operators.backups.dumping import READ_SHARD_HEADS
from exchange.tools.operators.backups.kafka import Topic
from exchange.tools.operators.backups.manifests import Backup, ShardHead
from exchange.transport.commands import client_logger

DELETE_S: Final = 30.0  # the broker only moves the partition's beginning; files go later

# The index on locations bounds it to the records that would be deleted. All lives of the topic that
# count from its present beginning are asked for.
READ_QUARANTINED = """
select distinct kafka_offset
from topic_lives join events using (shard)
where shard = $1 and topic_id = $2 and type = 'CommandQuarantined'
    and kafka_offset >= offset_base + $3 and kafka_offset < offset_base + $4
order by kafka_offset
"""


class Log(Struct, frozen=True):
    """The log as it is now: its id, and the head of each shard."""

    log_id: str | None
    heads: dict[int, ShardHead]


class Cut(Struct, frozen=True):
    """What is deleted of a shard: Kafka's records from ``begin`` up to ``first``, not included."""

    shard: int
    begin: int
    first: int

    @property
    def records(self) -> int:
        return self.first - self.begin


class CannotTrim(Exception):
    """The backups do not tell what may be deleted; the message is a line that says why."""


async def read_log(connection: asyncpg.Connection) -> Log:
    """Return the log's id and heads."""
    log_id = await read_log_id(connection)
    heads = [ShardHead(**row) for row in await connection.fetch(READ_SHARD_HEADS)]
    return Log(log_id, {head.shard: head for head in heads})


def plan(log: Log, topic: Topic, wanted: Sequence[Backup]) -> list[Cut]:
    """Return what may be deleted of each shard, so that every wanted backup can be restored.

    Raises:
        CannotTrim: There is no backup, one is of another log, topic or life of the topic, or the
            log is behind one.
    """
    if not wanted:
        raise CannotTrim("there is no backup: take one first, by `exchange backup`")
    for head in log.heads.values():
        if head.topic_id != topic.topic_id:
            raise CannotTrim(f"shard {head.shard} was decided from another topic than this one")
    for backup in wanted:
        _check_fits(backup, log, topic)
    heads = [log.heads, *({told.shard: told for told in one.manifest.shards} for one in wanted)]
    return [_cut(shard, span, heads) for shard, span in sorted(topic.spans.items())]


def _check_fits(backup: Backup, log: Log, topic: Topic) -> None:
    manifest, name = backup.manifest, backup.dump.name
    if manifest.log_id != log.log_id:
        raise CannotTrim(f"{name} is of the log {manifest.log_id}, and this one is {log.log_id}")
    for told in manifest.shards:
        if told.topic_id != topic.topic_id:
            raise CannotTrim(
                f"{name} is of another topic than shard {told.shard} has now: a matcher could not"
                " go on from it. Take a new backup, and name how many to keep by --keep"
            )
        begin = topic.spans.get(told.shard, (0, 0))[0]
        if told.next_record < begin:
            raise CannotTrim(
                f"the head of shard {told.shard} in {name} is at offset {told.next_offset}, below"
                f" Kafka's first record {told.offset_base + begin}: nobody can go on from it."
                " Delete it, or name how many newer ones to keep by --keep"
            )
        head = log.heads.get(told.shard)
        if head is None or told.next_offset > head.next_offset:
            at = 0 if head is None else head.next_offset
            raise CannotTrim(
                f"{name} has decided shard {told.shard} up to offset {told.next_offset}, and the"
                f" log is at {at}: it still has to decide what would be deleted"
            )
        if told.offset_base != head.offset_base:
            raise CannotTrim(
                f"{name} is of another life of the topic than shard {told.shard} has since"
                " `exchange adopt-topic`: its offsets do not tell what this log has decided. Take"
                " a new backup, and name how many to keep by --keep"
            )


def _cut(shard: int, span: tuple[int, int], all_heads: Iterable[Mapping[int, ShardHead]]) -> Cut:
    """Cut before what the earliest head wants; one that does not know the shard wants all."""
    begin, end = span
    known = [heads.get(shard) for heads in all_heads]
    firsts = [0 if head is None else head.first_wanted for head in known]
    return Cut(shard, begin, max(begin, min(*firsts, end)))


async def quarantined(
    connection: asyncpg.Connection, topic_id: str, cuts: Iterable[Cut]
) -> list[tuple[int, int]]:
    """Return the locations of quarantined records that would be deleted and were never retried."""
    found: list[tuple[int, int]] = []
    for cut in cuts:
        rows = await connection.fetch(READ_QUARANTINED, cut.shard, topic_id, cut.begin, cut.first)
        names = {
            command_claim(retry_command_id(cut.shard, row["kafka_offset"])): row["kafka_offset"]
            for row in rows
        }
        retried = {claim.name for claim in await read_claims(connection, list(names))}
        found += [(cut.shard, offset) for name, offset in names.items() if name not in retried]
    return found


async def delete(settings: Settings, cuts: Sequence[Cut]) -> dict[int, int]:
    """Delete the records, and return where each partition begins then.

    Raises:
        KafkaException: Kafka refused or did not answer; some partitions may have been cut.
    """
    return await asyncio.to_thread(_delete, settings, cuts)


def _delete(settings: Settings, cuts: Sequence[Cut]) -> dict[int, int]:
    admin = AdminClient(
        {"bootstrap.servers": settings.kafka_bootstrap_servers}, logger=client_logger
    )
    asked = [TopicPartition(settings.kafka_topic, cut.shard, cut.first) for cut in cuts]
    answers: Mapping[TopicPartition, Future[DeletedRecords]] = admin.delete_records(
        asked, request_timeout=DELETE_S, operation_timeout=DELETE_S
    )
    return {where.partition: answer.result().low_watermark for where, answer in answers.items()}
