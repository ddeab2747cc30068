"""Orders as a load has them: 30 % at the market, uniform prices, a hundred clients.

The same seed gives the same orders. A run's idempotency keys begin with a prefix, so that
a load that is repeated places new orders and a file that is sent again places none.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from msgspec import Struct

CLIENTS: Final = 100
MARKET_SHARE: Final = 0.3
PRICE_CENTS: Final = (6_950_000, 7_050_000)
QUANTITY_THOUSANDTHS: Final = (1, 1_000)


class MixError(Exception):
    """A file of orders cannot be used; the message is one line that says why."""


class Mix(Struct, frozen=True):
    """An endless list of orders."""

    seed: int
    instrument: str
    prefix: str

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yield the bodies of ``POST /orders``."""
        chance = Random(self.seed)
        number = 0
        while True:
            number += 1
            market = chance.random() < MARKET_SHARE
            order: dict[str, Any] = {
                "client_id": f"load-{chance.randrange(CLIENTS)}",
                "instrument": self.instrument,
                "side": chance.choice(("buy", "sell")),
                "type": "market" if market else "limit",
                "quantity": _decimal(chance.randint(*QUANTITY_THOUSANDTHS), 3),
                "idempotency_key": f"{self.prefix}-{number}",
            }
            if not market:
                order["price"] = _decimal(chance.randint(*PRICE_CENTS), 2)
            yield order


def of_one_client(orders: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield orders without their client: it is that of the key by which they are signed."""
    for order in orders:
        yield {name: value for name, value in order.items() if name != "client_id"}


def write_fixtures(path: Path, mix: Mix, count: int) -> None:
    """Write orders as JSON Lines: the same bytes for the same mix."""
    with path.open("w", encoding="utf-8") as file:
        for order in islice(mix.orders(), count):
            file.write(json.dumps(order, separators=(",", ":")) + "\n")


def read_fixtures(path: Path) -> list[dict[str, Any]]:
    """Read orders from JSON Lines.

    Raises:
        MixError: The file is not there, empty, or a line is no order.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MixError(f"{path}: {error}") from error
    orders = [_order(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not orders:
        raise MixError(f"{path}: has no orders; `exchange fixtures` writes some.")
    return orders


def _order(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        order = json.loads(line)
    except ValueError as error:
        raise MixError(f"{path}, line {number}: {error}") from error
    if not isinstance(order, dict):
        raise MixError(f"{path}, line {number}: is no JSON object.")
    return order


def _decimal(units: int, scale: int) -> str:
    """Write an amount as text, which the exchange takes as exactly as a number."""
    whole, fraction = divmod(units, 10**scale)
    return f"{whole}.{fraction:0{scale}d}"
