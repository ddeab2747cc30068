"""How a process declares its metrics, and the address where they are read.

``serve_metrics`` is for a process without other HTTP: ``GET /metrics`` on a port of its own. It
runs in a thread that sleeps until somebody asks, so the event loop only counts.
"""

import logging
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

logger = logging.getLogger(__name__)


class ProcessMetrics:
    """The metrics of one process, in a registry of their own.

    Each metric has the labels ``common``, then its own.
    """

    def __init__(self, *common: str) -> None:
        self.registry = CollectorRegistry()
        self._common = common

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, self._common + labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, self._common + labels, registry=self.registry)

    def histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        every = self._common + labels
        return Histogram(name, meaning, every, buckets=buckets, registry=self.registry)


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> None:
    """Serve a registry for as long as the process lives; port 0 serves nothing.

    A port that is taken is only logged: trading does not stop because it cannot be watched.
    """
    if port == 0:
        return
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        fields = {"host": host, "port": port, "error": str(error)}
        logger.warning("Nobody can read this process's metrics", extra=fields)
    else:
        logger.info("Metrics can be read", extra={"url": f"http://{host}:{port}/metrics"})
