"""What Prometheus reads: requests, waiting commands, and how far each read model is.

Label children are bound once, since looking one up costs more than counting.
"""

from collections.abc import Iterable, Sequence
from typing import Final, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from exchange.domain.events import (
    CancelRejected,
    OrderAccepted,
    OrderRejected,
    TradeExecuted,
)
from exchange.gateway.parts.following import Standing
from exchange.log.events import DecidedEvent
from exchange.telemetry.metrics import ProcessMetrics

# From a fast read to the longest wait for an outcome.
LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip


class Metrics(ProcessMetrics):
    """The metrics of one gateway process."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = self.counter(
            "exchange_http_requests", "Requests answered", "method", "route", "status"
        )
        self._latency = self.histogram(
            "exchange_http_request_seconds",
            "Time from the whole request to the whole answer",
            LATENCY_BUCKETS_S,
            "method",
            "route",
        )
        self.orders_accepted = self.counter(
            "exchange_gateway_orders_accepted", "Orders answered as accepted, resent ones left out"
        )
        self._rejected = self.counter(
            "exchange_gateway_rejected",
            "Orders and cancels answered as refused by the matcher, resent ones left out",
            "reason",
        )
        self.trades = self.counter(
            "exchange_gateway_trades", "Trades of the orders answered, each as its taker's"
        )
        self.order_seconds = self.histogram(
            "exchange_gateway_order_seconds",
            "Time from a command's handing to Kafka to its outcome",
            LATENCY_BUCKETS_S,
        )
        self.producer_queue = self.gauge(
            "exchange_gateway_producer_queue",
            "Commands that wait to be sent to Kafka or to be confirmed",
        )
        self.waiters = self.gauge(
            "exchange_gateway_waiters", "Commands whose outcome somebody waits for"
        )
        self.lookups = self.counter(
            "exchange_gateway_lookups",
            "Outcomes that were asked of the log because Redis did not bring them",
        )
        failures = self.counter(
            "exchange_gateway_produce_failures",
            "Commands that Kafka did not take, by what is known of their outcome",
            "outcome",
        )
        self.produce_failures = {known: failures.labels(known) for known in ("none", "unknown")}
        self.head = self.gauge(
            "exchange_log_position", "Position of the last event of a shard's log", "shard"
        )
        self.lag = self.gauge(
            "exchange_projection_lag_events",
            "Events that a live read model has not seen yet",
            "projection",
            "shard",
        )
        self.lag_seconds = self.gauge(
            "exchange_projection_lag_seconds",
            "Age of the oldest event that a live read model has not seen; 0 if there is none",
            "projection",
            "shard",
        )
        self._states = self.gauge(
            "exchange_projection_state",
            "Whether a read model follows the log as the state says: 1 for one state, 0 for others",
            "projection",
            "state",
        )
        self.unpublished = self.gauge(
            "exchange_publishing_lag_events",
            "Events of a shard that are not in the topic of events yet",
            "shard",
        )
        self.unpublished_seconds = self.gauge(
            "exchange_publishing_lag_seconds",
            "Age of the oldest event that is not in the topic of events; 0 if there is none",
            "shard",
        )
        self.undecided = self.gauge(
            "exchange_undecided_commands",
            "Commands in Kafka that the matcher has not decided yet",
            "shard",
        )
        self.stalled = self.gauge(
            "exchange_shard_stalled",
            "Whether commands of a shard wait and none is decided; absent while it is not known",
            "shard",
        )
        self.up = self.gauge(
            "exchange_dependency_up", "Whether the gateway reaches a service", "service"
        )
        self.rate_limited = self.counter(
            "exchange_gateway_rate_limited",
            "Commands that were refused because their client or address sent too many",
        )
        self.stream_clients = self.gauge("exchange_stream_clients", "Connections of the stream")
        self.stream_queue = self.gauge(
            "exchange_stream_queue", "Messages that wait to be sent to all clients of the stream"
        )
        self.stream_queue_longest = self.gauge(
            "exchange_stream_queue_longest", "Messages that wait in the longest queue of one client"
        )
        self.stream_slow = self.counter(
            "exchange_stream_slow",
            "Connections that were closed because their clients read too slowly",
        )
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer; ``route`` is the template of a path, so its values are few."""
        key = (method, route, status)
        children = self._answers.get(key)
        if children is None:
            children = self._answers[key] = (
                self._requests.labels(method, route, str(status)),
                self._latency.labels(method, route),
            )
        children[0].inc()
        children[1].observe(seconds)

    def decided(self, events: Iterable[DecidedEvent]) -> None:
        """Count the outcome of one order or cancel."""
        for decided in events:
            match decided.event:
                case OrderAccepted():
                    self.orders_accepted.inc()
                case TradeExecuted():
                    self.trades.inc()
                case OrderRejected(reason=reason) | CancelRejected(reason=reason):
                    self._rejected.labels(reason.value).inc()
                case _:
                    pass

    def stands(self, projection: str, standing: Standing) -> None:
        """Tell how well a read model follows the log."""
        for one in Standing:
            self._states.labels(projection, one.value).set(one is standing)

    def text(self, names: Sequence[str] = ()) -> bytes:
        """Return all of them in Prometheus' text format, or only the samples of these names."""
        if not names:
            return generate_latest(self.registry)
        # The restricted registry has the one method that is called, though its type does not say
        # so.
        return generate_latest(cast("CollectorRegistry", self.registry.restricted_registry(names)))
