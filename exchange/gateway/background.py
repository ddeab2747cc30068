"""What belongs to no request: the producer, the ear for outcomes, the health probe.

None of them ends by itself. One that does leaves a gateway that answers wrongly or
late for ever, so ``failed`` tells the server to stop and the process to end; whoever
supervises it starts another.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exchange.gateway.parts.context import Gateway
from exchange.gateway.stream.endpoint import Stream
from exchange.transport.commands import CommandProducer
from exchange.transport.outcomes import OutcomeSubscriber
from exchange.waiting import any_set

logger = logging.getLogger(__name__)


class Background:
    """The tasks of one gateway; ``failure`` is the error of the first task that failed."""

    def __init__(self, gateway: Gateway, producer: CommandProducer, stream: Stream) -> None:
        self._gateway = gateway
        self._stream = stream
        self._producer = producer
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all of them, from the first probe on, until the context ends."""
        submitter, health = self._gateway.submitter, self._gateway.health
        subscriber = OutcomeSubscriber(
            self._gateway.own_redis, submitter.gateway_id, submitter.heard
        )
        # Not awaited: with Kafka away it takes long, and reads can be served meanwhile.
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._producer.start(),
                subscriber.run(),
                health.run(),
                self._stream.beat(),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._note)
        try:
            await any_set(self._gateway.health.first_probe, self.failed)
            logger.info("Gateway is ready", extra={"gateway": submitter.gateway_id})
            yield
        finally:
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
