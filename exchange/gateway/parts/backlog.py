"""Whether commands get decided: how far the log has come with the commands in Kafka.

Kafka and Postgres stay well while a matcher is dead, or dies again and again. It shows only in the
next offset to decide, which stands still although there are commands from there on. ``measure``
watches for that. ``settle`` waits until every command that is in Kafka now is decided, so that "not
found" is never said of a command on its way. ``check_readable`` refuses commands that an older
matcher could not read.

``measure`` and ``settle`` read the decided offsets first and the ends of the partitions after. So a
partition that ends before its decided offset has lost commands, and cannot tell which commands are
on their way. It takes no new command: one would wait until the topic is adopted.

``check_room`` refuses what a shard's matcher is too far behind for, by the last measurement. It
takes cancels longer than orders.

All waiting requests share their questions: however many they are, they hold one thread and one
connection, and the health probe does not wait behind them.

Offsets here are the log's: an offset in Kafka plus a base, which a topic gets when it is adopted.
``learn_bases`` is called before each command, so no location is made from an unread base.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.commands import ClientCommand, PlaceOrder
from exchange.gateway.http.problems import Code, Problem, invalid, telling
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import log_connection
from exchange.log.reader import NOTHING_DECIDED, Progress, read_progress, read_readable
from exchange.transport.commands import CommandProducer, EndsUnknown
from exchange.waiting import Shared

logger = logging.getLogger(__name__)

LOST: Final = (
    "Kafka has lost commands that were decided: an operator restores the topic, or goes on without"
    " them by `exchange adopt-topic`."
)
UNDECIDED_ORDERS_MAX: Final = 5_000  # a matcher decides so many in less than a second
UNDECIDED_MAX: Final = 10_000  # anything but orders: a cancel lowers a risk, so it is taken longer
STALLED_AFTER_S: Final = 3.0  # a batch takes milliseconds, a restart about two seconds
SETTLE_WAIT_S: Final = 1.0
SETTLE_POLL_S: Final = 0.02


class Backlog:
    """The distance between the ends of the partitions and what is decided of them."""

    def __init__(
        self, engine: AsyncEngine, producer: CommandProducer, shards: int, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._producer = producer
        self._decided = Shared(self._read_decided)
        self._ends = Shared(partial(producer.end_offsets, range(shards)))
        # By shard: the base, which is added to an offset in Kafka. None until it was read once.
        self._bases: Mapping[int, int] | None = None
        self._cut: frozenset[int] = frozenset()
        self._shards = range(shards)
        self._metrics = metrics
        self._standing: dict[int, tuple[int, float]] = {}  # by shard: next offset, unchanged since
        self.stalled: dict[int, bool] = {}
        self._reads: Mapping[int, int] = {}
        self._undecided: dict[int, int] = {}  # by shard; empty while nothing is known

    async def measure(self) -> None:
        """Find out which shards stand still although they have commands to decide.

        Raises:
            Problem: Postgres does not answer.
            ConnectionError: Kafka does not answer, or has too few partitions.
        """
        decided = await self._decided.ask()
        self._reads = await self._read_readable()
        try:
            ends = self._of_log(await self._ends.ask(), decided)
        except EndsUnknown as error:
            known = self._of_log(error.known, decided)
            self._cut = (self._cut - known.keys()) | _cut(known, decided)
            self._learn_nothing()
            raise
        self._cut = _cut(ends, decided)
        self._undecided = {s: end - _following(decided, s) for s, end in ends.items()}
        now_s = time.monotonic()
        for shard, end in ends.items():
            following = _following(decided, shard)
            self._metrics.undecided.labels(str(shard)).set(self._undecided[shard])
            stands_s = self._stands_for_s(shard, following, end, now_s)
            if end < following and not self.stalled.get(shard):
                logger.error(
                    "Kafka ends before what was decided: the topic was recreated or cut",
                    extra={"shard": shard, "end": end, "decided": following},
                )
            self.stalled[shard] = end < following or stands_s > STALLED_AFTER_S

    def check_readable(self, shard: int, version: int) -> None:
        """Refuse a command of a version that the shard's matcher, when last asked, could not read.

        Raises:
            Problem: 503, only a matcher of a newer build reads the command.
        """
        reads = self._reads.get(shard, 1)
        if version > reads:
            detail = (
                f"The command is of version {version} and the matcher reads up to {reads}: nothing"
                " was sent. Leave out what is new, or try again after the upgrade."
            )
            raise Problem(Code.MATCHER_OLDER, detail, outcome="none")

    def forget(self) -> None:
        """Drop all measurements: with a service away, nothing is known of the matchers."""
        self._standing.clear()
        self.stalled.clear()
        self._undecided.clear()

    async def settle(self) -> None:
        """Wait until every command that is in Kafka now, or on its way from here, is decided.

        Raises:
            Problem: 503, some were not decided in time, or Kafka or Postgres does not answer.
        """
        try:
            async with asyncio.timeout(SETTLE_WAIT_S):
                await self._producer.confirmed()
        except TimeoutError as error:
            raise Problem(Code.READ_STALE, "Earlier commands are not in Kafka yet.") from error
        decided, ends = await self._measured()
        deadline_s = time.monotonic() + SETTLE_WAIT_S
        while any(_following(decided, shard) < end for shard, end in ends.items()):
            if time.monotonic() >= deadline_s:
                raise Problem(Code.READ_STALE, "Earlier commands are not decided yet.")
            await asyncio.sleep(SETTLE_POLL_S)
            decided = await self._decided.ask()

    async def is_waiting(self, shard: int, offset: int) -> bool:
        """Tell whether Kafka has a command at a location that is not decided yet.

        While Kafka does not answer, the answer is yes: locations come from Kafka, so it had a
        command there.

        Raises:
            Problem: 422, there is no such shard; 503, Kafka has lost commands.
        """
        decided = await self._decided.ask()
        if shard not in self._shards and shard not in decided:
            raise invalid("at", f"there is no shard {shard}")
        if offset < _following(decided, shard):
            return False
        try:
            ends = self._of_log(await self._ends.ask(), decided)
        except ConnectionError:
            return True
        _check_kept(ends, decided)
        return offset < ends.get(shard, offset + 1)

    async def is_of_former_life(self, shard: int, offset: int) -> bool:
        """Tell whether the topic was adopted after the command at this location was sent.

        Such a command is lost if it is not in the log once everything is decided.

        Raises:
            Problem: 503, Postgres does not answer.
        """
        return offset < (await self._decided.ask()).get(shard, NOTHING_DECIDED).first_offset

    async def has_former_lives(self) -> bool:
        """Tell whether the topic was ever adopted on any shard.

        Raises:
            Problem: 503, Postgres does not answer.
        """
        return any(p.offset_base > 0 for p in (await self._decided.ask()).values())

    async def learn_bases(self) -> None:
        """Read the base of each shard's offsets, unless that was done before.

        Raises:
            Problem: 503, Postgres does not answer; nothing was sent.
        """
        if self._bases is None:
            with telling(outcome="none"):
                await self._decided.ask()

    def check_whole(self, shard: int) -> None:
        """Refuse commands for a partition that has lost some that were decided.

        Raises:
            Problem: 503; nothing was sent.
        """
        if shard in self._cut:
            raise Problem(Code.KAFKA_UNAVAILABLE, f"Nothing was sent: {LOST}", outcome="none")

    def check_room(self, shard: int, command: ClientCommand) -> None:
        """Refuse a command for a matcher that, when last asked, had too many to decide.

        Raises:
            Problem: 503; nothing was sent.
        """
        undecided = self._undecided.get(shard, 0)
        if undecided > (UNDECIDED_ORDERS_MAX if isinstance(command, PlaceOrder) else UNDECIDED_MAX):
            detail = f"{undecided:,} commands of shard {shard} wait already; nothing was sent."
            raise Problem(Code.BUSY, detail, outcome="none")

    def offset_of_log(self, shard: int, offset: int) -> int:
        """Return the log's offset of a record in Kafka; ``learn_bases`` was called before."""
        assert self._bases is not None, "a location would be told with an unknown base"
        return self._bases.get(shard, 0) + offset

    async def _measured(self) -> tuple[dict[int, Progress], dict[int, int]]:
        """Return what is decided, and where the partitions end: no end is before what is decided.

        Raises:
            Problem: 503, Kafka does not answer, or has lost commands.
        """
        decided = await self._decided.ask()
        try:
            ends = self._of_log(await self._ends.ask(), decided)
        except ConnectionError as error:
            raise Problem(Code.KAFKA_UNAVAILABLE, str(error)) from error
        _check_kept(ends, decided)
        return decided, ends

    def _of_log(self, ends: Mapping[int, int], decided: dict[int, Progress]) -> dict[int, int]:
        """Return the ends of partitions as offsets of the log."""
        return {s: decided.get(s, NOTHING_DECIDED).offset_base + end for s, end in ends.items()}

    def _learn_nothing(self) -> None:
        """Let all shards count as standing still: Kafka answers the probe but reports no ends."""
        self._undecided.clear()
        now_s = time.monotonic()
        for shard in self._shards:
            _, since_s = self._standing.setdefault(shard, (-1, now_s))
            self.stalled[shard] = now_s - since_s > STALLED_AFTER_S

    def _stands_for_s(self, shard: int, following: int, end: int, now_s: float) -> float:
        offset, since_s = self._standing.get(shard, (-1, now_s))
        if following != offset or following >= end:
            offset, since_s = following, now_s
        self._standing[shard] = (offset, since_s)
        return now_s - since_s

    async def _read_readable(self) -> dict[int, int]:
        async with log_connection(self._engine) as connection:
            return await read_readable(connection)

    async def _read_decided(self) -> dict[int, Progress]:
        async with log_connection(self._engine) as connection:
            decided = await read_progress(connection)
        self._bases = {shard: progress.offset_base for shard, progress in decided.items()}
        return decided


def _check_kept(ends: dict[int, int], decided: dict[int, Progress]) -> None:
    if any(end < _following(decided, shard) for shard, end in ends.items()):
        raise Problem(Code.KAFKA_UNAVAILABLE, LOST)


def _cut(ends: Mapping[int, int], decided: dict[int, Progress]) -> frozenset[int]:
    """Return the shards whose partitions end before what was decided."""
    return frozenset(shard for shard, end in ends.items() if end < _following(decided, shard))


def _following(decided: dict[int, Progress], shard: int) -> int:
    return decided.get(shard, NOTHING_DECIDED).next_offset
