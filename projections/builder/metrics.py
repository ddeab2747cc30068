"""What a builder process counts: how far its build is, and how builds ended.

Read ``BuilderMetrics``. Every outcome of every projection is 0 from the start, so that the first
failed build is an increase that an alert sees; a label that appears with the value 1 is none. How
far a rebuild is, is shown from its first event to its switch, and not after it: what stays behind
would look like a rebuild that stands still.
"""

from collections.abc import Set
from typing import Final

from exchange.telemetry.metrics import ProcessMetrics
from projections.registry import READ_MODELS

SWITCHED: Final = "switched"  # readers have it
FAILED: Final = "failed"  # it stopped, and readers have the generation before it
DIFFERS: Final = "differs"  # verifying found a row that the log does not give: not switched
OUTCOMES: Final = (SWITCHED, FAILED, DIFFERS)


class BuilderMetrics(ProcessMetrics):
    """The metrics of one builder process."""

    def __init__(self) -> None:
        super().__init__()
        self.events_done = self.gauge(
            "exchange_builder_events_done",
            "Events that this step of the running rebuild has applied, or compared",
            "projection",
            "step",
        )
        self.events_wanted = self.gauge(
            "exchange_builder_events_wanted",
            "Events that this step of the running rebuild has to apply, or compare",
            "projection",
            "step",
        )
        self.seconds_left = self.gauge(
            "exchange_builder_seconds_left",
            "How long the running rebuild still takes, while that can be told",
            "projection",
        )
        self._steps: dict[str, str] = {}  # that are shown, by projection
        self.builds = self.counter(
            "exchange_builder_builds", "Builds that ended, by how", "projection", "outcome"
        )
        self.build_seconds = self.gauge(
            "exchange_builder_build_seconds",
            "How long the last build took, from its first read of the log to its end",
            "projection",
        )
        for projection in READ_MODELS:
            for outcome in OUTCOMES:
                self.builds.labels(projection, outcome)

    def show(
        self, projection: str, step: str, done: int, wanted: int, left_s: float | None
    ) -> None:
        """Show how far the rebuild of a projection is, in place of what was shown of it."""
        if self._steps.get(projection) != step:
            self._hide(projection)
        self._steps[projection] = step
        self.events_done.labels(projection, step).set(done)
        self.events_wanted.labels(projection, step).set(wanted)
        if left_s is not None:
            self.seconds_left.labels(projection).set(left_s)

    def show_only(self, projections: Set[str]) -> None:
        """Show no rebuild of any other projection: it has ended."""
        for projection in self._steps.keys() - projections:
            self._hide(projection)

    def _hide(self, projection: str) -> None:
        step = self._steps.pop(projection, None)
        if step is None:
            return
        self.events_done.remove(projection, step)
        self.events_wanted.remove(projection, step)
        # It is told in some steps only; a later step must not show what an earlier one told.
        self.seconds_left.labels(projection)
        self.seconds_left.remove(projection)
