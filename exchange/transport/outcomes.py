"""The way back: outcomes from the matcher to the gateway that waits, through Redis.

A hint, never the truth: pub/sub forgets what nobody hears, and a gateway that
hears nothing looks its commands up in the log. So neither side ever waits for
the other here.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from exchange.transport.messages import OutcomeMessage, decode_outcomes
from exchange.waiting import heed_cancellation

logger = logging.getLogger(__name__)

RECONNECT_FIRST_S: Final = 0.1
RECONNECT_MAX_S: Final = 2.0  # Redis counts as healed within a few seconds of its return
LISTEN_S: Final = 5.0  # a connection that is silent for this long is sent a ping
SILENT_ROUNDS_MAX: Final = 2  # the answer to the ping must come within the second


def channel(gateway: str) -> str:
    """Name the channel that a gateway listens on."""
    return f"outcomes:{gateway}"


class RedisOutcomes:
    """Publishes outcomes: an ``OutcomeChannel``."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def publish(self, gateway: str, message: bytes) -> None:
        await self._redis.publish(channel(gateway), message)


class OutcomeSubscriber:
    """Hands each message for one gateway to ``on_message``, reconnecting for ever."""

    def __init__(
        self, redis: "Redis", gateway: str, on_message: Callable[[OutcomeMessage], None]
    ) -> None:
        self._redis = redis
        self._gateway = gateway
        self._on_message = on_message
        self.subscribed = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        delay_s = RECONNECT_FIRST_S
        told = False
        while True:
            heed_cancellation()  # also after an error: the client may have dropped it before
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                if self.subscribed.is_set():
                    delay_s, told = RECONNECT_FIRST_S, False
                if not told:
                    told = True
                    logger.warning(
                        "The outcomes channel is away; answers come from the log meanwhile",
                        extra={"error": str(error)},
                    )
            self.subscribed.clear()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RECONNECT_MAX_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(channel(self._gateway))
            silent_rounds = 0
            while True:
                message = await subscription.get_message(timeout=LISTEN_S)
                heed_cancellation()
                silent_rounds = silent_rounds + 1 if message is None else 0
                if silent_rounds == SILENT_ROUNDS_MAX:
                    raise ConnectionError("Redis is silent, even to a ping")
                if message is None:
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    self.subscribed.set()
                elif message["type"] == "message":
                    self._take(message["data"])

    def _take(self, data: bytes) -> None:
        try:
            message = decode_outcomes(data)
        except ValueError as error:
            # Of another version, or from anybody: its outcomes are found in the log.
            logger.warning("An outcomes message is unreadable", extra={"error": str(error)})
            return
        self._on_message(message)
