"""What a trace of Chromium says about the main thread of a page."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

CATEGORIES: Final = ("devtools.timeline", "disabled-by-default-devtools.timeline")
TASK: Final = "RunTask"
FRAME: Final = "FireAnimationFrame"

Thread = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Traced:
    """Milliseconds of processor time: the work from one frame to the next, and of each task."""

    frames_ms: list[float]
    tasks_ms: list[float]


def traced(trace: bytes) -> Traced:
    """Read a trace. The page's main thread is the one that drew most frames."""
    events = [event for event in msgspec.json.decode(trace)["traceEvents"] if "ts" in event]
    drawn = by_thread(event for event in events if event["name"] == FRAME)
    main = max(drawn, key=lambda thread: len(drawn[thread]))
    tasks = by_thread(event for event in events if event["name"] == TASK and "dur" in event)[main]
    begins = sorted({event["ts"] for event in drawn[main]})
    return Traced(
        frames_ms=work_between(begins, sorted(tasks, key=lambda task: task["ts"])),
        tasks_ms=[task.get("tdur", 0) / 1_000 for task in tasks],
    )


def by_thread(events: Iterable[dict[str, Any]]) -> dict[Thread, list[dict[str, Any]]]:
    """Return events by the thread of a process that they happened in."""
    found: dict[Thread, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        found[event["pid"], event["tid"]].append(event)
    return found


def work_between(begins: list[int], tasks: list[dict[str, Any]]) -> list[float]:
    """Return the work from the end of each task that drew a frame to that of the next."""
    work: list[float] = []
    frame, spent_us = 0, 0
    for task in tasks:
        end_us = task["ts"] + task["dur"]
        spent_us += task.get("tdur", 0)
        if frame < len(begins) and task["ts"] <= begins[frame] <= end_us:
            work.append(spent_us / 1_000)
            spent_us = 0
        while frame < len(begins) and begins[frame] <= end_us:
            frame += 1
    return work[1:]  # nobody knows when the first one began
