"""Outcomes on their way to the gateways that wait for them.

``messages_of`` makes few messages of a batch's replies; ``Publisher`` sends them while the matcher
goes on. They are hints: a gateway looks in the log for what is dropped or lost here.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from exchange.domain.engine import State
from exchange.domain.values import Shard, Side
from exchange.ports import OutcomeChannel
from exchange.transport.messages import Depth, Outcome, OutcomeMessage, encode_outcomes
from exchange.waiting import heed_cancellation

logger = logging.getLogger(__name__)

MESSAGE_BYTES_MAX: Final = 256 * 1024  # larger ones stall Redis' other clients
QUEUE_MESSAGES: Final = 200  # some seconds of batches; gateways read dropped outcomes from the log
PUBLISH_TIMEOUT_S: Final = 1.0  # a gateway asks the log after a tenth of that
DEPTH_LEVELS: Final = 20  # the order book in the answer to an order
DEPTH_BYTES_MAX: Final = 2_000  # two sides of 20 levels of two numbers, roughly


class Reply(Struct, frozen=True):
    """An outcome for a gateway, which also shows the book of ``instrument`` if there is one."""

    gateway: str
    outcome: Outcome
    instrument: str | None = None


class Message(Struct, frozen=True):
    """Outcomes of one batch for one gateway, encoded."""

    gateway: str
    data: bytes


def messages_of(shard: Shard, state: State, replies: Sequence[Reply]) -> list[Message]:
    """Return a batch's replies as messages, with each instrument's book once in each."""
    gateways: dict[str, list[Reply]] = {}
    for reply in replies:
        gateways.setdefault(reply.gateway, []).append(reply)
    names = {reply.instrument for reply in replies}
    depths = {name: _depth(state, name) for name in names if name in state.books}
    return [
        Message(gateway, encode_outcomes(_message(shard, part, depths)))
        for gateway, mine in gateways.items()
        for part in _parts(mine)
    ]


class Publisher:
    """Sends one shard's messages in order, so that a slow Redis never holds the matcher up."""

    def __init__(self, shard: Shard, channel: OutcomeChannel, on_drop: Callable[[], None]) -> None:
        self._shard = shard
        self._channel = channel
        self._on_drop = on_drop
        self._messages: asyncio.Queue[Message] = asyncio.Queue(QUEUE_MESSAGES)

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent."""
        return self._messages.qsize()

    def put(self, messages: Sequence[Message]) -> None:
        """Have messages sent, or drop those for which there is no room."""
        for message in messages:
            try:
                self._messages.put_nowait(message)
            except asyncio.QueueFull:
                self._on_drop()
                logger.warning("Dropped outcomes: Redis is too slow", extra=self._where)

    async def run(self) -> None:
        """Send until cancelled."""
        failing = False
        while True:
            message = await self._messages.get()
            try:
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await self._channel.publish(message.gateway, message.data)
                failing = False
            except Exception as error:  # whatever it is, matching must go on without Redis
                if not failing:
                    logger.warning(
                        "Cannot publish outcomes; gateways ask the log",
                        extra={**self._where, "error": repr(error)},
                    )
                failing = True
            self._messages.task_done()
            heed_cancellation()

    async def drained(self) -> None:
        """Wait until all that was put is sent."""
        await self._messages.join()

    @property
    def _where(self) -> dict[str, object]:
        return {"shard": self._shard}


def _message(shard: Shard, replies: Sequence[Reply], depths: dict[str, Depth]) -> OutcomeMessage:
    names = {reply.instrument for reply in replies}
    books = {name: depth for name, depth in depths.items() if name in names}
    return OutcomeMessage(shard, books, [reply.outcome for reply in replies])


def _depth(state: State, instrument: str) -> Depth:
    sides = state.books[instrument].sides
    return Depth(
        state.position,
        sides[Side.BUY].depth(DEPTH_LEVELS),
        sides[Side.SELL].depth(DEPTH_LEVELS),
    )


def _parts(replies: Sequence[Reply]) -> Iterator[list[Reply]]:
    """Split replies so that each message stays near ``MESSAGE_BYTES_MAX``.

    A reply that is larger by itself (an order that swept the book) is left out: the log has it.
    """
    part: list[Reply] = []
    names: set[str] = set()
    size_bytes = 0
    for reply in replies:
        reply_bytes = sum(len(bytes(event)) for event in reply.outcome.events)
        if reply_bytes > MESSAGE_BYTES_MAX:
            continue
        if reply.instrument is not None and reply.instrument not in names:
            reply_bytes += DEPTH_BYTES_MAX
        if part and size_bytes + reply_bytes > MESSAGE_BYTES_MAX:
            yield part
            part, names, size_bytes = [], set(), 0
        part.append(reply)
        size_bytes += reply_bytes
        if reply.instrument is not None:
            names.add(reply.instrument)
    if part:
        yield part
