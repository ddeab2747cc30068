"""What a builder process counts: how far its build is, and how builds ended.

Read ``BuilderMetrics``. Every outcome of every projection is 0 from the start, so that the first
failed build is an increase that an alert sees; a label that appears with the value 1 is none. How
far a build is, is shown only while it runs: what stays behind would look like a build that stands
still.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            "Events that the running build has applied",
            "projection",
        )
        self.events_wanted = self.gauge(
            "exchange_builder_events_wanted",
            "Events that the running build needs to be as far as the log",
            "projection",
        )
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

    @contextmanager
    def building(
        self, projection: str, done: Callable[[], int], wanted: Callable[[], int]
    ) -> Iterator[None]:
        """Show how far the build of a projection is, until it ends."""
        self.events_done.labels(projection).set_function(done)
        self.events_wanted.labels(projection).set_function(wanted)
        try:
            yield
        finally:
            self.events_done.remove(projection)
            self.events_wanted.remove(projection)
