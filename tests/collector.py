"""A collector that speaks OTLP over HTTP and keeps in memory what it gets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exchange.config import LOOPBACK
from exchange.gateway.app import serve

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Span:
    """What a span says of itself; ids are hex, ``parent`` is empty at the root."""

    process: str
    name: str
    trace: str
    id: str
    parent: str
    begun_ns: int
    ended_ns: int
    links: tuple[str, ...]
    moments_ns: dict[str, int] = field(default_factory=dict)  # what was noted in it


@dataclass
class Collector:
    """The spans that came, in the order in which they came."""

    spans: list[Span] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: Request) -> Response:
        assert request.headers["content-type"] == PROTOBUF
        sent = ExportTraceServiceRequest.FromString(await request.body())
        async with self.came:
            self.spans += spans_of(sent)
            self.came.notify_all()
        answer = ExportTraceServiceResponse().SerializeToString()
        return Response(answer, media_type=PROTOBUF)

    async def until(self, met: Callable[[list[Span]], bool], timeout_s: float) -> None:
        """Wait until the spans meet a condition."""
        async with asyncio.timeout(timeout_s), self.came:
            await self.came.wait_for(lambda: met(self.spans))


def spans_of(sent: ExportTraceServiceRequest) -> list[Span]:
    found: list[Span] = []
    for resource in sent.resource_spans:
        named = {a.key: a.value.string_value for a in resource.resource.attributes}
        found += [
            Span(
                named["service.name"],
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                tuple(link.trace_id.hex() for link in span.links),
                {event.name: event.time_unix_nano for event in span.events},
            )
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    return found


@asynccontextmanager
async def collecting(port: int) -> AsyncIterator[Collector]:
    """Collect traces at ``/v1/traces`` of a port."""
    collector = Collector()
    app = Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])
    shutdown = asyncio.Event()
    server = asyncio.create_task(serve(app, LOOPBACK, port, shutdown))
    try:
        yield collector
    finally:
        shutdown.set()
        await server
