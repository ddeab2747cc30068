"""How long matchers' commits take, as the desk reads it from their metrics."""

from dataclasses import replace

import pytest
from prometheus_client import start_http_server

from exchange.config import LOOPBACK, Settings
from exchange.matcher.metrics import MatcherMetrics
from exchange.operator.commits import Commits, addresses
from tests.conftest import free_ports

pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:1/metrics"


async def test_a_mean_is_of_the_batches_since_the_last_look_whoever_appended_them() -> None:
    matcher, standby = MatcherMetrics(), MatcherMetrics()
    urls = [NOBODY]
    servers = []
    for metrics in (matcher, standby):
        (port,) = free_ports(1)
        servers.append(start_http_server(port, LOOPBACK, metrics.registry))
        urls.append(f"http://{LOOPBACK}:{port}/metrics")
    commits = Commits(urls)

    def took(metrics: MatcherMetrics, shard: int, *seconds: float) -> None:
        for one in seconds:
            metrics.commit_seconds.labels(str(shard)).observe(one)

    took(matcher, 0, 5.0)  # before anybody looked
    assert await commits.read_ms() == {}
    took(matcher, 0, 0.002, 0.004)
    took(matcher, 1, 1.0)  # counts from the next look on
    assert await commits.read_ms() == {0: pytest.approx(3.0)}
    took(standby, 1, 0.5)
    took(matcher, 1, 0.010)
    assert await commits.read_ms() == {1: pytest.approx(10.0)}
    assert await commits.read_ms() == {}
    took(matcher, 1, 0.010)
    took(standby, 1, 0.030)
    assert await commits.read_ms() == {1: pytest.approx(20.0)}
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_matchers_are_asked_on_this_machine_unless_others_are_named() -> None:
    local = replace(Settings.load({}, dotenv=None), shards=2, matchers=2, standbys=1)

    assert addresses(local) == [f"http://127.0.0.1:{port}/metrics" for port in range(9465, 9469)]
    assert addresses(replace(local, metrics_port=0)) == []
    named = replace(local, matcher_metrics_urls=("http://matcher:9465/metrics",))
    assert addresses(named) == ["http://matcher:9465/metrics"]
