"""What a reader takes for an error."""

from contextlib import nullcontext

import httpx
import pytest

from tests import readers
from tests.readers import Question, Reader

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("status", "code", "wait_s", "is_late"),
    [
        (503, "read.unavailable", 0.0, True),
        (503, "gateway.busy", 0.0, True),
        (503, "read.unavailable", 60.0, False),  # sooner than a gateway gives up
        (503, "gateway.busy", 60.0, False),
        (503, "read.stale", 0.0, False),
        (429, "rate.limited", 0.0, False),
        (500, "internal", 0.0, False),
    ],
)
async def test_only_an_answer_that_a_store_kept_waiting_is_late(
    status: int, code: str, wait_s: float, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "FULL_WAIT_S", dict.fromkeys(readers.FULL_WAIT_S, wait_s))
    answering = httpx.MockTransport(lambda _: httpx.Response(status, json={"code": code}))
    reader = Reader("http://a", [], pause_s=0)

    async with httpx.AsyncClient(transport=answering, base_url="http://a") as http:
        with nullcontext() if is_late else pytest.raises(AssertionError, match=code):
            await reader._ask(http, Question("/orders", len), "")

    assert [late.path for late in reader.late] == ["/orders"] * is_late
