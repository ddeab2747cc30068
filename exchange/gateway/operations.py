"""What operators and supervisors ask: is it alive, is it healthy, what does it count."""

import time
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.context import gateway_of
from exchange.gateway.health import UNHEALTHY
from exchange.gateway.operation import Operation, operation
from exchange.gateway.requests import query
from exchange.gateway.responses import json_response, timestamp

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class LivenessView(Struct, frozen=True):
    """What ``GET /livez`` answers."""

    status: str


class HealthView(Struct, frozen=True):
    """What ``GET /healthz`` answers."""

    status: str
    timestamp: str
    checks: dict[str, str]
    matching: dict[str, str]
    projections: dict[str, str]


@operation(Operation(tag="operating", answers={200: (LivenessView,)}))
async def get_liveness(request: Request) -> Response:
    """``GET /livez``: the process runs and its event loop turns."""
    query(request)
    return json_response(LivenessView("alive"))


@operation(Operation(tag="operating", answers={200: (HealthView,), 503: (HealthView,)}))
async def get_health(request: Request) -> Response:
    """``GET /healthz``: 503 while orders cannot be taken or are not decided."""
    query(request)
    health = gateway_of(request).health
    view = HealthView(
        status=health.status,
        timestamp=timestamp(time.time_ns() // 1_000_000),
        checks=health.checks,
        matching=health.matching,
        projections=health.projections,
    )
    return json_response(view, 503 if health.status == UNHEALTHY else 200)


@operation(Operation(tag="operating", answers={200: ()}, media_type="text/plain"))
async def get_metrics(request: Request) -> Response:
    """``GET /metrics``."""
    query(request)
    return Response(gateway_of(request).metrics.text(), media_type=METRICS_MEDIA_TYPE)
