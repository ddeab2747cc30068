"""The judges of a run: they see the history, the log and the read models, and nothing else.

Read ``judge``: for each invariant of ``docs/faults.md``, by its letter, it returns the violations.
The checks of log and answers are in ``tests/checks.py``. The checks here need a history with times:
subscribers (G), healing (H), rebuilds (L), readers (Q), resources (R), the run's own end (X). The
topic of events (P) is read when the run is over.
"""

import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import msgspec

from exchange.ports import StoredEvent
from tests.checks import (
    Record,
    check_batches,
    check_chain,
    check_history,
    check_matching,
    check_orders_add_up,
    check_positions,
    check_positions_sum_to_zero,
    check_replay,
    check_states,
)
from tests.faults.history import Line, Recorded
from tests.faults.schedule import EVERYTHING
from tests.load import is_outcome
from tests.projections.models import Models, check_models, fold_models

HEAL_MAX_S = 30.0
RSS_MAX_BYTES = 600_000_000  # of one process; about 100 MB each when in order
FILES_MAX = 500  # pools and WebSockets have bounds well below
GROWTH_BYTES = 64_000_000  # of one process's life, or of a name's from start to end
KILLS_POSTGRES = ("restart PostgreSQL", EVERYTHING)
GROWTH_SAMPLES_MIN = 12  # a minute; a younger process is still filling its caches


@dataclass
class Evidence:
    """What a run left behind."""

    recorded: Recorded
    log: list[StoredEvent]
    heads: Sequence[Record] = field(default_factory=list)
    batches: Sequence[Record] = field(default_factory=list)
    models: Models = field(default_factory=dict)
    published: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    """By shard, position and chain of each record in the topic of events."""

    def shards(self) -> Iterator[tuple[Record, list[StoredEvent], list[Record]]]:
        """Yield each shard's head, events and batches."""
        for head in self.heads:
            shard = head["shard"]
            events = [e for e in self.log if e.shard == shard]
            yield head, events, [b for b in self.batches if b["shard"] == shard]


def judge(evidence: Evidence) -> dict[str, str]:
    """Return, for each invariant that does not hold, what speaks against it."""
    failures: dict[str, str] = {}
    for letter, check in CHECKERS.items():
        try:
            check(evidence)
        except Exception as error:  # evidence so bad that a checker stumbles is bad evidence
            failures[letter] = f"{type(error).__name__}: {error}"[:500]
    return failures


def check_a(evidence: Evidence) -> None:
    """Every answered command is in the log exactly once, as it was answered."""
    check_history(evidence.recorded.history, evidence.log)


def check_b(evidence: Evidence) -> None:
    """The state rebuilt from the log is the one that the matcher recorded."""
    for head, events, batches in evidence.shards():
        check_replay(events, head["state_digest"])
        check_states(events, batches)


def check_c(evidence: Evidence) -> None:
    """Nothing of an order is lost or gained, nor of the positions in sum."""
    check_orders_add_up(evidence.log)
    check_positions_sum_to_zero(list(evidence.models["positions"].values()))


def check_d(evidence: Evidence) -> None:
    """The book is never crossed; first in, first out within a price."""
    check_matching(evidence.log)


def check_e(evidence: Evidence) -> None:
    """Positions have no gaps, the chain verifies, and zombies append nothing and exit."""
    for head, events, batches in evidence.shards():
        check_positions(events, head["position"])
        check_chain(events, head["chain"])
        check_batches(events, batches)
    for fault in evidence.recorded.of("fault"):
        assert fault.get("zombie_ended", True), f"a zombie lives on: {fault}"
    for ended in evidence.recorded.of("exit"):
        assert ended["code"] != 0, f"ended as if all were well: {ended}"


def check_f(evidence: Evidence) -> None:
    """Every read model equals the fold of the log."""
    check_models(evidence.models, fold_models(evidence.log))


