"""The wait for the first instrument, at a gateway whose matcher is still restoring."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count, pairwise
from types import SimpleNamespace

import pytest

from exchange.stack import probe
from exchange.stack.host.errors import StackError
from exchange.stack.probe import Gateway, register_first_instrument, until_healthy

pytestmark = pytest.mark.anyio


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[Gateway, list[float]]]:
    """Answer each request with the next status, the last one for ever, and note the times."""
    asked_s: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = statuses[min(len(asked_s), len(statuses) - 1)]
            asked_s.append(time.monotonic())
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"pending")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Gateway("127.0.0.1", server.server_port), asked_s
        finally:
            server.shutdown()
            thread.join()


async def test_it_waits_for_the_matcher_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "REGISTER_PAUSE_S", 0.1)
    monkeypatch.setattr(probe, "PATIENCE_S", 15.0)
    looked_s = count(step=10.0)
    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=lambda: next(looked_s)))
    said: list[str] = []

    with answering(202, 503, 202, 201) as (gateway, asked_s):
        await register_first_instrument(gateway, said.append)

    (sentence,) = said
    assert sentence.startswith("Still waiting for the matcher to register BTC-USD (")
    assert len(asked_s) == 4
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(asked_s))


async def test_the_wait_for_a_gateway_says_what_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "HEALTHY_TIMEOUT_S", 45.0)
    monkeypatch.setattr(probe, "HEALTHY_POLL_S", 0.01)
    monkeypatch.setattr(probe, "PATIENCE_S", 15.0)
    looked_s = count(step=10.0)
    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=lambda: next(looked_s)))
    said: list[str] = []

    with pytest.raises(StackError, match="is not healthy"):
        await until_healthy(Gateway("127.0.0.1", 1), said.append)

    assert said
    assert said[0].startswith("Still waiting for the gateway at http://127.0.0.1:1 to start (")


async def test_a_refusal_ends_the_wait_at_once() -> None:
    with (
        answering(422) as (gateway, asked_s),
        pytest.raises(StackError, match="BTC-USD cannot be registered: 422 pending"),
    ):
        await register_first_instrument(gateway)

    assert len(asked_s) == 1


async def test_the_wait_ends_in_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "REGISTER_PAUSE_S", 0.01)
    monkeypatch.setattr(probe, "REGISTER_TIMEOUT_S", 0.1)

    with (
        answering(202) as (gateway, _),
        pytest.raises(StackError, match="BTC-USD cannot be registered: 202"),
    ):
        await register_first_instrument(gateway)


def test_the_wait_is_as_long_as_for_health() -> None:
    assert probe.REGISTER_TIMEOUT_S == probe.HEALTHY_TIMEOUT_S
    assert probe.REGISTER_PAUSE_S >= 1
