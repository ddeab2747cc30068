"""The projector's metrics, and its spans for sampled orders.

Read ``FollowerWatch.applying``. The labels of a follower are bound once. A batch costs two
observations, however many events it has.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from exchange.telemetry import tracing
from exchange.telemetry.metrics import ProcessMetrics

BATCH_EVENTS_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
APPLY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PLACE: Final = ("projection", "generation", "shard")


class FollowerWatch:
    """The metrics of one follower."""

    def __init__(self, metrics: "ProjectorMetrics", name: str, generation: int, shard: int) -> None:
        part = self._part = (name, str(generation), str(shard))
        self._metrics = metrics
        self._name = name
        self._position_gauge = metrics.positions.labels(*part)
        self._lag_events = metrics.lags_events.labels(*part)
        self._lag_seconds = metrics.lags_seconds.labels(*part)
        self._batch_events = metrics.batches_events.labels(name)
        self._apply_seconds = metrics.applies_seconds.labels(name)
        self.position = 0

    def reached(self, position: int) -> None:
        """Note the position that the follower has reached."""
        self.position = position
        self._position_gauge.set(position)

    def lags(self, events: int, seconds: float) -> None:
        """Note how far the follower is behind: ``events``, and the age of the oldest of them."""
        self._lag_events.set(events)
        self._lag_seconds.set(seconds)

    def forget(self) -> None:
        """Remove the follower's gauges: its generation is retired or paused."""
        for gauge in self._metrics.of_parts:
            gauge.remove(*self._part)

    @contextmanager
    def applying(self, events: int, traces: Sequence[str]) -> Iterator[None]:
        """Measure how a batch is applied, with a span in the traces of its sampled orders."""
        begun_s = time.perf_counter()
        with tracing.hop(f"apply {self._name}", traces):
            yield
        self._apply_seconds.observe(time.perf_counter() - begun_s)
        self._batch_events.observe(events)


class ProjectorMetrics(ProcessMetrics):
    """The metrics of one projector process."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = self.gauge(
            "exchange_projector_position", "Position of the last event that was applied", *PLACE
        )
        self.lags_events = self.gauge(
            "exchange_projector_lag_events", "Events of the log that are not applied yet", *PLACE
        )
        self.lags_seconds = self.gauge(
            "exchange_projector_lag_seconds",
            "Age of the oldest event that is not applied yet; 0 if there is none",
            *PLACE,
        )
        self.of_parts = (self.positions, self.lags_events, self.lags_seconds)
        self.batches_events = self.histogram(
            "exchange_projector_batch_events",
            "Events that were applied at once",
            BATCH_EVENTS_BUCKETS,
            "projection",
        )
        self.applies_seconds = self.histogram(
            "exchange_projector_apply_seconds",
            "Time to apply a batch and move its checkpoint",
            APPLY_BUCKETS_S,
            "projection",
        )
        self.failed = self.gauge(
            "exchange_projector_failed_generations",
            "Generations that failed: they stopped at an event, or differ from the log",
        )
        self.snapshots = self.counter(
            "exchange_projector_snapshots", "Engine snapshots taken", "shard"
        )
        self.snapshots_stopped = self.gauge(
            "exchange_projector_snapshots_stopped",
            "Whether the log does not give the state that the matcher had, so that none is taken",
            "shard",
        )
