"""Many orders and cancels in one request, each a command of its own.

Read ``enter``. A batch is not atomic: each entry gets the answer that it would have had alone. It
saves what does not depend on the entry: one request, one question for budgets, one wait. What must
be known of all entries is found out before the first is sent, so that those of a shard are in Kafka
in their order.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from exchange.domain.commands import CancelOrder, PlaceOrder
from exchange.domain.values import Id
from exchange.door.caller import Caller
from exchange.gateway.http.callers import acting_client, check_access, of_client
from exchange.gateway.http.declaration import Access
from exchange.gateway.http.problems import Problem, ProblemView, telling
from exchange.gateway.http.requests import read_checked
from exchange.gateway.http.responses import OrderView, PendingView, encoder
from exchange.gateway.orders.entry import (
    Book,
    CancelledView,
    OrderBody,
    Trade,
    book_of,
    cancelled_view,
    check_cancel,
    check_reachable,
    outcome_of_claim,
    place_command,
    placed_order,
    receipt_or_claim,
    settle_account,
)
from exchange.gateway.orders.states import settled_listing
from exchange.gateway.parts.admission import Origin, check_running
from exchange.gateway.parts.context import Gateway
from exchange.gateway.parts.decisions import Decision, Pending, location_of
from exchange.gateway.parts.limits import Kind, Receipt
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.submission import Waiter
from exchange.log.identity import command_id_for
from exchange.ports import Claim
from exchange.waiting import turns

ENTRIES_MAX: Final = 500  # as many as a matcher decides in one batch
BATCH_BYTES_MAX: Final = 256 * 1024  # an entry has some 250 bytes
ENTRIES_AT_ONCE: Final = 20  # written before other requests get their turn: some milliseconds

Answer = Decision | Pending | Problem


class PlaceEntry(
    OrderBody, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="place"
):
    """An order, as in the body of ``POST /orders``."""


class CancelEntry(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="cancel"
):
    """A cancel; the order may be one that an earlier entry of the batch places."""

    order_id: Id
    client_id: Id | None = None
    idempotency_key: Id | None = None


Body = PlaceEntry | CancelEntry
ENTRY: Final = msgspec.json.Decoder(Body)


def _any_of(*names: str) -> list[dict[str, str]]:
    return [{"$ref": f"#/components/schemas/{name}"} for name in names]


# An entry that is no order and no cancel is refused alone. So each is read by itself, and the
# batch may have anything in its place.
RawEntry = Annotated[
    Raw, Meta(extra_json_schema={"anyOf": [*_any_of("PlaceEntry", "CancelEntry"), {}]})
]


Entries = Annotated[list[RawEntry], Meta(min_length=1, max_length=ENTRIES_MAX)]


class BatchBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /orders/batch``."""

    entries: Entries


BATCH_BODY: Final = msgspec.json.Decoder(BatchBody)


class PlacedEntryView(Struct, frozen=True):
    """What ``POST /orders`` answers, without the book."""

    order: OrderView
    trades: list[Trade]
    sequence: int
    command_id: str


EntryBody = Annotated[
    Raw,
    Meta(
        extra_json_schema={
            "anyOf": _any_of("PlacedEntryView", "CancelledView", "PendingView", "ProblemView")
        }
    ),
]


class EntryView(Struct, frozen=True):
    """The answer to an entry: the status and the body that it would have had alone.

    ``location`` and ``replayed`` say what the headers ``Location`` and ``Idempotent-Replayed`` do.
    """

    status: int
    body: EntryBody
    location: str | UnsetType = UNSET
    replayed: bool | UnsetType = UNSET


EntryText = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/EntryView"})]


class BatchView(Struct, frozen=True):
    """The answers in the order of the entries, and the books of all instruments with orders."""

    entries: list[EntryText]
    books: dict[str, Book | None]


# The types that the schemas of batches name, where msgspec does not find them.
NAMED: Final = (
    PlaceEntry,
    CancelEntry,
    EntryView,
    PlacedEntryView,
    CancelledView,
    PendingView,
    ProblemView,
)


