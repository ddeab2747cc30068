"""For operators and supervisors: liveness, health, readiness and metrics."""

import time
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.callers import caller_of, is_stranger
from exchange.gateway.http.declaration import Access, Operation, operation
from exchange.gateway.http.parameters import NAMES
from exchange.gateway.http.requests import query
from exchange.gateway.http.responses import json_response
from exchange.gateway.parts.context import gateway_of
from exchange.gateway.parts.following import Standing
from exchange.gateway.parts.health import HEALTHY, UNHEALTHY
from exchange.gateway.parts.metrics import Metrics
from exchange.log.documents.text import timestamp

PROBE_AGE_MS_MAX: Final = 10_000  # a probe takes 4 s at most, when nothing answers
RETRY_AFTER_S: Final = "1"  # the next probe is done by then
METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class LivenessView(Struct, frozen=True):
    """What ``GET /livez`` answers."""

    status: str


class HealthView(Struct, frozen=True):
    """What ``GET /healthz`` answers."""

    status: str
    door: str
    timestamp: str
    checks: dict[str, str]
    matching: dict[str, str]
    projections: dict[str, Standing]
    snapshots: dict[str, str]
    publishing: dict[str, str]


class TimeView(Struct, frozen=True):
    """What ``GET /time`` answers: the gateway's clock, and who keeps its door."""

    timestamp: str
    unix_ms: int
    door: str


HEALTH: Final = (HealthView, LivenessView)


class ReadinessView(Struct, frozen=True):
    """What ``GET /readyz`` answers; ``timestamp`` and ``age_ms`` are of the last probe."""

    status: str
    orders: dict[str, str]
    reads: str
    timestamp: str
    age_ms: int


@operation(Operation(tag="operating", scope=Access.PUBLIC, answers={200: (LivenessView,)}))
async def get_liveness(request: Request) -> Response:
    """``GET /livez``: the process runs and its event loop turns."""
    query(request)
    return json_response(LivenessView("alive"))


@operation(Operation(tag="operating", scope=Access.PUBLIC, answers={200: (TimeView,)}))
async def get_time(request: Request) -> Response:
    """``GET /time``: the time by which signed requests are judged, and who keeps the door."""
    query(request)
    now_ms = time.time_ns() // 1_000_000
    return json_response(TimeView(timestamp(now_ms), now_ms, gateway_of(request).door))


@operation(Operation(tag="operating", scope=Access.PARTLY, answers={200: HEALTH, 503: HEALTH}))
async def get_health(request: Request) -> Response:
    """``GET /healthz``: what works; 503 while orders cannot be taken or are not decided."""
    query(request)
    gateway = gateway_of(request)
    health = gateway.health
    if is_stranger(caller_of(request)):
        return _told(LivenessView(health.status), is_well=health.status != UNHEALTHY)
    view = HealthView(
        status=health.status,
        door=gateway.door,
        timestamp=timestamp(health.probed_ms),
        checks=health.checks,
        matching=health.matching,
        projections=health.projections,
        snapshots=health.snapshots,
        publishing=health.publishing,
    )
    return _told(view, is_well=health.status != UNHEALTHY)


@operation(
    Operation(
        tag="operating", scope=Access.PUBLIC, answers={200: (ReadinessView,), 503: (ReadinessView,)}
    )
)
async def get_readiness(request: Request) -> Response:
    """``GET /readyz``: for load balancers; 503 while this gateway takes no order of any shard.

    A shard that stands still does not take the gateway out of service,
    since the other shards can still be traded.
    """
    query(request)
    gateway = gateway_of(request)
    health = gateway.health
    takes_orders = HEALTHY in health.orders.values()
    is_known = health.age_ms <= PROBE_AGE_MS_MAX
    is_ready = takes_orders and is_known and not gateway.stopping.is_set()
    view = ReadinessView(
        status="ready" if is_ready else "not_ready",
        orders=health.orders,
        reads=health.reads,
        timestamp=timestamp(health.probed_ms),
        age_ms=health.age_ms,
    )
    return _told(view, is_well=is_ready)


def _told(view: HealthView | LivenessView | ReadinessView, *, is_well: bool) -> Response:
    answer = json_response(view, 200 if is_well else 503)
    if not is_well:
        answer.headers["Retry-After"] = RETRY_AFTER_S
    return answer


@operation(
    Operation(
        tag="operating",
        scope=Access.AUDIT,
        answers={200: ()},
        query=(NAMES,),
        media_type="text/plain",
    )
)
async def get_metrics(request: Request) -> Response:
    """``GET /metrics``: all metrics, or the named ones, in the format of Prometheus."""
    return metrics_response(request, gateway_of(request).metrics)


def metrics_response(request: Request, metrics: Metrics) -> Response:
    """Return all metrics of a process, or those that a request names."""
    query(request)
    text = metrics.text(request.query_params.getlist(NAMES.name))
    return Response(text, media_type=METRICS_MEDIA_TYPE)
