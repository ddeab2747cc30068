"""What a publisher process counts."""

from typing import Final

from exchange.telemetry.metrics import ProcessMetrics

COMMIT_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PublisherMetrics(ProcessMetrics):
    """The metrics of one publisher process."""

    def __init__(self) -> None:
        super().__init__()
        self.events = self.counter(
            "exchange_publisher_events", "Events that were committed to the topic", "shard"
        )
        self.position = self.gauge(
            "exchange_publisher_position", "Position of the last event in the topic", "shard"
        )
        self.commit_seconds = self.histogram(
            "exchange_publisher_commit_seconds", "Time of a transaction", COMMIT_BUCKETS_S
        )
        self.stopped = self.gauge(
            "exchange_publisher_stopped",
            "Whether a shard is not published because its topic does not go with the log",
            "shard",
        )
