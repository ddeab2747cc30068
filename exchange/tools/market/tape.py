"""Trades in the terminal, oldest first, each of them once.

``newest`` asks for the last ones; ``show_following`` goes on after a sequence, over any number of
connections, without a gap.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

import msgspec
from rich.console import Console
from rich.text import Text

from exchange.client import AsyncClient, Following, Patience, Trade, TradesTold, trades
from exchange.tools.market.following import watching

ONCE: Final = Patience(total_s=0)  # a person can ask again

Show = Callable[[Trade], None]

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


async def newest(base_url: str, instrument: str, limit: int) -> tuple[list[Trade], int]:
    """Return the newest trades, oldest first, and the sequence that they go up to.

    Raises:
        Refused: The exchange has no such instrument.
        Unavailable: It does not answer.
    """
    async with AsyncClient(base_url, patience=ONCE) as client:
        page = await client.send(trades(instrument, limit=limit))
    return page.trades[::-1], page.sequence


async def show_following(
    base_url: str, following: Following, show: Show, tell: Callable[[str], None]
) -> None:
    """Show trades as they happen, until cancelled.

    Raises:
        Refused: The exchange does not show them.
    """
    async with watching(base_url, following, tell) as updates:
        async for update in updates:
            if isinstance(update, TradesTold):
                for trade in update.trades:
                    show(trade)


def show_json(trade: Trade) -> None:
    """Print a trade as a line of JSON, with the exchange's own fields and exact amounts."""
    print(_encoder.encode(trade).decode(), flush=True)


class Printer:
    """Prints trades as lines; in a terminal the colour says whether the price went up."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = Decimal(0)

    def heading(self) -> None:
        names = f"{'time':<24}{'price':>16}{'quantity':>16}{'sequence':>14}"
        self._console.print(Text(names, style="dim"))

    def __call__(self, trade: Trade) -> None:
        price, quantity = trade.price, trade.quantity
        style = "green" if price > self._last else "red" if price < self._last else ""
        self._last = price
        self._console.print(
            Text.assemble(
                f"{trade.timestamp:<24}",
                (f"{price:>16f}", style),
                f"{quantity:>16f}{trade.sequence:>14}",
            ),
            soft_wrap=True,
        )
