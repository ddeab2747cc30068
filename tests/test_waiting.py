"""Questions that several callers share."""

import asyncio
from collections.abc import Sequence

import pytest

from exchange.waiting import Shared, SharedByKey

pytestmark = pytest.mark.anyio


async def test_nobody_gets_an_answer_to_a_question_from_before_they_came() -> None:
    asked = 0

    async def question() -> int:
        nonlocal asked
        asked += 1
        number = asked
        await asyncio.sleep(0.01)
        return number

    shared = Shared(question)
    first = [asyncio.create_task(shared.ask()) for _ in range(3)]
    while not asked:
        await asyncio.sleep(0)
    later = [asyncio.create_task(shared.ask()) for _ in range(3)]

    assert await asyncio.gather(*first, *later) == [1, 1, 1, 2, 2, 2]
    assert await shared.ask() == 3


async def test_the_keys_of_all_who_wait_are_in_the_next_question() -> None:
    asked: list[list[int]] = []

    async def question(keys: Sequence[int]) -> dict[int, int]:
        asked.append(sorted(keys))
        await asyncio.sleep(0.01)
        return {key: 10 * key for key in keys if key != 4}

    shared = SharedByKey(question)
    first = asyncio.create_task(shared.ask(1))
    while not asked:
        await asyncio.sleep(0)
    later = [asyncio.create_task(shared.ask(key)) for key in (1, 2, 2, 3, 4)]

    assert await first == 10
    assert await asyncio.gather(*later) == [10, 20, 20, 30, None]
    assert asked == [[1], [1, 2, 3, 4]]


async def test_an_error_is_everybodys_who_waited_and_the_next_question_is_asked() -> None:
    errors = [OSError("away")]

    async def question(keys: Sequence[int]) -> dict[int, int]:
        await asyncio.sleep(0)
        if errors:
            raise errors.pop()
        return dict.fromkeys(keys, 1)

    shared = SharedByKey(question)
    told = await asyncio.gather(*(shared.ask(key) for key in (1, 2)), return_exceptions=True)

    assert [str(one) for one in told] == ["away", "away"]
    assert await shared.ask(3) == 1
