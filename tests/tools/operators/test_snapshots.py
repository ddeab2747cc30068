"""``exchange snapshot`` asks for one snapshot per shard, however many instruments there are."""

import httpx

from exchange.tools.operators.snapshots import instruments_of

PAGES = {
    None: {"instruments": [{"instrument": "A", "shard": 0}], "next_cursor": "x"},
    "x": {"instruments": [{"instrument": "B", "shard": 1}], "next_cursor": None},
}


def test_all_pages_of_theinstruments_of_are_read() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=PAGES[request.url.params.get("cursor")])

    with httpx.Client(base_url="http://gw", transport=httpx.MockTransport(answer)) as http:
        shards = [one["shard"] for one in instruments_of(http)]

    assert shards == [0, 1]
