"""The scrape address of a process that serves no other HTTP: ``GET /metrics`` on a port of its own.

It runs in a thread of its own that sleeps until somebody asks, so counting costs the
event loop nothing but the counting.
"""

import logging

from prometheus_client import CollectorRegistry, start_http_server

logger = logging.getLogger(__name__)


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> None:
    """Serve a registry for as long as the process lives; port 0 serves nothing.

    A port that is taken is told and no more: nobody stops trading to be watched.
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
