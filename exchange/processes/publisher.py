"""The publisher's process: whoever serves and matches goes first."""

import os
from typing import Final

from exchange.config import PUBLISHER_CONNECTIONS, Settings
from exchange.processes.pool import engine_of
from exchange.telemetry.metrics import serve_metrics
from projections.publisher.metrics import PublisherMetrics
from projections.publisher.publisher import Publisher

NICENESS: Final = 10
TURN_S: Final = 20.0  # shards take turns with the connections: that is no outage of the store


async def run_publisher(settings: Settings) -> None:
    """Send every event of the log to the topic of events."""
    os.nice(NICENESS)
    metrics = PublisherMetrics()
    serve_metrics(metrics.registry, settings.host, settings.publisher_metrics_port)
    async with engine_of(settings, PUBLISHER_CONNECTIONS, TURN_S) as engine:
        publisher = Publisher(
            engine,
            settings.kafka_bootstrap_servers,
            settings.kafka_events_topic,
            settings.shards,
            allow_unsafe=settings.allow_unsafe,
            metrics=metrics,
        )
        await publisher.run()
