"""Waits for positions share their questions, end in time, and are bounded in number."""

import asyncio
import time
from collections.abc import Mapping, Set

import pytest

from projections.stores import waits
from projections.stores.waits import PositionWaits, TooManyWait

pytestmark = pytest.mark.anyio

LONG_MS = 20_000


class Model:
    """A model at a position, which counts how often it is asked."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.asked = 0

    async def __call__(self, places: Set[str]) -> Mapping[str, int]:
        self.asked += 1
        await asyncio.sleep(0)
        return dict.fromkeys(places, self.position)


async def test_all_who_wait_share_one_question() -> None:
    model = Model(5)
    positions = PositionWaits(model)

    found = await asyncio.gather(
        *(positions.reach({"book": 5}, timeout_ms=LONG_MS) for _ in range(100))
    )

    assert found == [{"book": 5}] * 100
    assert model.asked == 1


async def test_who_waits_goes_on_as_soon_as_the_model_is_there() -> None:
    model = Model()
    positions = PositionWaits(model)
    wait = asyncio.create_task(positions.reach({"book": 2}, timeout_ms=LONG_MS))
    async with asyncio.timeout(LONG_MS / 1000):
        while model.asked < 3:
            await asyncio.sleep(0.005)
    assert not wait.done()

    model.position = 2

    assert await wait == {"book": 2}


async def test_a_store_that_is_silent_holds_nobody_longer_than_asked_for() -> None:
    async def silent(_: Set[str]) -> Mapping[str, int]:
        await asyncio.Event().wait()
        raise AssertionError

    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        await PositionWaits(silent).reach({"book": 1}, timeout_ms=50)

    assert time.monotonic() - began_s < 10


async def test_what_asking_fails_with_is_told_to_all_at_once() -> None:
    async def broken(_: Set[str]) -> Mapping[str, int]:
        raise ConnectionError("cut")

    positions = PositionWaits(broken)
    errors = await asyncio.gather(
        *(positions.reach({"book": 1}, timeout_ms=LONG_MS) for _ in range(3)),
        return_exceptions=True,
    )

    assert [type(error) for error in errors] == [ConnectionError] * 3


async def test_one_more_than_may_wait_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "WAITERS_MAX", 3)
    positions = PositionWaits(Model())
    held = [asyncio.create_task(positions.reach({"book": 1}, timeout_ms=500)) for _ in range(3)]
    await asyncio.sleep(0)

    with pytest.raises(TooManyWait):
        await positions.reach({"book": 1}, timeout_ms=LONG_MS)

    assert await asyncio.gather(*held) == [{"book": 0}] * 3
    assert await positions.reach({"book": 0}, timeout_ms=LONG_MS) == {"book": 0}


async def test_the_more_wait_the_less_often_all_of_them_are_looked_at() -> None:
    model = Model()
    positions = PositionWaits(model)

    await asyncio.gather(
        *(positions.reach({"book": 1}, timeout_ms=500) for _ in range(waits.WAITERS_MAX))
    )

    assert model.asked < 25  # of the 50 that one waiter costs
