"""The projector's process."""

from typing import Final

from exchange.config import Settings
from exchange.processes.pool import engine_of
from exchange.processes.running import redis_client, tracing_as
from exchange.telemetry.metrics import serve_metrics
from projections.projector.metrics import ProjectorMetrics
from projections.projector.projector import run_projector
from projections.projector.snapshotter import SnapshotPace

PROJECTOR_SETTINGS: Final = {
    # See projections/stores/postgres.py for why these sessions need not wait for the disk.
    "synchronous_commit": "off",
    # Every statement of a projector has an index. A plan that was made while a table was small must
    # not go on reading all of it when it is large, or has many former versions of its rows.
    "enable_seqscan": "off",
}

# With many shards and generations followers take turns: that is no outage of the store.
TURN_S: Final = 20.0


async def run_projections(settings: Settings) -> None:
    """Keep every read model up to date."""
    metrics = ProjectorMetrics()
    serve_metrics(metrics.registry, settings.host, settings.projector_metrics_port)
    with tracing_as("projector", settings):
        async with (
            engine_of(
                settings, settings.projector_connections, TURN_S, **PROJECTOR_SETTINGS
            ) as engine,
            redis_client(settings) as redis,
        ):
            pace = SnapshotPace(settings.snapshot_events, settings.snapshot_seconds)
            await run_projector(
                engine,
                redis,
                pace_ms=settings.projector_pace_ms,
                snapshots=pace,
                metrics=metrics,
            )
