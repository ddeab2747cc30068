"""Trades in the terminal, oldest first, each of them once.

``newest`` asks for the last ones; ``Tape`` goes on after a sequence, over any number of
connections, without a gap.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.text import Text

from exchange.tools.market.following import Message, Refused, follow, read
from exchange.tools.market.load import Unreachable

REQUEST_S: Final = 10.0

Trade = dict[str, Any]
Show = Callable[[Trade], None]

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


class Tape:
    """The trades of one instrument after a sequence."""

    def __init__(self, instrument: str, after: int, show: Show) -> None:
        self.instrument = instrument
        self.sequence = after  # everything up to it has been shown
        self._show = show

    def subscription(self) -> Message:
        return {
            "type": "subscribe",
            "channels": ["trades"],
            "instrument": self.instrument,
            "from_sequence": self.sequence,
        }

    def take(self, message: Message) -> bool:
        """Show what a message has of trades; return False, since there are always more."""
        if message["type"] == "trades":
            for trade in message["trades"]:
                if trade["sequence"] > self.sequence:
                    self._show(trade)
            self.sequence = max(self.sequence, message["sequence"])
        if message["type"] == "heartbeat":
            reached = message["sequences"].get(self.instrument, 0)
            self.sequence = max(self.sequence, reached)
        return False


async def newest(base_url: str, instrument: str, limit: int) -> tuple[list[Trade], int]:
    """Return the newest trades, oldest first, and the sequence that they go up to.

    Raises:
        Unreachable: No exchange answers.
        Refused: It has no such instrument.
    """
    parameters: dict[str, Any] = {"instrument": instrument, "limit": limit}
    try:
        async with httpx.AsyncClient(timeout=REQUEST_S, trust_env=False) as http:
            response = await http.get(f"{base_url}/market/trades", params=parameters)
            answer = read(response.content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(f"No exchange answers at {base_url}: {reason}.") from error
    if not response.is_success:
        raise Refused(f"{answer.get('code')}: {answer.get('detail')}")
    return answer["trades"][::-1], answer["sequence"]


async def show_following(base_url: str, tape: Tape, tell: Callable[[str], None]) -> None:
    """Show trades as they happen, until cancelled.

    Raises:
        Refused: The exchange does not show them.
    """
    await follow(base_url, tape.subscription, tape.take, tell)


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
        price, quantity = Decimal(trade["price"]), Decimal(trade["quantity"])
        style = "green" if price > self._last else "red" if price < self._last else ""
        self._last = price
        self._console.print(
            Text.assemble(
                f"{trade['timestamp']:<24}",
                (f"{price:>16f}", style),
                f"{quantity:>16f}{trade['sequence']:>14}",
            ),
            soft_wrap=True,
        )