def check_g(evidence: Evidence) -> None:
    """Every subscriber got every trade from its start once, and has the book."""
    for line in evidence.recorded.of("broken"):
        raise AssertionError(f"subscriber {line['n']} saw {line['error']}")
    traded: dict[str, list[int]] = defaultdict(list)
    for e in evidence.log:
        if e.type == "TradeExecuted" and e.instrument is not None:
            traded[e.instrument].append(e.position)
    for line in evidence.recorded.of("book"):
        told = _told(line, evidence.recorded.of("trades"))
        expected = [place for place in traded[line["instrument"]] if place > line["start"]]
        assert told == expected, f"subscriber {line['n']}: {len(told)} of {len(expected)} trades"
        book = evidence.models["book"].get(line["instrument"], {"bids": [], "asks": []})
        for side, levels in book.items():
            assert sorted(map(tuple, line[side])) == sorted(levels), (
                f"subscriber {line['n']} has other {side}"
            )


def _told(subscriber: Line, messages: Sequence[Line]) -> list[int]:
    """Return the trades that a subscriber was told, having checked that it could see no gap."""
    reached = subscriber["start"]
    told: list[int] = []
    for message in messages:
        if message["n"] != subscriber["n"]:
            continue
        assert message["prev"] <= reached < message["sequence"], ("a gap or repetition", message)
        reached = message["sequence"]
        told += message["sequences"]
    return told


def check_h(evidence: Evidence) -> None:
    """After each fault the exchange is in order again within the time."""
    times = heal_times(evidence.recorded)
    for fault, healed_s in zip(evidence.recorded.of("fault"), times, strict=True):
        assert healed_s is not None, f"never healed: {fault}"
        assert healed_s < HEAL_MAX_S, f"healed after {healed_s:.1f} s: {fault}"


def check_l(evidence: Evidence) -> None:
    """Every rebuild that was asked for went live."""
    begun = {(r["projection"], r["generation"]) for r in evidence.recorded.of("rebuild begun")}
    ended = evidence.recorded.of("rebuild")
    for rebuild in ended:
        assert rebuild["state"] == "live", rebuild
    missing = begun - {(rebuild["projection"], rebuild["generation"]) for rebuild in ended}
    assert not missing, f"never ended: {sorted(missing)}"


def check_p(evidence: Evidence) -> None:
    """The topic of events has each position once, in order, and ends with the log's chain."""
    for head in evidence.heads:
        records = evidence.published.get(head["shard"], [])
        told = [position for position, _ in records]
        assert told == [*range(1, head["position"] + 1)], _first_wrong(told, head)
        assert records[-1][1] == head["chain"].hex(), f"shard {head['shard']} ends otherwise"


def _first_wrong(told: Sequence[int], head: Record) -> str:
    wanted = [*range(1, head["position"] + 1)]
    at = next((n for n, pair in enumerate(zip(told, wanted, strict=False)) if len({*pair}) > 1), -1)
    near = told[at - 1 : at + 2] if at > 0 else told[-1:]
    return f"shard {head['shard']}: {len(told)} records of {len(wanted)} events, at {near}"


def check_q(evidence: Evidence) -> None:
    """No reader was answered with less than before, nor with an empty model."""
    for fell in evidence.recorded.of("fell"):
        assert not fell["emptied"], fell
        assert _lost_newest(fell, evidence.recorded.of("fault")), fell


def _lost_newest(fell: Line, faults: Sequence[Line]) -> bool:
    """Tell whether PostgreSQL was killed between two answers.

    Read models do not wait for its disk, so it may lose what they took up in the last moments.
    """
    return any(
        fault["fault"] in KILLS_POSTGRES
        and fault["began"] < fell["t"]
        and fell["since"] < _end(fault)
        for fault in faults
    )


def check_r(evidence: Evidence) -> None:
    """Memory and descriptors of each process are bounded and do not grow."""
    lives: dict[tuple[str, int], list[Line]] = defaultdict(list)
    names: dict[str, list[Line]] = defaultdict(list)
    for line in evidence.recorded.of("process"):
        assert line["rss"] <= RSS_MAX_BYTES, line
        assert line["files"] <= FILES_MAX, line
        lives[line["name"], line["pid"]].append(line)
        names[line["name"]].append(line)
    for samples in (*lives.values(), *names.values()):
        _check_growth(samples)


