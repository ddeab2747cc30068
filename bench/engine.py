"""How many commands a second does the engine decide and apply in memory?

Workload: ``decide`` and ``evolve`` of a fixed list of commands, made before the clock starts: 41 %
cancels of orders that may still rest, 18 % orders at the market, the others limited, of 100
clients. Once on shallow books, whose prices are near the touch, and once on deep ones, which begin
with 100,000 resting orders over 20,000 prices. Once more with the digest of the state every 100
commands, as a matcher computes it for each batch. Replays apply the same events without deciding.

Processor time counts, so other work on the machine hardly shows.

Not included: reading commands, claims, JSON, the hash chain, any store.
"""

import argparse
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Final

from bench.runner import Findings, Goal, ask, parser_of, spread, table_of
from exchange.domain.commands import CancelOrder, Command, PlaceOrder, RegisterInstrument
from exchange.domain.engine import State, decide, evolve
from exchange.domain.events import Event
from exchange.domain.values import OrderType, Price, Quantity, Side

NAME: Final = "BTC-USD"
TOUCH: Final = 7_000_000
CANCELS: Final = 0.41
MARKET: Final = 0.18
CLIENTS: Final = 100
RESTING: Final = 100_000
BATCH: Final = 100  # commands between two digests
TIME_MS: Final = 1_790_000_000_000
WANTED: Final = 650_000


@dataclass(frozen=True, slots=True)
class Measured:
    """Commands, and events, a second of processor time, by round."""

    commands: int
    decided: dict[str, list[float]] = field(default_factory=dict)
    digested: dict[str, list[float]] = field(default_factory=dict)
    replayed: dict[str, list[float]] = field(default_factory=dict)


def mix(chance: Random, count: int, levels: int) -> list[Command]:
    """Return commands whose prices are within so many levels of the touch."""
    placed: list[str] = []
    commands: list[Command] = []
    for number in range(count):
        if placed and chance.random() < CANCELS:
            at = chance.randrange(len(placed))
            placed[at], placed[-1] = placed[-1], placed[at]
            commands.append(CancelOrder(placed.pop(), NAME, None))
            continue
        placed.append(f"{number:032x}-{NAME}")
        commands.append(order(chance, placed[-1], levels))
    return commands


def order(chance: Random, order_id: str, levels: int) -> PlaceOrder:
    """Return an order that trades with some likelihood."""
    market = chance.random() < MARKET / (1 - CANCELS)
    return PlaceOrder(
        order_id,
        f"client-{chance.randrange(CLIENTS)}",
        NAME,
        chance.choice((Side.BUY, Side.SELL)),
        OrderType.MARKET if market else OrderType.LIMIT,
        None if market else Price(TOUCH + chance.randint(-levels, levels)),
        Quantity(chance.randint(1, 1_000)),
    )


def opened(chance: Random, resting: int) -> State:
    """Return a state with a book of so many orders, beyond the prices of the mix."""
    state = State()
    first = RegisterInstrument(NAME, "BTC", "USD", 2, 8, Price(1), Quantity(1))
    run(state, [first])
    for number in range(resting):
        side = chance.choice((Side.BUY, Side.SELL))
        away = chance.randint(2_001, 12_000) * (-1 if side is Side.BUY else 1)
        of = PlaceOrder(
            f"deep-{number}",
            f"client-{chance.randrange(CLIENTS)}",
            NAME,
            side,
            OrderType.LIMIT,
            Price(TOUCH + away),
            Quantity(1_000),
        )
        run(state, [of])
    return state


def run(state: State, commands: Sequence[Command], digest_every: int = 0) -> list[Event]:
    """Decide and apply commands as a matcher does, and return their events."""
    every: list[Event] = []
    for number, command in enumerate(commands):
        events = decide(state, command, time_ms=TIME_MS + number)
        for event in events:
            evolve(state, event)
        every += events
        if digest_every and number % digest_every == 0:
            _ = state.digest
    return every


def replay(state: State, events: Sequence[Event]) -> None:
    """Apply events as a restoring matcher does."""
    for event in events:
        evolve(state, event)


def measure(commands: int, rounds: int) -> Measured:
    """Measure both kinds of books in turns."""
    measured = Measured(commands)
    gc.disable()  # the matcher's process collects rarely
    for number in range(rounds + 1):
        for name, resting in (("shallow", 0), ("deep", RESTING)):
            chance = Random(number)
            asked = mix(chance, commands, 1_000)
            states = [opened(Random(1), resting) for _ in range(3)]
            ends_s = [time.process_time()]
            events = run(states[0], asked)
            ends_s.append(time.process_time())
            run(states[1], asked, BATCH)
            ends_s.append(time.process_time())
            replay(states[2], events)
            ends_s.append(time.process_time())
            assert len({state.digest for state in states}) == 1
            if number:  # the first warms up
                counts = (commands, commands, len(events))
                rates = (measured.decided, measured.digested, measured.replayed)
                for at, (count, some) in enumerate(zip(counts, rates, strict=True)):
                    some.setdefault(name, []).append(count / (ends_s[at + 1] - ends_s[at]))
            gc.collect()
    return measured


def findings(measured: Measured) -> Findings:
    """Return the medians over the rounds."""
    table = table_of("books", "commands/s", "with digests", "events/s, replayed")
    for name, rates in measured.decided.items():
        digested, replayed = measured.digested[name], measured.replayed[name]
        table.add_row(name, spread(rates), spread(digested), spread(replayed))
    least = min(median(rates) for rates in measured.decided.values())
    return Findings(
        f"{measured.commands:,} commands in each round",
        [table],
        [Goal("commands/s, of the slower books", least, WANTED)],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", type=int, default=200_000)

    def measured(options: argparse.Namespace) -> Measured:
        return measure(options.commands, options.rounds)

    ask(parser, measured, findings)


if __name__ == "__main__":
    main()
