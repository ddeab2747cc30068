"""What a matcher counts, and the spans of the sampled commands that it decides.

Read ``MatcherWatch.decided``, then ``WatchedBatch``. Counting is done once a batch, after its
commit, so the metrics count what is durable. A sampled command gets a span from its reading to its
commit, in which it is noted when the names were claimed and when all was decided. Its batch gets
one span, linked to those of its commands.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

import msgspec
from msgspec import Struct
from opentelemetry.trace import Span

from exchange.domain.events import OrderAccepted, RecordRejected, TradeExecuted
from exchange.domain.values import Offset, Shard
from exchange.ports import Head, StoredEvent, Trace
from exchange.telemetry import tracing
from exchange.telemetry.metrics import ProcessMetrics
from exchange.transport.messages import ReceivedCommand

BATCH_COMMANDS_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
COMMIT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REJECTED: Final = "Rejected"  # how the names of all refusals end
MALFORMED: Final = "malformed_record"  # the reason of unreadable records: their own is free text


class _Refused(Struct):
    reason: str


_refused_decoder: Final = msgspec.json.Decoder(_Refused)


class MatcherMetrics(ProcessMetrics):
    """The metrics of one matcher process."""

    def __init__(self) -> None:
        super().__init__("shard")
        self.commands = self.counter("exchange_matcher_commands", "Commands decided")
        self.events = self.counter("exchange_matcher_events", "Events appended", "type")
        self.accepted = self.counter("exchange_matcher_orders_accepted", "Orders accepted")
        self.rejected = self.counter(
            "exchange_matcher_rejected", "Commands refused", "type", "reason"
        )
        self.trades = self.counter("exchange_matcher_trades", "Trades")
        self.dropped = self.counter(
            "exchange_matcher_outcomes_dropped", "Messages of outcomes that Redis was too slow for"
        )
        self.batch_commands = self.histogram(
            "exchange_matcher_batch_commands", "Commands decided at once", BATCH_COMMANDS_BUCKETS
        )
        self.commit_seconds = self.histogram(
            "exchange_matcher_commit_seconds", "Time to append a batch durably", COMMIT_BUCKETS_S
        )
        self.position = self.gauge(
            "exchange_matcher_head_position", "Position of the last event appended"
        )
        self.queue = self.gauge(
            "exchange_matcher_outcome_queue", "Messages of outcomes that wait for Redis"
        )


class MatcherWatch:
    """The metrics and spans of one shard's matcher."""

    def __init__(self, metrics: MatcherMetrics, shard: Shard) -> None:
        self._shard = str(shard)
        self._events = metrics.events
        self._rejected = metrics.rejected
        self._commands = metrics.commands.labels(self._shard)
        self._accepted = metrics.accepted.labels(self._shard)
        self._trades = metrics.trades.labels(self._shard)
        self._dropped = metrics.dropped.labels(self._shard)
        self._batch_commands = metrics.batch_commands.labels(self._shard)
        self._commit_seconds = metrics.commit_seconds.labels(self._shard)
        self._position = metrics.position.labels(self._shard)
        self._queue = metrics.queue.labels(self._shard)
        self._read_ns = 0
        self._claimed_ns = 0

    def restored(self, head: Head, queued: Callable[[], int]) -> None:
        """Note the head that the matcher begins at; ``queued`` tells how many messages wait."""
        self._position.set(head.position)
        self._queue.set_function(queued)

    def read(self) -> None:
        """Note that a batch has been read."""
        self._read_ns = time.time_ns()

    def claimed(self) -> None:
        """Note that a batch has its names, and is about to be decided."""
        self._claimed_ns = time.time_ns()

    def decided(
        self, commands: Sequence[ReceivedCommand], events: Sequence[StoredEvent]
    ) -> "WatchedBatch":
        """Return the watch over the commit of a batch."""
        spans = self._spans(commands) if tracing.is_on() else {}
        return WatchedBatch(self, len(commands), events, spans)

    def dropped(self) -> None:
        """Count a message of outcomes that was not sent."""
        self._dropped.inc()

    def appended(self, commands: int, events: Sequence[StoredEvent], seconds: float) -> None:
        """Count a batch that is durable."""
        self._commands.inc(commands)
        self._batch_commands.observe(commands)
        self._commit_seconds.observe(seconds)
        if not events:
            return
        self._position.set(events[-1].position)
        for kind, number in Tally(event.type for event in events).items():
            self._events.labels(self._shard, kind).inc(number)
            if kind == OrderAccepted.__name__:
                self._accepted.inc(number)
            elif kind == TradeExecuted.__name__:
                self._trades.inc(number)
            elif kind.endswith(REJECTED):
                self._count_refusals(kind, events)

    def _count_refusals(self, kind: str, events: Sequence[StoredEvent]) -> None:
        refusals = [event for event in events if event.type == kind]
        for reason, number in Tally(map(_reason, refusals)).items():
            self._rejected.labels(self._shard, kind, reason).inc(number)

    def _spans(self, commands: Sequence[ReceivedCommand]) -> dict[Offset, Span]:
        """Return a span for each sampled command, by its Kafka offset."""
        return {
            received.offset: self._span(received, received.traceparent)
            for received in commands
            if received.traceparent is not None
        }

    def _span(self, received: ReceivedCommand, parent: str) -> Span:
        span = tracing.begin(f"match {type(received.command).__name__}", parent, self._read_ns)
        span.set_attributes({"exchange.shard": self._shard, "exchange.offset": received.offset})
        span.add_event("claimed", timestamp=self._claimed_ns)
        span.add_event("decided")
        return span


class WatchedBatch:
    """A context manager around one commit: times and counts it, and ends its spans."""

    def __init__(
        self,
        watch: MatcherWatch,
        commands: int,
        events: Sequence[StoredEvent],
        spans: dict[Offset, Span],
    ) -> None:
        self._watch = watch
        self._commands = commands
        self._events = events
        self._spans = spans
        self._append = tracing.NOTHING
        self._begun_s = 0.0

    @property
    def traces(self) -> list[Trace]:
        """The contexts of the sampled commands, for the projectors to continue."""
        if not self._spans:
            return []
        firsts = {event.kafka_offset: event.position for event in reversed(self._events)}
        return [
            Trace(firsts[offset], context)
            for offset, span in self._spans.items()
            if offset in firsts and (context := tracing.traceparent_of(span)) is not None
        ]

    def __enter__(self) -> Self:
        if self._spans:
            contexts = [tracing.traceparent_of(span) for span in self._spans.values()]
            self._append = tracing.hop(
                "append batch", [context for context in contexts if context is not None]
            )
            self._append.__enter__()
        self._begun_s = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._begun_s
        if self._spans:
            self._append.__exit__(kind, error, trace)
            for span in self._spans.values():
                span.end()
        if kind is None:
            self._watch.appended(self._commands, self._events, seconds)


def _reason(event: StoredEvent) -> str:
    if event.type == RecordRejected.__name__:
        return MALFORMED
    return _refused_decoder.decode(event.data).reason
