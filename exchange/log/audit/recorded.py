"""What batches recorded of a log, and whether events and the next batch agree with it.

Each function raises ``Differs`` with the position of the first event that is concerned. None of
them needs the state; ``verify`` calls them on its walk.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from exchange.log.chain import LINK_BYTES
from exchange.ports import EMPTY_CHAIN, StoredEvent, TopicLife


class Differs(Exception):
    """The log differs from what was recorded, first at ``position``; None: at no event."""

    def __init__(self, position: int | None, problem: str) -> None:
        super().__init__(problem)
        self.position = position


class Recorded(Struct, frozen=True):
    """What a batch recorded at its end; ``links`` is None in logs that are older than links."""

    position: int
    epoch: int
    next_offset: int
    chain: bytes
    state_digest: bytes
    links: bytes | None


NOTHING: Final = Recorded(0, 0, 0, EMPTY_CHAIN, bytes(len(EMPTY_CHAIN)), None)


def check_follows(batch: Recorded, last: Recorded) -> None:
    """Check that a batch follows the one before it, and has a link for each of its events."""
    if batch.links is None:
        if last.links is not None:
            raise Differs(batch.position, "its batch has no links of the chain")
    elif len(batch.links) != (batch.position - last.position) * LINK_BYTES:
        _tell_other_links(batch, last)
    if batch.epoch < last.epoch:
        after = f"after one of epoch {last.epoch}"
        raise Differs(batch.position, f"its batch is of epoch {batch.epoch}, {after}")
    if batch.next_offset <= last.next_offset:
        raise Differs(
            batch.position,
            f"its batch ends at offset {batch.next_offset}, and the one before it at"
            f" {last.next_offset}",
        )


def check_head(next_offset: int, epoch: int, last: Recorded) -> None:
    """Check that the head is where the last batch ended, or further."""
    if next_offset < last.next_offset:
        raise Differs(
            None,
            f"the head's next offset is {next_offset}, and commands below {last.next_offset} are"
            " in the log: they would be decided again",
        )
    if epoch < last.epoch:
        raise Differs(None, f"the head is of epoch {epoch}, after a batch of epoch {last.epoch}")


def check_life(
    lives: Sequence[TopicLife], topic_id: str, offset_base: int, next_offset: int, last: int | None
) -> None:
    """Check that the head is in the newest life of its topic, after the last record decided."""
    if not lives:
        raise Differs(
            None, "the head has no life of a topic, so nothing says what it was decided of"
        )
    newest = lives[-1]
    if (topic_id, offset_base) != (newest.topic_id, newest.offset_base):
        raise Differs(
            None,
            f"the head counts from {offset_base} in topic {topic_id}, and the newest life of the"
            f" shard from {newest.offset_base} in topic {newest.topic_id}",
        )
    if next_offset < newest.first_offset:
        raise Differs(
            None,
            f"the head's next offset is {next_offset}, and the newest life of its topic begins at"
            f" {newest.first_offset}",
        )
    if last is not None and last >= next_offset:
        raise Differs(
            None, f"the head's last record is at {last}, and its next offset is {next_offset}"
        )


def least_offset(batch: Recorded, last: Recorded, lives: Sequence[TopicLife]) -> int:
    """Return the least offset that a batch's commands may have.

    Offsets between two lives of the topic hold no commands, so no batch may end there.
    """
    begun = [life for life in lives if life.first_offset < batch.next_offset]
    following = lives[len(begun) :]
    if following and batch.next_offset > following[0].offset_base:
        raise Differs(
            batch.position,
            f"its batch ends at offset {batch.next_offset}, between two lives of the topic: the"
            f" later one begins at {following[0].first_offset}",
        )
    return max(last.next_offset, begun[-1].first_offset if begun else 0)


def first_events(
    events: Sequence[StoredEvent], before: StoredEvent | None, batch: Recorded, least: int
) -> Iterator[int]:
    """Yield the index of each command's first event, and check that commands are in order.

    ``before`` is the event before ``events``, ``least`` the least offset that these may have.
    """
    least = least if before is None else max(least, before.kafka_offset)
    for index, event in enumerate(events):
        offset = event.kafka_offset
        if offset < least:
            raise Differs(
                event.position,
                f"its Kafka offset is {offset}, and all below {least} was decided or lost",
            )
        if offset >= batch.next_offset:
            raise Differs(
                event.position,
                f"its Kafka offset is {offset}, and its batch ends before {batch.next_offset}",
            )
        if before is None or before.kafka_offset != offset:
            yield index
        elif before.command_id != event.command_id:
            raise Differs(event.position, "the one before it is of another command at its offset")
        before, least = event, offset


def first_changed(links: Sequence[bytes], batch: Recorded, first: int) -> int | None:
    """Return the position of the first of a batch's events whose link is not the recorded one.

    ``first`` is the position of the event that the first link is of.
    """
    if batch.links is None:
        return None
    begin = batch.position - len(batch.links) // LINK_BYTES + 1
    for position, link in enumerate(links, first):
        at = (position - begin) * LINK_BYTES
        if link[:LINK_BYTES] != batch.links[at : at + LINK_BYTES]:
            return position
    return None


def _tell_other_links(batch: Recorded, last: Recorded) -> None:
    size = len(batch.links or b"")
    begin = batch.position - size // LINK_BYTES + 1
    if size % LINK_BYTES == 0 and begin > last.position + 1:
        later = f"the one that ends at {batch.position} begins at {begin}"
        raise Differs(last.position + 1, f"no batch has recorded it: {later}")
    events = batch.position - last.position
    raise Differs(
        batch.position, f"its batch has {size} bytes of links for {events} events of {LINK_BYTES}"
    )