def _check_growth(samples: Sequence[Line]) -> None:
    if len(samples) < GROWTH_SAMPLES_MIN:
        return
    third = len(samples) // 3
    for what, allowed in (("rss", GROWTH_BYTES), ("files", FILES_MAX / 5)):
        early = statistics.median(line[what] for line in samples[third : 2 * third])
        late = statistics.median(line[what] for line in samples[2 * third :])
        assert late <= early + allowed, f"{what} of {samples[0]['name']}: {early} to {late}"


def check_s(evidence: Evidence) -> None:
    """While a client is suspended on a shard, none of its orders is accepted there."""
    suspended: set[tuple[int, str]] = set()
    for event in evidence.log:
        who = event.shard, str(msgspec.json.decode(event.data).get("client_id"))
        if event.type == "ClientSuspended":
            suspended.add(who)
        elif event.type == "ClientResumed":
            suspended.discard(who)
        else:
            assert event.type != "OrderAccepted" or who not in suspended, event


def check_x(evidence: Evidence) -> None:
    """The run went to its end: nothing that it waited for stayed away."""
    errors = [line["error"] for line in evidence.recorded.of("failed")]
    assert not errors, "; ".join(errors)


CHECKERS: dict[str, Callable[[Evidence], None]] = {
    "A": check_a,
    "B": check_b,
    "C": check_c,
    "D": check_d,
    "E": check_e,
    "F": check_f,
    "G": check_g,
    "H": check_h,
    "L": check_l,
    "P": check_p,
    "Q": check_q,
    "R": check_r,
    "S": check_s,
    "X": check_x,
}


def heal_times(recorded: Recorded) -> list[float | None]:
    """Return, for each fault, how long after its end all was in order; None: never.

    In order: on each instrument an order sent since then has its outcome, and every read model
    has reached where the log was then.
    """
    resolved = _resolutions(recorded)
    progress = recorded.of("progress")
    return [_healed_s(_end(fault), resolved, progress) for fault in recorded.of("fault")]


def _end(fault: Line) -> float:
    return float(fault["ended"] if "ended" in fault else fault["t"])


def _healed_s(
    end: float, resolved: dict[str, tuple[list[float], list[float]]], progress: Sequence[Line]
) -> float | None:
    answered = [_first_after(end, *times) for times in resolved.values()]
    caught_up = _caught_up(end, progress)
    if caught_up is None or not answered or None in answered:
        return None
    return max(caught_up, *(time for time in answered if time is not None)) - end


def _resolutions(recorded: Recorded) -> dict[str, tuple[list[float], list[float]]]:
    """Return for each instrument when its orders began, and the first outcome since each."""
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for command in recorded.history.commands:
        if command.path == "/orders" and command.outcome is not None:
            pair = (command.invoked_s, command.outcome.at_s)
            pairs[command.body["instrument"]].append(pair)
    found: dict[str, tuple[list[float], list[float]]] = {}
    for instrument, times in pairs.items():
        times.sort()
        earliest = list(accumulate((ended for _, ended in reversed(times)), min))
        found[instrument] = ([began for began, _ in times], earliest[::-1])
    return found


def _first_after(end: float, began: list[float], earliest: list[float]) -> float | None:
    place = bisect_left(began, end)
    return earliest[place] if place < len(earliest) else None


def _caught_up(end: float, progress: Sequence[Line]) -> float | None:
    """Return when every read model was where the log was at ``end``."""
    first = bisect_left(progress, end, key=lambda line: line["began"])
    if first == len(progress):
        return None
    heads = progress[first]["heads"]
    for line in progress[first:]:
        reached = line["reached"].values()
        if all(model.get(s, -1) >= head for model in reached for s, head in heads.items()):
            return float(line["t"])
    return None


def calls(recorded: Recorded) -> dict[str, int]:
    """Count the calls and what their attempts brought."""
    answers = [answer for c in recorded.history.commands for answer in c.answers]
    ok = sum(is_outcome(answer) and answer.status < 400 for answer in answers)
    refused = sum(is_outcome(answer) and answer.status >= 400 for answer in answers)
    attempts = sum(c.attempts for c in recorded.history.commands)
    return {
        "commands": len(recorded.history.commands),
        "ok": ok,
        "refused": refused,
        "unknown": attempts - ok - refused,
    }
