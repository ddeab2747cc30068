"""Cancelling all open orders of a client, shard by shard and part by part.

Read ``cancel_all``. Each shard gets commands of its own, all at the same time. A command cancels so
many orders at most and its event says how many remain, so parts follow until none does. The parts
after the first are about orders that rested when the first was decided: it ends, however many
orders the client places meanwhile.

The id of a part is made of client, key, shard and number. So a part that is sent again, by this
gateway or by the client with its key, is decided once, and the same request goes on where an
earlier one ended. A request without a key is given one, to be asked again with.

The work goes on after an answer that names shards as pending. It ends when the gateway stops, or
when a shard has decided nothing for ``GO_ON_S``.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from exchange.domain.commands import CancelAllOrders
from exchange.domain.events import CancelAllAccepted
from exchange.domain.values import Id, InstrumentName, Side
from exchange.gateway.http.callers import UNNAMED, of_client
from exchange.gateway.http.problems import Code, Problem, telling
from exchange.gateway.orders.entry import receipt_or_claim, settle_account
from exchange.gateway.parts.admission import Origin, admit
from exchange.gateway.parts.context import Gateway
from exchange.gateway.parts.decisions import Decision, check_accepted, key_conflict
from exchange.gateway.parts.limits import Kind, Receipt
from exchange.gateway.parts.reading import log_connection
from exchange.log.identity import body_hash, cancel_all_command_id, command_claim, uuid7
from exchange.log.reader import read_claims, read_heads

logger = logging.getLogger(__name__)

GOING_ON_MAX: Final = 200  # each has a command of each shard under way
GO_ON_S: Final = 30.0  # a matcher that is killed is replaced within some seconds
AGAIN_S: Final = 0.2  # before a part is sent again that found no matcher, or no Kafka


class CancelAllBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /orders/cancel-all``; as in an order's, the client may be left out."""

    client_id: Id = UNNAMED
    instrument: InstrumentName | None = None
    side: Side | None = None
    idempotency_key: Id | None = None


CANCEL_ALL_BODY: Final = msgspec.json.Decoder(CancelAllBody)


class ShardCancelledView(Struct, frozen=True):
    """What was cancelled on a shard so far; ``command_id`` is that of the newest command."""

    shard: int
    cancelled_orders: int
    remaining_orders: int
    sequence: int
    command_id: str


class AllCancelledView(Struct, frozen=True):
    """What ``POST /orders/cancel-all`` answers; on ``pending`` shards orders may still be open."""

    client_id: str
    instrument: str | None
    side: str | None
    idempotency_key: str
    cancelled_orders: int
    shards: list[ShardCancelledView]
    pending: list[int]


class PartCancelledView(ShardCancelledView, frozen=True):
    """What one of the commands of a cancel of all did."""

    client_id: str
    instrument: str | None
    side: str | None


class AllEntered(Struct, frozen=True):
    """The answer, and whether each of its commands had been decided before."""

    view: AllCancelledView
    resent: bool


@dataclass(slots=True)
class _OnShard:
    """How far a shard is; ``command`` is the next part, ``problem`` why it is not decided.

    ``was_sent`` says that a command may be in Kafka, ``was_tried`` that the next part may be.
    """

    shard: int
    command: CancelAllOrders
    key: str
    key_id: str | None
    parts: int = 0
    cancelled: int = 0
    first: Decision | None = None
    view: ShardCancelledView | None = None
    resent: bool = True
    problem: Problem | None = None
    was_sent: bool = False
    was_tried: bool = False

    @property
    def command_id(self) -> UUID:
        return cancel_all_command_id(self.command.client_id, self.key, self.shard, self.parts)

    @property
    def is_done(self) -> bool:
        return self.view is not None and not self.view.remaining_orders

    @property
    def was_refused(self) -> bool:
        """Whether nothing was sent, and so nothing will be done unless it is asked again."""
        return self.problem is not None and not self.was_sent

    def fail(self, problem: Problem | None = None) -> None:
        """Note that a part is not decided in time, or why it may not even be sent."""
        self.problem = problem
        if problem is None or problem.fields.get("outcome") != "none":
            self.was_sent = self.was_tried = True

    def take(self, decision: Decision) -> None:
        """Note what a part did.

        Raises:
            Problem: The matcher could not decide it.
        """
        part = part_view(decision, self.command_id)
        self.cancelled += part.cancelled_orders
        self.view = ShardCancelledView(
            self.shard, self.cancelled, part.remaining_orders, part.sequence, part.command_id
        )
        if self.first is None:
            self.first = decision
            self.command = replace(self.command, up_to=decision.events[0].position)
        self.resent = self.resent and decision.resent and not self.was_tried
        self.problem, self.was_sent, self.was_tried = None, True, False
        self.parts += 1