class _Entry:
    """One entry on its way; ``answer`` is what became of it."""

    __slots__ = (
        *("admitted", "answer", "body", "client_id", "command", "command_id", "listing"),
        "waiter",
    )

    def __init__(self, text: Raw, caller: Caller, number: int) -> None:
        self.answer: Answer | None = None
        self.waiter: Waiter | None = None
        self.admitted: Receipt | Claim
        self.listing: Listing
        self.command: PlaceOrder | CancelOrder
        self.body: Body
        self.command_id: UUID
        try:
            self.body = read_checked(bytes(text), ENTRY)
            if isinstance(self.body, PlaceEntry):
                check_access(caller, Access.TRADE)
                self.body = of_client(caller, self.body)
                check_reachable("client_id", self.body.client_id)
                check_reachable("order_id", self.body.order_id)
                self.client_id: str | None = self.body.client_id
            else:
                check_access(caller, Access.CANCEL)
                self.client_id = acting_client(caller, self.body.client_id)
            key = self.body.idempotency_key or _own_key(caller, number)
            self.command_id = command_id_for(self.client_id, key)
        except Problem as problem:
            self.answer = problem

    @property
    def kind(self) -> tuple[Kind, str | None]:
        kind = Kind.ORDERS if isinstance(self.body, PlaceEntry) else Kind.CANCELS
        return kind, self.client_id


def _own_key(caller: Caller, number: int) -> str | None:
    """Return the idempotency key of an entry that names none, if its batch is signed."""
    if caller.idempotency_key is None:
        return None
    return sha256(f"{caller.idempotency_key}:{number}".encode()).hexdigest()


async def enter(gateway: Gateway, texts: Sequence[Raw], origin: Origin) -> BatchView:
    """Enter all entries and return their answers.

    Raises:
        Problem: 503, nothing was sent: the gateway is stopping, or has no places for all of them.
    """
    check_running(gateway)
    entries = [_Entry(text, origin.caller, number) for number, text in enumerate(texts)]
    try:
        async with gateway.submitter.places_for(len(entries)):
            await _admit(gateway, entries, origin)
            await _prepare(gateway, entries)
            _send(gateway, entries, origin)
        await _await(gateway, entries, origin)
    finally:
        gateway.submitter.forget(*(e.waiter for e in entries if e.waiter is not None))
    return await _told(gateway, entries)


