"""The health check of containers: one question, at little cost."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from exchange.config import PROJECT
from exchange.healthy import PARTS, is_healthy, port_of

HOST = "127.0.0.1"
DEAR = {"asyncio", "http.client", "ssl", "typer", "msgspec", "exchange.cli"}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("part", "status", "told", "healthy"),
    [
        ("readiness", 200, {"status": "ready"}, True),
        ("readiness", 503, {"status": "ready"}, False),
        ("matching", 200, {"matching": {"0": "healthy", "1": "healthy"}}, True),
        ("matching", 503, {"matching": {"0": "healthy"}}, True),
        ("matching", 200, {"matching": {"0": "healthy", "1": "unhealthy"}}, False),
        ("matching", 200, {"matching": {}}, False),
        ("projections", 200, {"projections": {"book": "healthy", "vwap": "lagging"}}, True),
        ("projections", 200, {"projections": {"book": "healthy", "vwap": "paused"}}, True),
        ("projections", 200, {"projections": {"book": "healthy", "vwap": "stuck"}}, False),
        ("projections", 200, {"projections": {"book": "healthy", "vwap": "failed"}}, False),
        ("projections", 200, {"projections": {"book": "missing", "vwap": "healthy"}}, False),
        ("matching", 200, {"matching": {"0": "lagging"}}, False),
        ("projections", 200, {"matching": {"0": "healthy"}}, False),
        ("projections", 200, ["projections"], False),
    ],
)
def test_a_part_is_healthy_if_all_of_it_is(
    part: str, status: int, told: object, healthy: bool
) -> None:
    with answering(status, json.dumps(told).encode()) as port:
        assert is_healthy(part, HOST, port) is healthy


@pytest.mark.parametrize("body", [b"", b"{", b"no JSON"])
def test_another_server_is_not_healthy(body: bytes) -> None:
    with answering(200, body) as port:
        assert not is_healthy("checks", HOST, port)


@pytest.mark.parametrize("part", PARTS)
def test_where_nobody_listens_nothing_is_healthy(part: str) -> None:
    with answering(200, b"") as port:
        pass

    assert not is_healthy(part, HOST, port)


def test_asking_needs_little_of_the_standard_library_and_nothing_else() -> None:
    code = "import sys, exchange.healthy; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )

    assert DEAR & set(ran.stdout.split()) == set()


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["weather"], 2), (["checks", "::1"], 1)])
def test_the_answer_is_the_exit_code(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-S", "-m", "exchange.healthy", *arguments]

    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)
    assert ran.returncode == code


def test_where_keys_are_asked_for_health_is_at_the_port_for_operators() -> None:
    assert port_of({}) == port_of({"DOOR": "open"}) == 3000
    assert port_of({"DOOR": "Keys"}) == 3800
    assert port_of({"DOOR": "keys", "GATEWAY_METRICS_PORT": "4000"}) == 4000
