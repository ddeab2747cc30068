"""Folds of a shard up to a position, begun at kept states; the states on the way are kept.

Rows that no later event changes leave a fold: the live tables have them. So a fold is as large as
what is open at its position.
"""

from collections.abc import Callable, Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.log.replay import replay_parts
from projections import book, positions, settlement, ticker, vwap
from projections.folding import Fold, LogPart
from projections.lifecycle.skips import read_skips, skipped
from projections.past.states import STATE_EVENTS, Folded, keep_state, newest_state
from projections.stores.checkpoints import note_skips

Tell = Callable[[int, int], None]
"""Is told how many events have been folded, and of how many."""


def tell_nobody(done: int, of: int) -> None:
    """Keep to oneself how many events have been folded."""


FOLDED: Final = {
    name: Folded(name, queries.fingerprint, fold, fold.load)
    for name, queries, fold in (
        (book.NAME, book.QUERIES, book.BookFold),
        (ticker.NAME, ticker.QUERIES, ticker.TickerFold),
        (positions.NAME, positions.QUERIES, positions.PositionsFold),
        (settlement.NAME, settlement.QUERIES, settlement.SettlementFold),
        (vwap.NAME, vwap.QUERIES, vwap.MinutesFold),
    )
}


class _Begun(Struct):
    """A fold that has the events up to ``after``, without those that its definition skips."""

    folded: Folded
    fold: Fold
    after: int
    skips: frozenset[int]

    def add(self, part: LogPart) -> None:
        has = max(0, self.after + 1 - part.first)  # so many events of the part
        rest = LogPart(part.shard, part.first + has, part.events[has:]) if has else part
        for one in _without(rest, self.skips):
            self.fold.add(one)
        self.fold.finished()


async def fold_up_to(
    connection: asyncpg.Connection,
    names: Sequence[str],
    shard: int,
    position: int,
    *,
    every: int = STATE_EVENTS,
    tell: Tell = tell_nobody,
) -> dict[str, Fold]:
    """Return folds of a shard up to a position, by projection; the events are read once.

    What they skip up to there is noted, as reading a live model does.

    Raises:
        LogCorrupt: An event between the two is missing.
        Undecodable: One was written by another version of the software, and a fold does not skip
            it.
    """
    begun = [await _begin(connection, FOLDED[name], shard, position) for name in names]
    skips = frozenset.intersection(*(one.skips for one in begun))  # need not even be decoded
    start = after = min(one.after for one in begun)
    while after < position:
        end = min(position, (after // every + 1) * every)
        async for part in replay_parts(connection, shard, after=after, up_to=end, skips=skips):
            for one in begun:
                one.add(LogPart(shard, part.first, part.events))
            tell(part.first + len(part.events) - 1 - start, position - start)
        for one in begun:
            if end > one.after and end % every == 0:
                await keep_state(connection, one.folded, shard, end, one.fold, skips=len(one.skips))
        after = end
    return {one.folded.projection: one.fold for one in begun}


async def _begin(connection: asyncpg.Connection, folded: Folded, shard: int, up_to: int) -> _Begun:
    fold, after = await newest_state(connection, folded, shard, up_to)
    skips = skipped(
        await read_skips(connection, folded.projection), folded.projection, folded.fingerprint
    )
    mine = frozenset(at for of, at in skips if of == shard)
    note_skips(f"{shard}:{at}" for at in mine if at <= up_to)
    return _Begun(folded, fold, after, mine)


def _without(part: LogPart, skips: frozenset[int]) -> list[LogPart]:
    """Return a part without the events at ``skips``: nearly always the part itself."""
    end = part.first + len(part.events)
    parts: list[LogPart] = []
    first = part.first
    for skip in (*sorted(at for at in skips if part.first <= at < end), end):
        events = part.events[first - part.first : skip - part.first]
        if events:
            parts.append(LogPart(part.shard, first, events))
        first = skip + 1
    return parts
