"""The events of the log in order, of those that somebody asks for.

Read ``replayed``. A shard's log is read in parts over its primary key; everything else that is
asked (an instrument, a client, an order, a type) is looked at while reading, since events have no
index by it, and the chain that a document tells goes over all of them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, get_args
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from exchange.domain.events import Event, InstrumentRegistered
from exchange.log.chain import chain_links
from exchange.log.documents.document import Documents
from exchange.log.reader import read_chain, read_every_event, read_registrations
from exchange.ports import StoredEvent

PART_EVENTS: Final = 1_000  # of each shard in memory; larger parts are no faster

TYPES: Final = tuple(event.__name__ for event in get_args(Event))
CLIENTS: Final = ("client_id", "taker_client_id", "maker_client_id", "asked_by")
ORDERS: Final = ("order_id", "taker_order_id", "maker_order_id")
REGISTERED: Final = InstrumentRegistered.__name__

Document = dict[str, Any]
Span = tuple[int, int]
"""Events after the first position up to the second."""


class Wanted(Struct, frozen=True):
    """Which events are asked for: those that fit all that is not None."""

    instrument: str | None = None
    client: str | None = None
    order: str | None = None
    type: str | None = None
    command: UUID | None = None

    def may_have(self, stored: StoredEvent) -> bool:
        """Tell, without decoding an event, whether it can be one of them."""
        if self.instrument not in (None, stored.instrument) or self.type not in (None, stored.type):
            return False
        if self.command not in (None, stored.command_id):
            return False
        names = (self.client, self.order)
        return all(msgspec.json.encode(n).decode() in stored.data for n in names if n is not None)

    def has(self, document: Document) -> bool:
        """Tell whether an event that may be one of them is one."""
        return _is_any(document, CLIENTS, self.client) and _is_any(document, ORDERS, self.order)


async def replayed(
    connection: asyncpg.Connection,
    spans: Mapping[int, Span],
    wanted: Wanted,
    on_read: Callable[[int], None],
) -> AsyncGenerator[Document, None]:
    """Yield the documents of the wanted events, by time; at the same time, by shard.

    The order within a shard is that of its log, in which time never runs backwards.

    Args:
        connection: To the log, which is only read.
        spans: Which events of each shard.
        wanted: Which of these.
        on_read: Is told how many more events were read.

    Raises:
        LogCorrupt: An event is missing.
        UnknownEvent: One was written by another version of the software.
    """
    logs = {
        shard: _of_shard(connection, shard, span, wanted, on_read) for shard, span in spans.items()
    }
    ahead = {shard: await anext(log, None) for shard, log in logs.items()}
    while first := min(((one["time"], shard) for shard, one in ahead.items() if one), default=None):
        shard = first[1]
        document = ahead[shard]
        assert document is not None
        yield document
        ahead[shard] = await anext(logs[shard], None)


async def _of_shard(
    connection: asyncpg.Connection,
    shard: int,
    span: Span,
    wanted: Wanted,
    on_read: Callable[[int], None],
) -> AsyncIterator[Document]:
    after, up_to = span
    if after == up_to:
        return
    documents = Documents(await read_registrations(connection, shard, up_to=after))
    chain = await read_chain(connection, shard, after)
    while after < up_to:
        end = min(up_to, after + PART_EVENTS)
        events = await read_every_event(connection, shard, after=after, up_to=end)
        links = chain_links(chain, events)
        for document in _documents(documents, events, links, wanted):
            yield document
        on_read(len(events))
        after, chain = end, links[-1]


def _documents(
    documents: Documents, events: Sequence[StoredEvent], links: Sequence[bytes], wanted: Wanted
) -> list[Document]:
    found = []
    for stored, link in zip(events, links, strict=True):
        asked = wanted.may_have(stored)
        if not asked and stored.type != REGISTERED:
            continue
        document = documents.of(stored, link)  # of a registration in any case: it has the scales
        if asked and wanted.has(document):
            found.append(document)
    return found


def _is_any(document: Document, fields: Sequence[str], name: str | None) -> bool:
    return name is None or any(document.get(field) == name for field in fields)
