"""The projector's process."""

from exchange.config import Settings
from exchange.processes.pool import engine_of
from exchange.processes.running import redis_client, tracing_as
from exchange.telemetry.metrics import serve_metrics
from projections.projector.metrics import ProjectorMetrics
from projections.projector.projector import run_projector
from projections.projector.snapshotter import SnapshotPace


async def run_projections(settings: Settings) -> None:
    """Keep every read model up to date."""
    # See projections/stores/postgres.py for why these sessions need not wait for the disk.
    metrics = ProjectorMetrics()
    serve_metrics(metrics.registry, settings.host, settings.projector_metrics_port)
    with tracing_as("projector", settings):
        async with (
            engine_of(settings, settings.database_pool_max, synchronous_commit="off") as engine,
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
