"""For operators: is the log there for the analysts' process, and what is under way?"""

import asyncio
import time
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.analyst.asking import Analyst
from exchange.analyst.event_log import EventLog
from exchange.gateway.http.callers import caller_of, is_stranger
from exchange.gateway.http.declaration import OPERATIONS, Access, Operation, operation
from exchange.gateway.http.problems import Problem
from exchange.gateway.http.requests import query
from exchange.gateway.http.responses import json_response, sequence_text
from exchange.gateway.parts.health import HEALTHY, UNHEALTHY
from exchange.gateway.resources import status
from exchange.log.documents.text import timestamp

LOOK_S: Final = 2.0  # a look takes a millisecond; a monitor gives up after a few seconds


class HealthView(Struct, frozen=True):
    """What ``GET /healthz`` answers: the log's heads, and what is under way."""

    status: str
    timestamp: str
    checks: dict[str, str]
    sequence: str | None
    questions: int
    waiting: int
    streams: int


HEALTH: Final = (HealthView, status.LivenessView)


@operation(Operation(tag="operating", scope=Access.PARTLY, answers={200: HEALTH, 503: HEALTH}))
async def get_health(request: Request) -> Response:
    """``GET /healthz``: what works; 503 while the log cannot be read."""
    query(request)
    log: EventLog = request.app.state.events
    analyst: Analyst = request.app.state.analyst
    try:
        async with asyncio.timeout(LOOK_S):
            sequence = sequence_text(await log.heads())
    except (Problem, TimeoutError):
        sequence = None
    is_well = sequence is not None
    if is_stranger(caller_of(request)):
        line = status.LivenessView(HEALTHY if is_well else UNHEALTHY)
        return json_response(line, 200 if is_well else 503)
    view = HealthView(
        HEALTHY if is_well else UNHEALTHY,
        timestamp(time.time_ns() // 1_000_000),
        {"postgres": HEALTHY if is_well else UNHEALTHY},
        sequence,
        analyst.asked,
        log.waiting,
        log.streams,
    )
    return json_response(view, 200 if is_well else 503)


async def get_metrics(request: Request) -> Response:
    """``GET /metrics``: all metrics, or the named ones, in the format of Prometheus."""
    log: EventLog = request.app.state.events
    return status.metrics_response(request, log.metrics)


OPERATIONS[get_metrics] = OPERATIONS[status.get_metrics]
