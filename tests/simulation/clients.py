"""Careful clients and their gateway: they send, wait, ask the log, and send again.

Everything is scarce on purpose: a few prices, clients, keys and order ids, so that resends,
conflicts, crosses and taken ids happen all the time. ``Request`` is the history: the location of a
command, and its outcome as heard by message or from the log.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from uuid import UUID

import msgspec

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    ClientCommand,
    CloseSettlementCycle,
    CreateAccount,
    LimitOpenOrders,
    PlaceOrder,
    ResumeClient,
    SuspendClient,
)
from exchange.domain.values import Offset, OrderType, Price, Quantity, Side
from exchange.log.identity import body_hash, command_claim, is_keyed, keyed_command_id
from exchange.transport.messages import Outcome, decode_outcomes, encode_command, reply_address
from tests.builders import issue, revoke, rotate
from tests.fakes import Link, MemoryDatabase, MemoryOutcomes, MemoryTopic

GATEWAY = "g"
PRICES = [98, 99, 100, 101]
KEYS = 6
CHOSEN_ORDER_IDS = 8
KEY_IDS = 8
SIGNER = b"ab" * 16  # of a third of the commands
HEAR_S = 0.5  # then the log is asked
ASK_AGAIN_S = 0.3


@dataclass
class Answer:
    """What somebody was told of the command at an offset."""

    offset: int
    events: list[bytes]
    first: int | None
    conflict: bool


@dataclass
class Request:
    """A command and all that its client knows of it."""

    command: ClientCommand
    command_id: UUID
    offset: Offset | None = None
    answers: list[Answer] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: bool = False  # without a key it cannot be sent again


class Gateway:
    """Puts commands into the topic and takes outcomes; it is never killed, only cut off."""

    def __init__(
        self, topic: MemoryTopic, database: MemoryDatabase, channel: MemoryOutcomes, link: Link
    ) -> None:
        self.requests: list[Request] = []
        self.late: list[Answer] = []
        self.premature: list[Answer] = []  # heard of before it was durable
        self._topic = topic
        self._database = database
        self._link = link
        self._waiting: list[Request] = []
        channel.listen(GATEWAY, self._hear)

    async def resolve(self, request: Request) -> None:
        """Send a command until its outcome is known, or give up one that has no key."""
        self.requests.append(request)
        self._waiting.append(request)
        waiter = len(self._waiting) - 1
        while not await self._send(request, waiter):
            if not is_keyed(request.command_id):
                request.given_up = True
                return
            await asyncio.sleep(ASK_AGAIN_S)
        while not request.answers:
            try:
                async with asyncio.timeout(HEAR_S):
                    await request.heard.wait()
            except TimeoutError:
                await self._ask(request)

    async def _send(self, request: Request, waiter: int) -> bool:
        put = partial(
            self._topic.produce,
            encode_command(request.command),
            command_id=request.command_id.bytes,
            reply_to=reply_address(GATEWAY, waiter),
            key_id=SIGNER if request.command_id.int % 3 == 0 else None,
        )
        try:
            request.offset = await self._link.call("produce", put)
        except ConnectionError:
            return bool(request.answers)  # unknown, but for what was heard of it meanwhile
        return True

    async def _ask(self, request: Request) -> None:
        try:
            found = await self._link.call("ask", lambda: self._look_up(request))
        except ConnectionError:
            await asyncio.sleep(ASK_AGAIN_S)
            return
        if found is not None:
            request.answers.append(found)

    def _look_up(self, request: Request) -> Answer | None:
        head, offset = self._database.heads.get(0), request.offset
        if head is None or offset is None or head.next_offset <= offset:
            return None
        stored = [e for e in self._database.events.get(0, []) if e.kafka_offset == offset]
        if stored:
            return Answer(offset, [e.data.encode() for e in stored], None, False)
        holder = self._database.claims[command_claim(request.command_id)]
        conflict = holder.body_hash != body_hash(request.command)
        return Answer(offset, [], holder.kafka_offset, conflict)

    def _hear(self, data: bytes) -> None:
        head = self._database.heads[0]
        for outcome in decode_outcomes(data).outcomes:
            if outcome.offset >= head.next_offset:
                self.premature.append(_answer(outcome))
            self._take(self._waiting[outcome.waiter], _answer(outcome))

    def _take(self, request: Request, answer: Answer) -> None:
        if request.offset is not None and answer.offset != request.offset:
            self.late.append(answer)  # of an earlier attempt
            return
        request.answers.append(answer)
        request.heard.set()


def _answer(outcome: Outcome) -> Answer:
    first = None if outcome.first is None else outcome.first[1]
    events = [bytes(event) for event in outcome.events]
    return Answer(outcome.offset, events, first, outcome.conflict)


async def trade(name: str, gateway: Gateway, chance: Random, commands: int) -> None:
    """Be one client: one command after the other, now and then an earlier one again."""
    sent: list[Request] = []
    for _ in range(commands):
        if sent and chance.random() < 0.15:
            again = chance.choice(sent)
            request = Request(again.command, again.command_id)
        else:
            request = Request(_command(name, chance), _command_id(name, chance))
        if is_keyed(request.command_id):
            sent.append(request)
        await gateway.resolve(request)
        await asyncio.sleep(chance.choice([0.0, 0.01, 0.2]))


def _command_id(client: str, chance: Random) -> UUID:
    if chance.random() < 0.3:
        return UUID(int=(7 << 76) | (2 << 62) | chance.getrandbits(62))
    if chance.random() < 0.5:
        return keyed_command_id(client, f"key-{chance.randrange(KEYS)}")
    return keyed_command_id(client, f"key-{chance.getrandbits(62)}")


def _command(client: str, chance: Random) -> ClientCommand:
    makers: list[Callable[[str, Random], ClientCommand]] = [
        _place,
        _cancel,
        _close_cycle,
        _limit,
        _cancel_all,
        _suspend_or_resume,
        _about_key,
    ]
    return chance.choices(makers, [20, 5, 2, 1, 1, 1, 1])[0](client, chance)


def _place(client: str, chance: Random) -> PlaceOrder:
    order_id = f"order-{chance.randrange(CHOSEN_ORDER_IDS)}"
    if chance.random() < 0.7:
        order_id = f"{chance.getrandbits(128):032x}-BTC-USD"
    market = chance.random() < 0.2
    return PlaceOrder(
        order_id,
        client,
        "BTC-USD",
        chance.choice([Side.BUY, Side.SELL]),
        OrderType.MARKET if market else OrderType.LIMIT,
        None if market else Price(chance.choice(PRICES)),
        Quantity(chance.choice([1, 2, 3, 5])),
    )


def _cancel(client: str, chance: Random) -> CancelOrder:
    order_id = f"order-{chance.randrange(CHOSEN_ORDER_IDS)}"
    return CancelOrder(order_id, "BTC-USD", chance.choice([None, client]))


def _close_cycle(_client: str, chance: Random) -> CloseSettlementCycle:
    return CloseSettlementCycle(chance.randrange(1, 6))


def _limit(_client: str, chance: Random) -> LimitOpenOrders:
    return LimitOpenOrders(chance.choice([1, 3, 100]))


def _cancel_all(client: str, chance: Random) -> CancelAllOrders:
    side = chance.choice([None, Side.BUY, Side.SELL])
    return CancelAllOrders(client, chance.choice([None, "BTC-USD"]), side, chance.choice([None, 9]))


def _suspend_or_resume(client: str, chance: Random) -> SuspendClient | ResumeClient:
    return SuspendClient(client) if chance.random() < 0.4 else ResumeClient(client)


def _about_key(client: str, chance: Random) -> ClientCommand:
    key, new = chance.randrange(KEY_IDS), chance.randrange(KEY_IDS)
    some = (
        CreateAccount(client),
        msgspec.structs.replace(issue(key), client_id=client),
        rotate(key, new, overlap_ms=chance.choice([0, 500])),
        revoke(key),
    )
    return chance.choice(some)
