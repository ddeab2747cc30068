"""The tasks that belong to no request: producer, listener for outcomes, health probe, heartbeat.

None of them ends by itself. Without one of them the gateway would answer wrongly or late for ever,
so when one dies ``failed`` ends the server and with it the process, which its supervisor starts
again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exchange.door.keys import Keys
from exchange.gateway.parts.context import Gateway
from exchange.gateway.stream.endpoint import Stream
from exchange.transport.commands import CommandProducer
from exchange.transport.outcomes import OutcomeSubscriber
from exchange.waiting import any_set

logger = logging.getLogger(__name__)


class Background:
    """The tasks of one gateway; ``failure`` is the error of the first task that failed."""

    def __init__(
        self,
        gateway: Gateway,
        producer: CommandProducer,
        stream: Stream,
        keys: Keys | None = None,
    ) -> None:
        self._keys = keys
        self._gateway = gateway
        self._stream = stream
        self._producer = producer
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all tasks until the context ends; its body begins after the first health probe."""
        submitter, health = self._gateway.submitter, self._gateway.health
        subscriber = OutcomeSubscriber(
            self._gateway.own_redis, submitter.gateway_id, submitter.heard
        )
        # The start of the producer is not awaited: it takes long while Kafka is away, and reads can
        # be served meanwhile.
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._producer.start(),
                subscriber.run(),
                health.run(),
                self._stream.beat(),
                *([] if self._keys is None else [self._keys.run()]),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._note)
        try:
            await any_set(self._gateway.health.first_probe, self.failed)
            logger.info("Gateway is ready", extra={"gateway": submitter.gateway_id})
            yield
        finally:
            await _cancelled(self._gateway.going_on)
            submitter.stop()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._producer.stop()

    def _note(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        self.failure = self.failure or task.exception()
        logger.critical("Work in the background died", exc_info=task.exception())
        self.failed.set()


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
