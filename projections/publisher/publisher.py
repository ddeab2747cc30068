"""Sends every event of the log to the topic, exactly once by position.

Read ``ShardPublisher``. Each shard is published on its own: it opens its partition, which fences an
earlier publisher, goes on after the last record that is committed there, and writes what is new in
transactions. After an error it begins again by opening the partition, so a process that is killed
anywhere is no other case than one that lost its connection.

A shard whose partition does not go with the log stands still, says so in ``publications``, and
looks again now and then. Generations of read models are no matter of the topic.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from confluent_kafka import KafkaException
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.documents.document import Documents
from exchange.log.events import UnknownEvent
from exchange.log.reader import read_events, read_log_id, read_registrations, read_traces
from exchange.ports import LogCorrupt, StoredEvent
from exchange.waiting import heed_cancellation, is_set_within
from projections.projector.tail import listen
from projections.publisher import published
from projections.publisher.metrics import PublisherMetrics
from projections.publisher.partition import Partition, is_fenced
from projections.publisher.records import NotOurs, Record, records_of
from projections.publisher.standing import CannotPublish, check_standing, is_foreign
from projections.publisher.topic import admin_of, describe, prepare_topic
from projections.stores.failures import Outage, is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVENTS_MAX: Final = 2_000  # of one transaction: some 2 MB, and a tenth of a second
# The least time between two transactions that are not full. However small, one asks Kafka five
# times and PostgreSQL twice.
PACE_S: Final = 0.5
POLL_S: Final = 1.0  # a notification may be lost
LOOK_AGAIN_S: Final = 30.0  # at a topic that does not go with the log


class Publisher:
    """All shards of a process."""

    def __init__(
        self,
        engine: AsyncEngine,
        bootstrap_servers: str,
        topic: str,
        shards: int,
        *,
        allow_unsafe: Collection[str] = (),
        metrics: PublisherMetrics | None = None,
    ) -> None:
        self._engine = engine
        metrics = metrics or PublisherMetrics()
        self._shards = [
            ShardPublisher(
                engine,
                bootstrap_servers,
                topic,
                shard,
                shards=shards,
                allow_unsafe=allow_unsafe,
                metrics=metrics,
            )
            for shard in range(shards)
        ]

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen(self._engine, self._wake), name="listen for events")
            for one in self._shards:
                tasks.create_task(one.run(), name=f"publish shard {one.shard}")

    def _wake(self, shard: int) -> None:
        if shard < len(self._shards):
            self._shards[shard].news.set()


class ShardPublisher:
    """Publishes one shard's log."""

    def __init__(
        self,
        engine: AsyncEngine,
        bootstrap_servers: str,
        topic: str,
        shard: int,
        *,
        shards: int,
        allow_unsafe: Collection[str],
        metrics: PublisherMetrics,
    ) -> None:
        self.shard = shard
        self.news = asyncio.Event()
        self._engine = engine
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._shards = shards
        self._allow_unsafe = allow_unsafe
        self._metrics = metrics
        self._admin = admin_of(bootstrap_servers)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"publish-{shard}")
        self._topic_id = ""
        self._told = ""  # why it stands still, as last logged
        self._fields = {"shard": shard, "topic": topic}
        self._outage = Outage("The publisher", self._fields)
        metrics.stopped.labels(str(shard)).set(0)

    async def run(self) -> None:
        """Publish until cancelled, whatever fails meanwhile."""
        try:
            while True:
                heed_cancellation()
                await self._attempt()
        finally:
            self._thread.shutdown(wait=False)

    async def _attempt(self) -> None:
        try:
            await self._publish()
        except (CannotPublish, UnknownEvent, LogCorrupt) as error:
            await self._stand_still(str(error))
        except Exception as error:
            if is_fenced(error):
                logger.warning("Another publisher took over: let only one run", extra=self._fields)
                await asyncio.sleep(LOOK_AGAIN_S)
            elif isinstance(error, KafkaException) or is_store_failure(error):
                await self._outage.wait(error)
            else:
                raise

    async def _publish(self) -> None:
        """Open the partition and write what it lacks, for ever."""
        log_id = await self._until_begun()
        self._topic_id = await self._prepare_topic()
        partition = Partition(self._bootstrap_servers, self._topic, self.shard)
        try:
            await self._in_thread(partition.open)
            position, chain = await self._place(partition, log_id)
            await self._execute(published.BEGIN, position)
            self._goes_on(position)
            async with driver_connection(self._engine) as driver:
                documents = Documents(await read_registrations(driver, self.shard, up_to=position))
            ahead: list[StoredEvent] = []
            while True:
                began_s = time.monotonic()
                events = ahead or await self._next_events(position)
                traces = await self._traces(events)
                records, chain = records_of(log_id, events, documents, chain, traces)
                position = events[-1].position
                await self._check_topic()
                with self._metrics.commit_seconds.time():
                    ahead = await self._commit(partition, records, position)
                await self._check_topic()  # again: it may have been made anew in between
                await self._execute(published.ADVANCE, position)
                self._metrics.events.labels(str(self.shard)).inc(len(events))
                self._metrics.position.labels(str(self.shard)).set(position)
                if len(events) < EVENTS_MAX:
                    await asyncio.sleep(max(0.0, began_s + PACE_S - time.monotonic()))
        finally:
            await self._in_thread(partition.close)

    async def _until_begun(self) -> str:
        """Return the log's id, which its first matcher gives it."""
        while True:
            async with driver_connection(self._engine) as driver:
                log_id = await read_log_id(driver)
            if log_id is not None:
                return log_id
            await self._wait_for_news()

    async def _prepare_topic(self) -> str:
        async with driver_connection(self._engine) as driver:
            was_published = await driver.fetchval(published.READ_ANY, self._topic)
        return await self._in_thread(
            lambda: prepare_topic(
                self._admin,
                self._topic,
                self._shards,
                was_published=was_published,
                allow_unsafe=self._allow_unsafe,
            )
        )

    async def _place(self, partition: Partition, log_id: str) -> tuple[int, bytes]:
        try:
            ends = await self._in_thread(partition.ends)
        except NotOurs as error:
            raise is_foreign(self._topic, self.shard, str(error)) from error
        async with driver_connection(self._engine) as driver:
            told = await driver.fetchval(published.READ, self._topic, self.shard)
            return await check_standing(
                driver, self._topic, self.shard, ends, log_id=log_id, published=told or 0
            )

    async def _commit(
        self, partition: Partition, records: list[Record], position: int
    ) -> list[StoredEvent]:
        """Commit the records up to a position; if there is more to do, return the events after."""
        committing = self._in_thread(partition.commit, records)
        if len(records) < EVENTS_MAX:
            await committing
            return []
        _, ahead = await asyncio.gather(committing, self._read(position))
        return ahead

    async def _next_events(self, position: int) -> list[StoredEvent]:
        """Return the events after a position, as soon as there are any."""
        while True:
            self.news.clear()
            events = await self._read(position)
            if events:
                return events
            await self._wait_for_news()

    async def _read(self, position: int) -> list[StoredEvent]:
        """Return the events after a position that fit into one transaction.

        Raises:
            LogCorrupt: One is missing.
        """
        end = position + EVENTS_MAX
        async with driver_connection(self._engine) as driver:
            events = await read_events(
                driver, self.shard, after=position, up_to=end, limit=EVENTS_MAX
            )
        if events and events[-1].position != position + len(events):
            raise LogCorrupt(
                f"shard {self.shard}: an event soon after position {position} is missing"
            )
        return events

    async def _traces(self, events: list[StoredEvent]) -> dict[int, str]:
        """Return the contexts of the sampled commands among those that caused some events."""
        after, up_to = events[0].position - 1, events[-1].position
        async with driver_connection(self._engine) as driver:
            return await read_traces(driver, self.shard, after=after, up_to=up_to)

    async def _wait_for_news(self) -> None:
        await is_set_within(self.news, POLL_S)
        heed_cancellation()

    async def _check_topic(self) -> None:
        """Check that the topic is still the one that was opened: the client writes to another too.

        Raises:
            ConnectionError: It was made anew, or is gone; opening it again tells which.
        """
        described = await self._in_thread(describe, self._admin, self._topic)
        if described is None or str(described.topic_id) != self._topic_id:
            raise ConnectionError(f"topic {self._topic} is not the one that was opened")

    async def _stand_still(self, why: str) -> None:
        if why != self._told:
            logger.critical("A shard is not published", extra={**self._fields, "error": why})
            self._told = why
        self._metrics.stopped.labels(str(self.shard)).set(1)
        try:
            async with driver_connection(self._engine) as driver:
                await driver.execute(published.FAIL, self._topic, self.shard, why)
        except Exception as error:
            if not is_store_failure(error):
                raise
        await asyncio.sleep(LOOK_AGAIN_S)

    def _goes_on(self, position: int) -> None:
        self._told = ""
        self._outage.over()
        self._metrics.stopped.labels(str(self.shard)).set(0)
        self._metrics.position.labels(str(self.shard)).set(position)
        logger.info("Publishing goes on", extra={**self._fields, "position": position})

    async def _execute(self, statement: str, position: int) -> None:
        async with driver_connection(self._engine) as driver:
            await driver.execute(statement, self._topic, self.shard, position)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
