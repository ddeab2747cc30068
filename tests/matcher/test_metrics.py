"""The metrics and spans of a matcher's batches: durable events are counted, sampled ones traced."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from prometheus_client import generate_latest

from exchange.config import LOOPBACK
from exchange.domain.events import Event, RecordRejected
from exchange.domain.values import Offset, Position, RejectReason, Shard, Side
from exchange.log.events import store_event
from exchange.matcher.metrics import MatcherMetrics, MatcherWatch
from exchange.ports import StoredEvent
from exchange.telemetry import tracing
from exchange.transport.messages import ReceivedCommand
from tests.builders import accepted, place, rejected, trade
from tests.collector import Collector, collecting
from tests.conftest import free_ports

pytestmark = pytest.mark.anyio

FIRST_TRACE, SECOND_TRACE = "1" * 32, "2" * 32
GATEWAY_SPAN = "b7ad6b7169203331"
TIMEOUT_S = 30.0


def received(offset: int, traceparent: str | None = None) -> ReceivedCommand:
    command = place(offset, Side.BUY, price=10, quantity=1)
    return ReceivedCommand(command, UUID(int=1), Offset(offset), 1_000, None, 0, traceparent)


def sampled(offset: int, trace: str) -> ReceivedCommand:
    return received(offset, f"00-{trace}-{GATEWAY_SPAN}-01")


def stored(event: Event, position: int, offset: int) -> StoredEvent:
    return store_event(
        event,
        shard=Shard(0),
        position=Position(position),
        command_id=UUID(int=1),
        kafka_offset=Offset(offset),
    )


BATCH = [
    stored(accepted(7, Side.BUY, price=10, quantity=1), 1, offset=7),
    stored(trade(maker=1, taker=7, price=10, quantity=1), 2, offset=7),
    stored(accepted(8, Side.BUY, price=10, quantity=1), 3, offset=8),
    stored(rejected(place(9, Side.BUY, price=10, quantity=1), RejectReason.OFF_TICK), 4, offset=9),
    stored(RecordRejected("any text at all", "00", 1, 1_000), 5, offset=10),
]


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Collect what this process traces."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    (port,) = free_ports(1)
    async with collecting(port) as collector:
        with exporting(port):
            yield collector


@contextmanager
def exporting(port: int) -> Iterator[None]:
    endpoint = f"http://{LOOPBACK}:{port}/v1/traces"
    sampler = "parentbased_traceidratio"
    with tracing.exporting("matcher", endpoint=endpoint, sampler=sampler, share=0.0):
        yield


def test_a_batch_is_counted_once_it_is_durable() -> None:
    metrics = MatcherMetrics()
    watch = MatcherWatch(metrics, Shard(3))
    watch.read()
    watch.claimed()
    watched = watch.decided([received(offset) for offset in range(7, 11)], BATCH)

    before = samples(metrics)
    with pytest.raises(ConnectionError), watched:
        raise ConnectionError
    failed = samples(metrics)
    with watched:
        pass

    assert before == failed
    counted = samples(metrics)
    assert counted['exchange_matcher_commands_total{shard="3"}'] == 4
    assert counted['exchange_matcher_orders_accepted_total{shard="3"}'] == 2
    assert counted['exchange_matcher_trades_total{shard="3"}'] == 1
    assert counted['exchange_matcher_head_position{shard="3"}'] == 5
    assert {name: n for name, n in counted.items() if "rejected_total" in name} == {
        'exchange_matcher_rejected_total{reason="off_tick",shard="3",type="OrderRejected"}': 1,
        "exchange_matcher_rejected_total"
        '{reason="malformed_record",shard="3",type="RecordRejected"}': 1,
    }


async def test_sampled_commands_have_spans_and_the_batch_links_them(collector: Collector) -> None:
    watch = MatcherWatch(MatcherMetrics(), Shard(0))
    watch.read()
    watch.claimed()
    commands = [
        sampled(7, FIRST_TRACE),
        sampled(8, SECOND_TRACE),
        received(9),
        received(10, "00-x"),
    ]

    with watch.decided(commands, BATCH) as watched:
        traces = watched.traces
    await collector.until(lambda spans: len(spans) >= 3, TIMEOUT_S)

    spans = {(span.name, span.trace): span for span in collector.spans}
    first = spans.pop(("match PlaceOrder", FIRST_TRACE))
    second = spans.pop(("match PlaceOrder", SECOND_TRACE))
    append = spans.pop(("append batch", FIRST_TRACE))
    assert spans == {}
    assert first.parent == second.parent == GATEWAY_SPAN
    assert (append.parent, append.links) == (first.id, (SECOND_TRACE,))
    assert [(trace.position, trace.traceparent) for trace in traces] == [
        (1, f"00-{FIRST_TRACE}-{first.id}-01"),
        (3, f"00-{SECOND_TRACE}-{second.id}-01"),
    ]


def test_a_matcher_that_does_not_trace_notes_nothing() -> None:
    watch = MatcherWatch(MatcherMetrics(), Shard(0))
    watch.read()
    watch.claimed()

    with watch.decided([sampled(7, FIRST_TRACE)], BATCH) as watched:
        assert watched.traces == []
        assert tracing.current() is None


def samples(metrics: MatcherMetrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}
