"""Is the exchange healthy, and how far is each part of it? As one gateway sees it.

``ask`` puts ``/healthz`` and ``/metrics`` together; ``show`` fits the answer into a terminal.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import httpx
from msgspec import Struct, structs
from prometheus_client.parser import text_string_to_metric_families
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exchange.tools.market.load import Unreachable

REQUEST_S: Final = 5.0
UNKNOWN: Final = "unknown"
UNHEALTHY: Final = "unhealthy"
LINE_WIDTH: Final = 80  # of the states, which are no table that would need more
COLORS: Final = {
    "healthy": "green",
    **dict.fromkeys(("degraded", "lagging", "paused"), "yellow"),
    **dict.fromkeys((UNHEALTHY, "stuck", "failed", "missing", "stopped"), "red"),
}


class ShardStatus(Struct, frozen=True):
    """One shard's log; None is what the gateway has not measured."""

    shard: int
    matcher: str
    head: int | None
    undecided: int | None
    publishing: str
    unpublished: int | None


class ProjectionStatus(Struct, frozen=True):
    """One read model, and how many events it is behind on each shard."""

    projection: str
    state: str
    lag_events: dict[int, int]


class Status(Struct, frozen=True):
    """An exchange at one moment."""

    base_url: str
    status: str
    timestamp: str
    checks: dict[str, str]
    shards: list[ShardStatus]
    projections: list[ProjectionStatus]
    stream_clients: int | None

    @property
    def healthy(self) -> bool:
        return self.status == "healthy"


async def ask(base_url: str, pass_: str | None = None) -> Status:
    """Ask a gateway, with what shows it who asks where its door asks for keys.

    Raises:
        Unreachable: No gateway answers there.
    """
    try:
        headers = {} if pass_ is None else {"Authorization": f"Bearer {pass_}"}
        async with httpx.AsyncClient(
            base_url=base_url, timeout=REQUEST_S, trust_env=False, headers=headers
        ) as http:
            health: dict[str, Any] = (await http.get("/healthz")).json()
            metrics = await http.get("/metrics")
            return status_of(base_url, health, metrics.text)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(f"No exchange answers at {base_url}: {reason}.") from error


def status_of(base_url: str, health: dict[str, Any], metrics: str) -> Status:
    """Put together what a gateway says of its health and what it counts."""
    samples = _samples(metrics)
    heads = _by_shard(samples, "exchange_log_position")
    undecided = _by_shard(samples, "exchange_undecided_commands")
    unpublished = _by_shard(samples, "exchange_publishing_lag_events")
    publishing = {int(shard): state for shard, state in health["publishing"].items()}
    matching = {int(shard): state for shard, state in health["matching"].items()}
    clients = [value for name, _, value in samples if name == "exchange_stream_clients"]
    return Status(
        base_url=base_url,
        status=health["status"],
        timestamp=health["timestamp"],
        checks=health["checks"],
        shards=[
            ShardStatus(
                shard,
                matching.get(shard, UNKNOWN),
                heads.get(shard),
                undecided.get(shard),
                publishing.get(shard, UNKNOWN),
                unpublished.get(shard),
            )
            for shard in sorted(heads.keys() | matching.keys())
        ],
        projections=[
            ProjectionStatus(
                name, state, _by_shard(samples, "exchange_projection_lag_events", name)
            )
            for name, state in sorted(health["projections"].items())
        ],
        stream_clients=int(clients[0]) if clients else None,
    )


def document(status: Status) -> dict[str, Any]:
    """Return the status for a script."""
    return {
        **structs.asdict(status),
        "shards": [structs.asdict(shard) for shard in status.shards],
        "projections": [structs.asdict(projection) for projection in status.projections],
    }


def show(console: Console, status: Status, *, with_tables: bool = True) -> None:
    """Print the status for a person, with tables of shards and read models or without."""
    clients = "?" if status.stream_clients is None else f"{status.stream_clients:,}"
    checks = "  ".join(f"{name} {_colored(state)}" for name, state in status.checks.items())
    console.print(f"{escape(status.base_url)}  {_colored(status.status)}  {status.timestamp}")
    console.print(f"{checks}  stream clients {clients}")
    if with_tables:
        console.print(_shard_table(status.shards))
        console.print(_projection_table(status))
    else:
        states = [f"{p.projection} {_colored(p.state)}" for p in status.projections]
        console.print(Columns(states, padding=(0, 2)), width=LINE_WIDTH)


def _shard_table(shards: Iterable[ShardStatus]) -> Table:
    table = Table(show_edge=False)
    table.add_column("shard")
    table.add_column("matcher")
    table.add_column("head", justify="right")
    table.add_column("undecided", justify="right")
    table.add_column("publishing")
    table.add_column("unpublished", justify="right")
    for one in shards:
        table.add_row(
            str(one.shard),
            _colored(one.matcher),
            _figure(one.head),
            _figure(one.undecided),
            _colored(one.publishing),
            _figure(one.unpublished),
        )
    return table


def _projection_table(status: Status) -> Table:
    """Return the read models; with many shards, the one that is furthest behind."""
    table = Table(show_edge=False)
    table.add_column("projection")
    table.add_column("state")
    table.add_column("lag, events", justify="right")
    several = len(status.shards) > 1
    if several:
        table.add_column("worst shard", justify="right")
    for one in status.projections:
        worst = max(one.lag_events, key=lambda shard: one.lag_events[shard], default=None)
        lag = _figure(None if worst is None else one.lag_events[worst])
        shard = [_figure(worst)] if several else []
        table.add_row(one.projection, _colored(one.state), lag, *shard)
    return table


def _samples(metrics: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    ]


def _by_shard(
    samples: Iterable[tuple[str, dict[str, str], float]], name: str, projection: str | None = None
) -> dict[int, int]:
    def found() -> Iterator[tuple[int, int]]:
        for sample, labels, value in samples:
            if sample == name and labels.get("projection") == projection:
                yield int(labels["shard"]), int(value)

    return dict(sorted(found()))


def _colored(state: str) -> str:
    color = COLORS.get(state, "dim")
    return f"[{color}]{state}[/{color}]"


def _figure(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
