"""A sample of the log with every type of event, in ``sample.jsonl``: a stored event a line.

The real engine made it: ``python -m tests.projections.sample`` writes it again. For a new type of
event, put a command that causes it last in ``_commands``, so that the earlier lines stay as they
are. No other change makes a new sample: the digests in ``rules.json`` are of this one.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    LimitOpenOrders,
    MalformedRecord,
    PlaceShard,
)
from exchange.domain.engine import State
from exchange.domain.values import Shard
from exchange.ports import StoredEvent
from tests.builders import account_commands
from tests.projections.logs import doubled, execute, random_commands, registrations, retried

FILE: Final = Path(__file__).with_name("sample.jsonl")
OFFSETS: Final = 20  # from a command to the next: five seconds, so that the log spans minutes


def read_sample() -> list[StoredEvent]:
    """Return the sample as it is committed, shard by shard."""
    return msgspec.json.Decoder(StoredEvent).decode_lines(FILE.read_bytes())


def make_sample() -> Iterator[StoredEvent]:
    """Decide the sample's commands on two shards that share the order ids."""
    taken: set[str] = set()
    for shard in (Shard(0), Shard(1)):
        state, chance = State(), random.Random(shard)
        for number, command in enumerate(_commands(state, shard, chance)):
            yield from execute(state, shard, command, OFFSETS * number, taken)


def _commands(state: State, shard: int, chance: random.Random) -> Iterator[Command]:
    small, _ = registrations(shard)
    resting, *_ = doubled(shard)
    yield from registrations(shard) + doubled(shard)
    yield resting  # its id is taken
    for cycle in (1, 3, 2):  # the second cut closes two cycles, the third is refused
        for _ in range(25):
            yield from random_commands(state, shard, chance, 1)
        yield CloseSettlementCycle(cycle)
    yield small
    yield CancelOrder("nobody's", f"SMALL-{shard}", "ann")
    yield PlaceShard(2)
    yield MalformedRecord("no JSON", "ab" * 32, 3)
    yield from retried(shard)
    yield LimitOpenOrders(1)
    yield from random_commands(state, shard, chance, 10)
    yield CancelAllOrders("nobody")  # has no order, so the digests of all tables stay
    yield from account_commands()  # nor is an order of who is suspended here


if __name__ == "__main__":
    FILE.write_bytes(b"".join(msgspec.json.encode(stored) + b"\n" for stored in make_sample()))
