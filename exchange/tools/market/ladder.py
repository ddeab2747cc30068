"""An order book in the terminal: a snapshot, then the levels that change.

The client keeps the book. ``picture`` draws it for a terminal, ``lines`` writes it for anything
else.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from decimal import Decimal
from typing import Final

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exchange.client import Book, Following
from exchange.tools.market.following import watching

BAR_WIDTH: Final = 24
AMOUNT_WIDTH: Final = 15  # holds the spread, and figures that grow do not move the rest
OTHER_LINES: Final = 4  # of a picture: the title, the heading, the spread, and the cursor's
PAINT_EVERY_S: Final = 0.1  # faster than anybody reads
LINES_EVERY_S: Final = 1.0

Amounts = tuple[Decimal, Decimal, Decimal]  # price, quantity, and the sum from the best level on


class Ladder:
    """The book of one instrument, and what is said beside it."""

    def __init__(self, instrument: str) -> None:
        self.following = Following(instrument, "orderbook")
        self.book = self.following.book
        self.notice = ""

    def tell(self, notice: str) -> None:
        """Show a notice in the title; an empty one removes it."""
        self.notice = notice

    @property
    def spread(self) -> str:
        """How far the best prices are apart, in words."""
        bids, asks = self.book.levels("bids", 1), self.book.levels("asks", 1)
        if bids and asks:
            return f"spread {asks[0].price - bids[0].price:f}"
        return "no bids" if asks else "no asks" if bids else "nothing rests"


async def show_once(
    console: Console, base_url: str, ladder: Ladder, count: int, tell: Callable[[str], None]
) -> None:
    """Print the book as it is now; ``tell`` gets a line when the connection is lost.

    Raises:
        Refused: The exchange does not show it.
    """
    async with watching(base_url, ladder.following, tell) as updates:
        async for update in updates:
            if isinstance(update, Book):
                break
    if console.is_terminal:
        console.print(picture(ladder, count))
    else:
        _write(console, ladder, count)


async def show_live(
    console: Console, base_url: str, ladder: Ladder, count: int, tell: Callable[[str], None]
) -> None:
    """Show the book as it changes, until cancelled.

    When the connection is lost, a terminal's picture says so in its title; with plain lines,
    ``tell`` gets the notice.

    Raises:
        Refused: The exchange does not show it.
    """
    told = ladder.tell if console.is_terminal else tell
    following = _follow(base_url, ladder, told)
    if not console.is_terminal:
        await _beside(following, lambda: _write(console, ladder, count), ladder, LINES_EVERY_S)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def paint() -> None:
            shown = min(count, max(1, (console.height - OTHER_LINES) // 2))
            live.update(picture(ladder, shown), refresh=True)

        await _beside(following, paint, ladder, PAINT_EVERY_S)


async def _follow(base_url: str, ladder: Ladder, tell: Callable[[str], None]) -> None:
    async with watching(base_url, ladder.following, tell) as updates:
        async for _ in updates:
            pass  # the book is kept


async def _beside(
    following: Coroutine[None, None, None],
    show: Callable[[], None],
    ladder: Ladder,
    every_s: float,
) -> None:
    """Show what changed, at most once in ``every_s``, until ``following`` ends."""
    task = asyncio.create_task(following)
    shown: tuple[int, str] | None = None
    try:
        while not task.done():
            if (ladder.book.sequence, ladder.notice) != shown and ladder.book.timestamp:
                shown = (ladder.book.sequence, ladder.notice)
                show()
            await asyncio.wait({task}, timeout=every_s)
        task.result()
    finally:
        task.cancel()


def lines(ladder: Ladder, count: int) -> Iterator[str]:
    """Yield the book as plain lines, the highest price first."""
    book = ladder.book
    yield f"{book.instrument}  {book.timestamp}  sequence {book.sequence}  {ladder.spread}"
    for side, rows in _downwards(ladder, count):
        for row in rows:
            yield f"{side[:-1]:<4}" + "".join(f"{cell:>18}" for cell in row)


def picture(ladder: Ladder, count: int) -> RenderableType:
    """Draw the book: asks above, bids below, a bar as long as what rests up to its price."""
    table = Table(box=None, pad_edge=False)
    for name in ("price", "quantity", "cumulative"):
        table.add_column(name, justify="right", header_style="dim", min_width=AMOUNT_WIDTH)
    table.add_column("", width=BAR_WIDTH)
    asks, bids = _downwards(ladder, count)
    largest = max((Decimal(row[2]) for _, rows in (asks, bids) for row in rows), default=Decimal(1))
    for color, (_, rows) in (("red", asks), ("green", bids)):
        if color == "green":
            table.add_row(Text(ladder.spread, style="dim"))
        for price, quantity, cumulative in rows:
            bar = Bar(float(largest), 0, float(cumulative), width=BAR_WIDTH, color=color)
            table.add_row(Text(price, style=color), quantity, cumulative, bar)
    return Group(_title(ladder), table)


def _title(ladder: Ladder) -> Text:
    at = f"  {ladder.book.timestamp[11:23]}  sequence {ladder.book.sequence:,}  "
    title = Text.assemble((ladder.book.instrument, "bold"), at, (ladder.notice, "yellow"))
    title.no_wrap, title.overflow = True, "ellipsis"
    return title


def _write(console: Console, ladder: Ladder, count: int) -> None:
    for line in lines(ladder, count):
        console.print(line, highlight=False, soft_wrap=True)


def _downwards(ladder: Ladder, count: int) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return asks and bids from the highest price to the lowest, their decimal points aligned."""
    asks, bids = _amounts(ladder.book, "asks", count)[::-1], _amounts(ladder.book, "bids", count)
    places = [_places(column) for column in zip(*asks, *bids, strict=True)]
    return [
        (side, [_cells(row, places) for row in rows])
        for side, rows in (("asks", asks), ("bids", bids))
    ]


def _amounts(book: Book, side: str, count: int) -> list[Amounts]:
    return [(o.price, o.quantity, o.cumulative or Decimal()) for o in book.levels(side, count)]


def _cells(level: Amounts, places: list[int]) -> tuple[str, ...]:
    return tuple(f"{amount:.{decimals}f}" for amount, decimals in zip(level, places, strict=True))


def _places(amounts: Iterable[Decimal]) -> int:
    return max(-int(amount.as_tuple().exponent) for amount in amounts)
