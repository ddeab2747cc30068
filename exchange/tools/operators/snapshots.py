"""``exchange snapshot``: asks a gateway for an engine snapshot of each shard."""

import json
from typing import Final

import typer
from msgspec import structs
from rich.console import Console
from rich.table import Table

from exchange.client import Client, ExchangeError, Patience, Snapshot, instruments
from exchange.client import snapshot as wish
from exchange.signing import Signer
from exchange.tools.terminal import AsJson, BaseUrl, KeyFile, ToolError, address, signer_of

PATIENCE: Final = Patience(total_s=20.0)  # an answer takes 5 s if the snapshot is not taken by then


def snapshot(base_url: BaseUrl = "", key: KeyFile = None, as_json: AsJson = False) -> None:
    """Take an engine snapshot of each shard, from which a matcher restores."""
    taken = _take_all(address(base_url), signer_of(key))
    if as_json:
        typer.echo(json.dumps([structs.asdict(one) for one in taken]))
        return
    table = Table("shard", "position", "digest", "resting orders", "bytes", box=None)
    for one in taken:
        table.add_row(
            str(one.shard),
            f"{one.position:,}",
            one.digest[:16],
            f"{one.resting_orders:,}",
            f"{one.size_bytes:,}",
        )
    Console(highlight=False).print(table)


def _take_all(url: str, signer: Signer | None) -> list[Snapshot]:
    try:
        with Client(url, signer=signer, patience=PATIENCE) as client:
            shards = {one.shard: one.instrument for one in client.each(instruments())}
            return [client.send(wish(shards[shard])).snapshot for shard in sorted(shards)]
    except ExchangeError as error:
        raise ToolError(f"{url}: {error}") from error
