"""What operators and supervisors ask: is it alive, is it healthy, what does it count."""

import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.context import gateway_of
from exchange.gateway.health import UNHEALTHY
from exchange.gateway.responses import json_response, timestamp

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def get_liveness(_request: Request) -> Response:
    """``GET /livez``: the process runs and its event loop turns."""
    return json_response({"status": "alive"})


async def get_health(request: Request) -> Response:
    """``GET /healthz``: 503 while orders cannot be taken or are not decided."""
    health = gateway_of(request).health
    document = {
        "status": health.status,
        "timestamp": timestamp(time.time_ns() // 1_000_000),
        "checks": health.checks,
        "matching": health.matching,
        "projections": health.projections,
    }
    return json_response(document, 503 if health.status == UNHEALTHY else 200)


async def get_metrics(request: Request) -> Response:
    """``GET /metrics``."""
    return Response(gateway_of(request).metrics.text(), media_type=METRICS_MEDIA_TYPE)
