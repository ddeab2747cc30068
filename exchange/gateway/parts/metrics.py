"""What Prometheus reads: requests, waiting commands, and how far each read model is.

Label children are bound once, since looking one up costs more than counting.
"""

from collections.abc import Iterable, Sequence
from typing import Final, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from exchange.domain.events import (
    CancelRejected,
    OrderAccepted,
    OrderRejected,
    TradeExecuted,
)
from exchange.log.events import DecidedEvent

# From a fast read to the longest wait for an outcome.
LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip


class Metrics:
    """The metrics of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "exchange_http_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "exchange_http_request_seconds",
            "Time from the whole request to the whole answer",
            ["method", "route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.orders_accepted = Counter(
            "exchange_gateway_orders_accepted",
            "Orders answered as accepted, replays left out",
            registry=self.registry,
        )
        self._rejected = Counter(
            "exchange_gateway_rejected",
            "Orders and cancels answered as refused by the matcher, replays left out",
            ["reason"],
            registry=self.registry,
        )
        self.trades = Counter(
            "exchange_gateway_trades",
            "Trades of the orders answered, each as its taker's",
            registry=self.registry,
        )
        self.order_seconds = Histogram(
            "exchange_gateway_order_seconds",
            "Time from a command's handing to Kafka to its outcome",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.producer_queue = Gauge(
            "exchange_gateway_producer_queue",
            "Commands that wait to be sent to Kafka or to be confirmed",
            registry=self.registry,
        )
        self.waiters = Gauge(
            "exchange_gateway_waiters",
            "Commands whose outcome somebody waits for",
            registry=self.registry,
        )
        self.lookups = Counter(
            "exchange_gateway_lookups",
            "Outcomes that were asked of the log because Redis did not bring them",
            registry=self.registry,
        )
        failures = Counter(
            "exchange_gateway_produce_failures",
            "Commands that Kafka did not take, by what is known of their outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.produce_failures = {known: failures.labels(known) for known in ("none", "unknown")}
        self.head = Gauge(
            "exchange_log_position",
            "Position of the last event of a shard's log",
            ["shard"],
            registry=self.registry,
        )
        self.lag = Gauge(
            "exchange_projection_lag_events",
            "Events that a live read model has not seen yet",
            ["projection", "shard"],
            registry=self.registry,
        )
        self.lag_seconds = Gauge(
            "exchange_projection_lag_seconds",
            "Age of the oldest event that a live read model has not seen; 0 if there is none",
            ["projection", "shard"],
            registry=self.registry,
        )
        self.undecided = Gauge(
            "exchange_undecided_commands",
            "Commands in Kafka that the matcher has not decided yet",
            ["shard"],
            registry=self.registry,
        )
        self.up = Gauge(
            "exchange_dependency_up",
            "Whether the gateway reaches a service",
            ["service"],
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "exchange_gateway_rate_limited",
            "Commands that were refused because their client or address sent too many",
            registry=self.registry,
        )
        self.stream_clients = Gauge(
            "exchange_stream_clients",
            "Connections of the stream",
            registry=self.registry,
        )
        self.stream_queue = Gauge(
            "exchange_stream_queue",
            "Messages that wait to be sent to all clients of the stream",
            registry=self.registry,
        )
        self.stream_queue_longest = Gauge(
            "exchange_stream_queue_longest",
            "Messages that wait in the longest queue of one client",
            registry=self.registry,
        )
        self.stream_slow = Counter(
            "exchange_stream_slow",
            "Connections that were closed because their clients read too slowly",
            registry=self.registry,
        )
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer; ``route`` is a path's template, so there are few."""
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

    def text(self, names: Sequence[str] = ()) -> bytes:
        """Return all of them in Prometheus' text format, or only the samples of these names."""
        if not names:
            return generate_latest(self.registry)
        # It has the one method that is asked for, and no type that says so.
        return generate_latest(cast("CollectorRegistry", self.registry.restricted_registry(names)))
