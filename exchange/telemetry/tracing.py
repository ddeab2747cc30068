"""Traces: one sampled order on its way through gateway, matcher and projector to the stream.

Read ``span`` and ``hop``. Spans are made by hand where an order changes hands. Between processes
its context travels as the text that W3C calls ``traceparent``: in a Kafka header, in the table
``traces``, and in Redis next to the feed. Only sampled contexts travel, and outside ``exporting``
no span is made at all.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT: Final = "traceparent"
PARENT_BASED: Final = "parentbased_"
FLUSH_S: Final = 1.0  # how long a stop waits for the last spans to be sent
LINKS_MAX: Final = 128  # what a span keeps by default

Spanned = AbstractContextManager[Span | None]
"""A context manager that lasts as long as its span; it gives None where no span is made."""

_propagator: Final = TraceContextTextMapPropagator()
NOTHING: Final[Spanned] = nullcontext()
_tracer: Tracer | None = None


@contextmanager
def exporting(role: str, *, endpoint: str, sampler: str, share: float) -> Iterator[None]:
    """Make spans in this process until the context ends, and send them by OTLP over HTTP.

    Args:
        role: What the process is, as the traces name it.
        endpoint: Where the collector takes traces.
        sampler: A standard name: always_on, always_off, traceidratio, or parentbased_ and one.
        share: The share of traces beginning here that ``traceidratio`` keeps, from 0 to 1.
    """
    # Most processes export nothing, and what sends takes a twentieth of a second to load.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    global _tracer  # noqa: PLW0603  a process has one, as the SDK means it
    resource = Resource.create({"service.name": role, "service.namespace": "exchange"})
    provider = TracerProvider(_sampler(sampler, share), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    _tracer = provider.get_tracer("exchange")
    try:
        yield
    finally:
        _tracer = None
        # By itself it waits half a minute for a collector that is away.
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_S)


def is_on() -> bool:
    """Tell whether this process makes spans."""
    return _tracer is not None


def span(
    name: str,
    *,
    parent: str | None = None,
    links: Sequence[str] = (),
    kind: SpanKind = SpanKind.INTERNAL,
) -> Spanned:
    """Make a span that is open as long as the context, below ``parent`` or the open one.

    Args:
        name: What is done.
        parent: The context that another process sent.
        links: Contexts of further traces that this is done for.
        kind: What OpenTelemetry calls the span's kind.
    """
    if _tracer is None:
        return NOTHING
    return _tracer.start_as_current_span(
        name,
        None if parent is None else _context(parent),
        kind,
        links=[Link(_span_context(text)) for text in links[:LINKS_MAX]],
    )


def hop(name: str, traces: Sequence[str], *, kind: SpanKind = SpanKind.CONSUMER) -> Spanned:
    """Make one span for what is done for several traces: in the first, with links to the rest."""
    if not traces:
        return NOTHING
    return span(name, parent=traces[0], links=traces[1:], kind=kind)


def begin(name: str, parent: str, begun_ns: int) -> Span:
    """Make a span below ``parent`` that began at a time and lasts until its ``end`` is called."""
    assert _tracer is not None, "ask is_on() first"
    return _tracer.start_span(
        name, _context(parent), SpanKind.CONSUMER, start_time=begun_ns, record_exception=False
    )


def note(name: str) -> None:
    """Note this moment in the open span, if there is one."""
    if _tracer is not None:
        trace.get_current_span().add_event(name)


def current() -> str | None:
    """Return the context of the open span as text, None if the span is not sampled."""
    return None if _tracer is None else traceparent_of(trace.get_current_span())


def traceparent_of(span: Span) -> str | None:
    """Return a span's context as text, None if the span is not sampled."""
    found = span.get_span_context()
    if not found.trace_flags.sampled:
        return None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-01"


def _context(traceparent: str) -> Context:
    return _propagator.extract({TRACEPARENT: traceparent}, Context())


def _span_context(traceparent: str) -> SpanContext:
    return trace.get_current_span(_context(traceparent)).get_span_context()


def _sampler(name: str, share: float) -> Sampler:
    roots: dict[str, Sampler] = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": TraceIdRatioBased(share),
    }
    root = roots[name.removeprefix(PARENT_BASED)]
    return ParentBased(root) if name.startswith(PARENT_BASED) else root
