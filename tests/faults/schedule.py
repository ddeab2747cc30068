"""Which faults happen when: a plan that a seed and a duration determine.

A run has rounds. In a round some lanes work side by side, each doing its faults one after the
other; a round ends with everything killed at once, when all lanes are done. So faults of
different lanes overlap, in ways that the seed and the machine decide, and after each round
there is a quiet point.
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
    "restart Kafka": ("services", 11),
    "freeze Kafka": ("services", 5),
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
}
EVERYTHING = "kill everything"
ROUNDS = 10  # in REFERENCE_MINUTES; each ends with EVERYTHING
KINDS = (*COUNTS, EVERYTHING)
ROUND_END_S = 25.0  # of a round's time, for killing everything, healing and looking


@dataclass(frozen=True)
class Fault:
    """One fault: what, to which of several (a number to be taken modulo), when in its round."""

    kind: str
    target: int
    at_s: float
    lasts_s: float


@dataclass(frozen=True)
class Round:
    """The faults of each lane, and whether everything is killed at the end."""

    lanes: dict[str, list[Fault]]
    kill_everything: bool


def plan(minutes: float, seed: int, kinds: Sequence[str] = KINDS, shards: int = 2) -> list[Round]:
    """Return the rounds of a run; each of ``kinds`` happens at least once."""
    chance = random.Random(seed)
    rounds = _scaled(ROUNDS, minutes)
    lasting_s = minutes * 60 / rounds
    faulty_s = max(lasting_s / 2, lasting_s - ROUND_END_S)
    lanes = _lanes(minutes, chance, kinds, shards)
    return [
        Round(
            {
                name: _timed(faults[number::rounds], faulty_s, chance)
                for name, faults in lanes.items()
            },
            EVERYTHING in kinds,
        )
        for number in range(rounds)
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


def _timed(
    faults: Sequence[tuple[str, int]], faulty_s: float, chance: random.Random
) -> list[Fault]:
    step_s = faulty_s / max(1, len(faults))
    return [
        Fault(kind, target, (number + chance.random() / 2) * step_s, chance.uniform(0.5, 3.0))
        for number, (kind, target) in enumerate(faults)
    ]


def _scaled(count: int, minutes: float) -> int:
    return max(1, math.ceil(count * minutes / REFERENCE_MINUTES))
