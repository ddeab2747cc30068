"""What holds for every answer, however long."""

import asyncio
from itertools import pairwise

import pytest

from exchange.gateway.http.responses import in_turns
from exchange.waiting import AT_ONCE

pytestmark = pytest.mark.anyio


async def test_a_long_list_is_rendered_in_turns_with_others() -> None:
    rendered: list[int] = []
    turns = [0]

    def render(row: int) -> int:
        rendered.append(row)
        return -row

    async def others() -> None:
        while True:
            turns.append(len(rendered))
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    views = await in_turns(render, range(10 * AT_ONCE))
    beside.cancel()

    assert views == [-row for row in range(10 * AT_ONCE)]
    steps = [later - earlier for earlier, later in pairwise([*turns, len(rendered)])]
    assert max(steps) <= AT_ONCE
