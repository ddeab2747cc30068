"""``exchange snapshot``: asks a gateway for an engine snapshot of each shard."""

import json
from collections.abc import Iterator
from typing import Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from exchange.tools.terminal import AsJson, BaseUrl, ToolError, address

REQUEST_S: Final = 10.0  # the gateway waits 5 s for the snapshotter


def snapshot(base_url: BaseUrl = "", as_json: AsJson = False) -> None:
    """Take an engine snapshot of each shard, from which a matcher restores."""
    taken = _take_all(address(base_url))
    if as_json:
        typer.echo(json.dumps(taken))
        return
    table = Table("shard", "position", "digest", "resting orders", "bytes", box=None)
    for one in taken:
        table.add_row(
            str(one["shard"]),
            f"{one['position']:,}",
            one["digest"][:16],
            f"{one['resting_orders']:,}",
            f"{one['size_bytes']:,}",
        )
    Console(highlight=False).print(table)


def _take_all(url: str) -> list[dict[str, Any]]:
    try:
        with httpx.Client(base_url=url, timeout=REQUEST_S, trust_env=False) as http:
            instruments = {one["shard"]: one["instrument"] for one in instruments_of(http)}
            return [_take(http, instruments[shard]) for shard in sorted(instruments)]
    except httpx.HTTPError as error:
        raise ToolError(f"{url}: {error}") from error


def instruments_of(http: httpx.Client) -> Iterator[dict[str, Any]]:
    """Yield every instrument that a gateway has, page by page."""
    parameters: dict[str, str] = {}
    while True:
        page = http.get("/instruments", params=parameters).raise_for_status().json()
        yield from page["instruments"]
        if page["next_cursor"] is None:
            return
        parameters = {"cursor": page["next_cursor"]}


def _take(http: httpx.Client, instrument: str) -> dict[str, Any]:
    response = http.post("/market/orderbook/snapshot", params={"instrument": instrument})
    found: dict[str, Any] | None = response.raise_for_status().json()["snapshot"]
    if found is None:
        raise ToolError(f"The snapshot of {instrument}'s shard takes longer; try again.")
    return found
