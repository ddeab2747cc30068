"""How long matchers take to append a batch durably, as their own metrics count it.

A matcher counts for as long as it runs, so what is told is what was added between two looks.
Who answers nothing is left out: a standby that is away, or a matcher whose metrics are off.
"""

import asyncio
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from exchange.config import Settings, reachable_url

ASK_S: Final = 1.0  # the sample of everything else waits for it
METRIC: Final = "exchange_matcher_commit_seconds"
SECONDS: Final = f"{METRIC}_sum"
COUNT: Final = f"{METRIC}_count"

Counted = tuple[float, float]  # seconds, and batches


def addresses(settings: Settings) -> list[str]:
    """Return where matchers tell their metrics: as set, else on this machine."""
    if settings.matcher_metrics_urls:
        return list(settings.matcher_metrics_urls)
    if not settings.metrics_port:
        return []
    ports = [
        settings.matcher_metrics_port(shard, standby=standby)
        for standby in (False, True)[: 1 + settings.standbys]
        for shard in range(settings.matchers)
    ]
    return [f"{reachable_url(settings.host, port)}/metrics" for port in ports]


class Commits:
    """Asks matchers, and remembers what they had counted before."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._former: dict[tuple[str, int], Counted] = {}

    async def read_ms(self) -> dict[int, float]:
        """Return by shard how long a batch took on the average since the last look.

        A shard without a batch since then is not in it.
        """
        found: dict[tuple[str, int], Counted] = {}
        async with httpx.AsyncClient(timeout=ASK_S, trust_env=False, verify=False) as http:
            for told in await asyncio.gather(*(_ask(http, url) for url in self._urls)):
                found |= told
        added: dict[int, Counted] = {}
        for place, (seconds, count) in found.items():
            former_s, former_count = self._former.get(place, (seconds, count))
            if count <= former_count:  # none since, or another process that began anew
                continue
            known_s, known = added.get(place[1], (0.0, 0.0))
            added[place[1]] = known_s + seconds - former_s, known + count - former_count
        self._former = found
        return {shard: 1_000 * seconds / count for shard, (seconds, count) in added.items()}


async def _ask(http: httpx.AsyncClient, url: str) -> dict[tuple[str, int], Counted]:
    try:
        answer = await http.get(url, params={"name[]": [SECONDS, COUNT]})
        return _counted(url, answer.text)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError):
        return {}


def _counted(url: str, text: str) -> dict[tuple[str, int], Counted]:
    values = {
        (sample.name, int(sample.labels["shard"])): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in (SECONDS, COUNT)
    }
    shards = {shard for _, shard in values}
    return {(url, shard): (values[SECONDS, shard], values[COUNT, shard]) for shard in shards}
