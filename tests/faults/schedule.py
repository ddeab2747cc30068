"""Which faults happen when: a plan that a seed and a duration determine.

A run is a row of bursts. In a burst some lanes work side by side, each doing a few faults one
after the other without waiting for anything to heal, so that faults overlap in ways that the
seed and the machine decide. After a burst the run waits until all is in order: the time from
a fault's end until then is its heal time. After some bursts everything is killed at once.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

REFERENCE_MINUTES = 20

# How many in REFERENCE_MINUTES, and in which lane; "shard" stands for one lane of each shard.
COUNTS: dict[str, tuple[str, int]] = {
    "kill matcher": ("shard", 110),
    "freeze matcher": ("shard", 34),
    "kill standby": ("shard", 34),
    "kill gateway": ("edge", 36),
    "freeze gateway": ("edge", 10),
    "kill projector": ("edge", 36),
    "freeze projector": ("edge", 10),
    "read history": ("edge", 8),
    "kill builder": ("builder", 50),
    "freeze builder": ("builder", 10),
    "kill publisher": ("publisher", 36),
    "freeze publisher": ("publisher", 10),
    "restart Kafka": ("services", 11),
    "freeze Kafka": ("services", 5),
    "lose tail": ("services", 6),
    "restart PostgreSQL": ("services", 11),
    "restart Redis": ("services", 11),
    "flush Redis": ("services", 12),
    "cut Kafka": ("services", 5),
    "cut PostgreSQL": ("services", 8),
    "cut Redis": ("services", 8),
    "slow Kafka": ("services", 4),
    "slow PostgreSQL": ("services", 6),
    "slow Redis": ("services", 6),
    "hold PostgreSQL": ("services", 4),
    "hold Redis": ("services", 4),
    "suspend client": ("admin", 12),
    "revoke key": ("admin", 12),
}
EVERYTHING = "kill everything"
EVERYTHING_COUNT = 11
KINDS = (*COUNTS, EVERYTHING)
BURSTS_A_MINUTE = 2
BURSTS_MIN = 3
FIRST_AT_S = 2.0  # faults begin up to this much later than their burst, so that load is on


@dataclass(frozen=True)
class Fault:
    """One fault: what, and to which of several (a number to be taken modulo).

    ``after_s`` is the wait before it, ``lasts_s`` how long it lasts if it is one that lasts.
    """

    kind: str
    target: int
    after_s: float
    lasts_s: float


@dataclass(frozen=True)
class Burst:
    """The faults of each lane, and whether everything is killed when they have healed."""

    lanes: dict[str, list[Fault]]
    kill_everything: bool


def plan(minutes: float, seed: int, kinds: Sequence[str] = KINDS, shards: int = 2) -> list[Burst]:
    """Return the bursts of a run; each of ``kinds`` happens at least once."""
    chance = random.Random(seed)
    bursts = max(BURSTS_MIN, round(BURSTS_A_MINUTE * minutes))
    lanes = _lanes(minutes, chance, kinds, shards)
    endings = _scaled(EVERYTHING_COUNT, minutes) if EVERYTHING in kinds else 0
    return [
        Burst(
            {
                name: [_timed(fault, chance) for fault in faults[number::bursts]]
                for name, faults in lanes.items()
            },
            # Spread evenly, the last burst among them.
            (number + 1) * endings // bursts > number * endings // bursts,
        )
        for number in range(bursts)
    ]


def _lanes(
    minutes: float, chance: random.Random, kinds: Sequence[str], shards: int
) -> dict[str, list[tuple[str, int]]]:
    """Return the shuffled faults of each lane: kind and target."""
    lanes: dict[str, list[tuple[str, int]]] = {}
    for kind, (lane, count) in COUNTS.items():
        for number in range(_scaled(count, minutes) if kind in kinds else 0):
            name = f"shard {number % shards}" if lane == "shard" else lane
            target = number % shards if lane == "shard" else chance.randrange(1_000)
            lanes.setdefault(name, []).append((kind, target))
    for faults in lanes.values():
        chance.shuffle(faults)
    return lanes


def _timed(fault: tuple[str, int], chance: random.Random) -> Fault:
    return Fault(*fault, after_s=chance.uniform(0, FIRST_AT_S), lasts_s=chance.uniform(0.5, 3.0))


def _scaled(count: int, minutes: float) -> int:
    return max(1, math.ceil(count * minutes / REFERENCE_MINUTES))