async def cancel_all(
    gateway: Gateway, body: CancelAllBody, key: str | None, origin: Origin
) -> AllEntered:
    """Cancel a client's orders, and return when none remains or the time to wait is over.

    Raises:
        Problem: Nothing was sent; or a part cannot be decided, or its key has another request.
    """
    body, key = of_client(origin.caller, body), key or origin.caller.idempotency_key
    receipt = await admit(gateway, Kind.CANCELS, body.client_id, origin)
    with telling(outcome="none"):
        only = None if body.instrument is None else await gateway.own_listings.get(body.instrument)
    known = 0 if only is None else only.shard
    earlier = uuid7() if key is None else cancel_all_command_id(body.client_id, key, known, 0)
    admitted = await receipt_or_claim(gateway, receipt, body.client_id, earlier, origin)
    with telling(outcome="none"):
        numbers = [only.shard] if only is not None else await _written_shards(gateway)
        command = CancelAllOrders(body.client_id, body.instrument, body.side)
        if key is not None:
            await _check_key(gateway, command, key)
    key = key or uuid7().hex
    shards = [_OnShard(shard, command, key, origin.caller.key_id) for shard in numbers]
    await _start(gateway, shards, origin)
    if isinstance(admitted, Receipt) and shards and shards[0].first is not None:
        await settle_account(gateway, admitted, shards[0].first, body.client_id, origin)
    return _entered(body, key, shards)


def part_view(decision: Decision, command_id: UUID) -> PartCancelledView:
    """Return what a command of a cancel of all did.

    Raises:
        Problem: The matcher could not decide it.
    """
    check_accepted(decision, command_id)
    event = decision.first
    assert isinstance(event, CancelAllAccepted), event
    return PartCancelledView(
        decision.events[0].shard,
        event.cancelled_orders,
        event.remaining_orders,
        decision.sequence,
        str(command_id),
        event.client_id,
        event.instrument,
        event.side,
    )


async def _written_shards(gateway: Gateway) -> list[int]:
    """Return the shards whose logs have events; on others nobody can have an order."""
    async with log_connection(gateway.own_engine) as connection:
        heads = await read_heads(connection)
    return sorted(shard for shard, position in heads.items() if position)


async def _check_key(gateway: Gateway, command: CancelAllOrders, key: str) -> None:
    """Refuse a key that another cancel of all used, even on other shards than this one's.

    Raises:
        Problem: 409, it did; nothing was sent. 503, the log cannot be read.
    """
    shards = range(gateway.known_shards)
    ids = [cancel_all_command_id(command.client_id, key, shard, 0) for shard in shards]
    async with log_connection(gateway.own_engine) as connection:
        claims = await read_claims(connection, [command_claim(one) for one in ids])
    asked = body_hash(command)
    if any(claim.conflicts_with(asked) for claim in claims):
        raise key_conflict()


async def _start(gateway: Gateway, shards: Sequence[_OnShard], origin: Origin) -> None:
    """Begin the work, which goes on by itself, and wait for it as long as for an outcome.

    Raises:
        Problem: 503, too much of it is under way.
    """
    if len(gateway.going_on) >= GOING_ON_MAX:
        detail = "Too many cancels of all orders are under way here; nothing was sent."
        raise Problem(Code.BUSY, detail, outcome="none")
    sent: set[int] = set()
    all_sent = asyncio.Event()

    def note(shard: int) -> None:
        sent.add(shard)
        if len(sent) < len(shards) or all_sent.is_set():
            return
        all_sent.set()
        if origin.on_handed_over is not None:
            origin.on_handed_over()

    work = asyncio.create_task(_cancel_on_all(gateway, shards, note))
    gateway.going_on.add(work)
    work.add_done_callback(gateway.going_on.discard)
    work.add_done_callback(lambda _: all_sent.set())
    with suppress(TimeoutError):
        async with asyncio.timeout(gateway.submitter.wait_s):
            await (asyncio.shield(work) if origin.wait else all_sent.wait())


async def _cancel_on_all(
    gateway: Gateway, shards: Sequence[_OnShard], on_sent: Callable[[int], None]
) -> None:
    try:
        await asyncio.gather(*(_cancel_on(gateway, one, on_sent) for one in shards))
    except Exception:
        logger.exception("A cancel of all orders crashed")
        raise


async def _cancel_on(gateway: Gateway, one: _OnShard, on_sent: Callable[[int], None]) -> None:
    """Send a shard part after part, until no order remains or nothing more can be done."""
    moved_s = time.monotonic()
    while not (one.is_done or gateway.stopping.is_set()):
        try:
            answer = await gateway.submitter.submit(
                one.shard,
                one.command,
                one.command_id,
                on_handed_over=lambda: on_sent(one.shard),
                key_id=one.key_id,
            )
            if isinstance(answer, Decision):
                one.take(answer)
                moved_s = time.monotonic()
                continue
            one.fail()
        except Problem as problem:
            one.fail(problem)
            if one.was_refused or not problem.code.is_temporary:
                return
        if time.monotonic() - moved_s > GO_ON_S:
            fields = {"shard": one.shard, "client": one.command.client_id}
            logger.warning(
                "Gave up a cancel of all orders: its shard decides nothing", extra=fields
            )
            return
        await asyncio.sleep(AGAIN_S)


def _entered(body: CancelAllBody, key: str, shards: Sequence[_OnShard]) -> AllEntered:
    """Return what is known of all shards.

    Raises:
        Problem: A part cannot be decided, or its key has another request; or no shard was asked.
    """
    problems = [one.problem for one in shards if one.problem is not None]
    for problem in problems:
        if not problem.code.is_temporary or all(one.was_refused for one in shards):
            raise problem
    views = [one.view for one in shards if one.view is not None]
    view = AllCancelledView(
        client_id=body.client_id,
        instrument=body.instrument,
        side=body.side,
        idempotency_key=key,
        cancelled_orders=sum(one.cancelled for one in shards),
        shards=views,
        pending=[one.shard for one in shards if not one.is_done],
    )
    return AllEntered(view, bool(views) and all(one.resent for one in shards))