def _open(entries: Sequence[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.answer is None]


async def _admit(gateway: Gateway, entries: Sequence[_Entry], origin: Origin) -> None:
    """Spend what the entries cost; those without budget are refused, or known by their keys."""
    admitted = _open(entries)
    receipts = await gateway.limiter.spend_all(
        [e.kind for e in admitted], origin.address, origin.caller.key_id
    )
    for entry, receipt in zip(admitted, receipts, strict=True):
        entry.admitted = receipt
        origin.told(receipt.budget)
    refused = [e for e, receipt in zip(admitted, receipts, strict=True) if receipt.budget.wait_us]
    for entry in refused:
        assert isinstance(entry.admitted, Receipt)
        try:
            entry.admitted = await receipt_or_claim(
                gateway, entry.admitted, entry.client_id, entry.command_id, origin
            )
        except Problem as problem:
            entry.answer = problem


async def _prepare(gateway: Gateway, entries: Sequence[_Entry]) -> None:
    """Make the commands; the instruments of all cancels are known before anything is sent."""
    placed: dict[str, Listing] = {}
    elsewhere: list[_Entry] = []
    for entry in _open(entries):
        body = entry.body
        try:
            if isinstance(body, PlaceEntry):
                with telling(outcome="none"):
                    entry.listing = await gateway.own_listings.get(body.instrument)
                entry.command = place_command(body, entry.listing)
                placed[entry.command.order_id] = entry.listing
                continue
            check_cancel(gateway, entry.client_id, body.idempotency_key)
        except Problem as problem:
            entry.answer = problem
            continue
        if body.order_id in placed:
            _cancel_at(entry, placed[body.order_id])
        else:
            elsewhere.append(entry)
    await asyncio.gather(*(_find_order(gateway, entry) for entry in elsewhere))


async def _find_order(gateway: Gateway, entry: _Entry) -> None:
    assert isinstance(entry.body, CancelEntry)
    try:
        with telling(outcome="none"):
            _cancel_at(entry, await settled_listing(gateway, entry.body.order_id))
    except Problem as problem:
        entry.answer = problem


def _cancel_at(entry: _Entry, listing: Listing) -> None:
    assert isinstance(entry.body, CancelEntry)
    entry.listing = listing
    entry.command = CancelOrder(entry.body.order_id, listing.instrument, entry.client_id)


def _send(gateway: Gateway, entries: Sequence[_Entry], origin: Origin) -> None:
    """Hand the commands to Kafka's client, up to the first of each shard that it does not take."""
    refused: dict[int, Problem] = {}
    for entry in _open(entries):
        if isinstance(entry.admitted, Claim):  # was sent before
            continue
        shard = entry.listing.shard
        try:
            if shard in refused:
                raise refused[shard]
            entry.waiter = gateway.submitter.send(
                shard,
                entry.command,
                entry.command_id,
                wait=origin.wait,
                key_id=origin.caller.key_id,
            )
        except Problem as problem:
            entry.answer = refused.setdefault(shard, problem)
    if origin.on_handed_over is not None:
        origin.on_handed_over()


async def _await(gateway: Gateway, entries: Sequence[_Entry], origin: Origin) -> None:
    """Wait for the outcomes. What has to be looked up of them is asked for together."""
    looked_up = []
    for entry in _open(entries):
        if entry.waiter is not None:
            await entry.waiter.result()
        if entry.waiter is not None and entry.waiter.is_decided:
            await _find_outcome(gateway, entry, origin)
        else:
            looked_up.append(entry)
    await asyncio.gather(*(_find_outcome(gateway, entry, origin) for entry in looked_up))


async def _find_outcome(gateway: Gateway, entry: _Entry, origin: Origin) -> None:
    try:
        if isinstance(entry.admitted, Claim):
            entry.answer = await outcome_of_claim(
                gateway, entry.admitted, entry.command, entry.command_id, origin
            )
            return
        assert entry.waiter is not None
        entry.answer = await gateway.submitter.outcome_of(entry.waiter)
        await settle_account(gateway, entry.admitted, entry.answer, entry.client_id, origin)
    except Problem as problem:
        entry.answer = problem


async def _told(gateway: Gateway, entries: Sequence[_Entry]) -> BatchView:
    views = []
    async for some in turns(entries, ENTRIES_AT_ONCE):
        views += await asyncio.gather(*(_text(gateway, entry) for entry in some))
    return BatchView(views, await _books(gateway, entries))


async def _text(gateway: Gateway, entry: _Entry) -> Raw:
    return _json(await _view(gateway, entry))


async def _view(gateway: Gateway, entry: _Entry) -> EntryView:
    try:
        match entry.answer:
            case Problem():
                raise entry.answer
            case Pending():
                view = PendingView(str(entry.command_id), "pending", order_id=_order_id(entry))
                location = location_of(entry.answer, entry.command_id)
                return EntryView(202, _json(view), location)
            case Decision():
                return await _decided_view(gateway, entry, entry.answer)
            case None:
                raise AssertionError("every entry is answered")
    except Problem as problem:
        replayed = isinstance(entry.answer, Decision) and entry.answer.resent
        return EntryView(problem.code.status, _json(problem.view()), replayed=replayed or UNSET)


async def _decided_view(gateway: Gateway, entry: _Entry, decision: Decision) -> EntryView:
    listing, command_id = entry.listing, entry.command_id
    replayed = decision.resent or UNSET
    if isinstance(entry.body, CancelEntry):
        cancelled = await cancelled_view(gateway, listing, decision, command_id)
        return EntryView(200, _json(cancelled), replayed=replayed)
    order, trades = await placed_order(listing, decision, command_id)
    placed = PlacedEntryView(order, trades, decision.sequence, str(command_id))
    return EntryView(201, _json(placed), replayed=replayed)


def _json(view: Struct) -> Raw:
    return Raw(encoder.encode(view))


def _order_id(entry: _Entry) -> str:
    return entry.command.order_id


async def _books(gateway: Gateway, entries: Sequence[_Entry]) -> dict[str, Raw | None]:
    """Return the book of each instrument of which an order was decided, after the last of them."""
    last: dict[str, tuple[Listing, Decision]] = {}
    for entry in entries:
        if isinstance(entry.answer, Decision) and isinstance(entry.body, PlaceEntry):
            name, decision = entry.listing.instrument, entry.answer
            if name not in last or last[name][1].sequence < decision.sequence:
                last[name] = (entry.listing, decision)
    return {name: await book_of(gateway, *one) for name, one in sorted(last.items())}
