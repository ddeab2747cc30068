"""What Kafka has of each shard, against how far a log has decided it."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.tools.operators.backups.manifests import ShardHead
from exchange.transport.commands import KafkaCommandLog, below_first

ADOPT: Final = "`exchange adopt-topic` lets the log go on with what Kafka has"


class Topic(Struct, frozen=True):
    """The topic as it is now: its id, and where each partition begins and ends."""

    topic_id: str
    spans: dict[int, tuple[int, int]]


class Following(Struct, frozen=True):
    """What Kafka has for a shard after a head; ``problem`` says why a matcher cannot go on.

    Offsets are Kafka's.
    """

    shard: int
    next_record: int
    begin: int
    end: int
    problem: str | None = None

    @property
    def to_decide(self) -> int:
        """How many records a matcher would decide."""
        return 0 if self.problem is not None else self.end - self.next_record


async def read_topic(settings: Settings) -> Topic:
    """Ask Kafka for the topic and its partitions.

    Raises:
        CommandLogLost: Kafka does not answer, or has no such topic.
        KafkaException: It fails.
    """
    topic = (settings.kafka_bootstrap_servers, settings.kafka_topic)
    async with KafkaCommandLog(*topic, Shard(0)) as commands:
        topic_id, partitions = await commands.topic_id(), await commands.partitions()
    spans: dict[int, tuple[int, int]] = {}
    for shard in range(partitions):
        async with KafkaCommandLog(*topic, Shard(shard)) as commands:
            spans[shard] = await commands.span()
    return Topic(topic_id, spans)


def following(heads: Mapping[int, ShardHead], topic: Topic) -> list[Following]:
    """Tell of each shard of the log and of the topic what Kafka has after its head."""
    return [_following(shard, heads.get(shard), topic) for shard in sorted({*heads, *topic.spans})]


def _following(shard: int, head: ShardHead | None, topic: Topic) -> Following:
    base = 0 if head is None else head.offset_base
    next_record = 0 if head is None else head.next_record
    begin, end = topic.spans.get(shard, (0, 0))
    problem: str | None = None
    if shard not in topic.spans:
        problem = f"shard {shard}: the topic has no partition of it. `exchange prepare` adds it."
    elif head is not None and head.topic_id != topic.topic_id:
        problem = f"shard {shard}: the topic is another one than that of the backup. {ADOPT}."
    elif next_record < begin:
        problem = f"{below_first(shard, base + next_record, base + begin)} Otherwise {ADOPT}."
    elif next_record > end:
        problem = (
            f"shard {shard}: it was decided up to offset {base + next_record - 1}, and Kafka ends"
            f" at {base + end}. {ADOPT}."
        )
    return Following(shard, next_record, begin, end, problem)
