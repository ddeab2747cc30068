"""A read model in memory: the same rules as in its store, another way to keep the rows.

Each read model's file has its ``Fold``, and its ``project`` (or ``write``) uses the same rules. So
a model that is built in bulk, or compared with the log, cannot follow other rules than the live
one.

A fold takes events of any shards, as long as those of each shard come in order and none is left
out but those that every fold of the model leaves out. How the events are split into parts changes
nothing.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Protocol, Self
from uuid import UUID

from asyncpg.pgproto import pgproto
from msgspec import Struct

from exchange.domain.events import Event, TradeExecuted
from exchange.domain.values import Side
from exchange.log.events import DecidedEvent

UUID_BYTES: Final = 16
_BUY: Final = Side.BUY  # looking it up in the enum would take as long as the rest of a comparison


class LogPart(Struct, frozen=True):
    """Consecutive events of one shard; ``first`` is the position of the first.

    ``command_ids`` has 16 bytes for each event. It is empty unless the model asks for them.
    """

    shard: int
    first: int
    events: Sequence[Event]
    command_ids: bytes = b""

    def command_id(self, index: int) -> UUID:
        """Return the id of the command that caused the event at ``index`` of ``events``."""
        begin = index * UUID_BYTES
        # The driver's own kind of UUID is made and sent in a tenth of the time.
        made: UUID = pgproto.UUID(self.command_ids[begin : begin + UUID_BYTES])
        return made


Row = tuple[object, ...]

Rows = dict[str, list[Row]]
"""Rows by the name of their table: its columns after ``generation``, in order."""


class Fold(Protocol):
    """A read model in memory, folded from any shards' events; each shard's come in order."""

    def add(self, part: LogPart) -> None:
        """Apply the events of a part."""

    def finished(self) -> Rows:
        """Remove and return the rows that no later event changes."""

    def rows(self) -> Rows:
        """Return all rows that are left; the fold keeps them."""

    @property
    def size(self) -> int:
        """How many rows it holds."""

    def dump(self) -> bytes:
        """Return the fold's state, from which ``load`` goes on.

        The state is JSON, since MessagePack has no integers beyond 64 bits.
        """

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Return a fold that goes on from a state that ``dump`` returned."""


def parts_of(events: Sequence[DecidedEvent], *, command_ids: bool = False) -> Iterator[LogPart]:
    """Yield events of one shard, at least one, as parts: one part if no position is left out."""
    for begin, end in pairwise([0, *_gaps(events), len(events)]):
        part = events[begin:end]
        ids = b"".join(decided.command_id.bytes for decided in part) if command_ids else b""
        yield LogPart(part[0].shard, part[0].position, [decided.event for decided in part], ids)


def fold_batch(fold: Fold, events: Sequence[DecidedEvent]) -> Rows:
    """Return the rows of a fold after a batch of one shard's events."""
    for part in parts_of(events):
        fold.add(part)
    return fold.rows()


def buyer_and_seller(trade: TradeExecuted) -> tuple[str, str]:
    """Return a trade's clients. Both at once cost half of what the trade's properties do."""
    if trade.taker_side is _BUY:
        return trade.taker_client_id, trade.maker_client_id
    return trade.maker_client_id, trade.taker_client_id


def _gaps(events: Sequence[DecidedEvent]) -> list[int]:
    """Return the indices of events that do not follow the one before."""
    if events[-1].position - events[0].position == len(events) - 1:
        return []
    return [
        index
        for index, (before, decided) in enumerate(pairwise(events), 1)
        if decided.position != before.position + 1
    ]
