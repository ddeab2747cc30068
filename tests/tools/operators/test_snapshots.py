"""``exchange snapshot`` asks for one of each shard, however many instruments there are."""

import httpx

from exchange.tools.operators.snapshots import _instruments

PAGES = {
    None: {"instruments": [{"instrument": "A", "shard": 0}], "next_cursor": "x"},
    "x": {"instruments": [{"instrument": "B", "shard": 1}], "next_cursor": None},
}


def test_all_pages_of_the_instruments_are_read() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=PAGES[request.url.params.get("cursor")])

    with httpx.Client(base_url="http://gw", transport=httpx.MockTransport(answer)) as http:
        shards = [one["shard"] for one in _instruments(http)]

    assert shards == [0, 1]
