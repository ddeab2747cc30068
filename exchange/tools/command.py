"""The tools' commands: their options, and what they print."""

import asyncio
import json
import time
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from exchange.config import Settings
from exchange.tools import report
from exchange.tools.load import Measured, Plan, Unreachable, run_load
from exchange.tools.mix import Mix, MixError, read_fixtures, write_fixtures

INSTRUMENT = "BTC-USD"
LINE_EVERY_S = 2.0


class ToolError(Exception):
    """A tool cannot do what it was asked; the message is one line."""


def load(
    base_url: Annotated[str, typer.Option(envvar="BASE_URL", help="Where it is.")] = "",
    connections: Annotated[int, typer.Option(envvar="CONCURRENT_REQUESTS", min=1, max=2_000)] = 100,
    total: Annotated[
        int, typer.Option(envvar="TOTAL_REQUESTS", min=0, help="0: until the time is up.")
    ] = 2_000,
    duration: Annotated[float, typer.Option(envvar="DURATION_SECONDS", min=0.1)] = 60.0,
    rate: Annotated[
        float, typer.Option(min=0, help="Orders a second; 0: as fast as answers come.")
    ] = 0.0,
    instrument: Annotated[str, typer.Option()] = INSTRUMENT,
    seed: Annotated[int, typer.Option(help="The same seed, the same orders.")] = 1,
    file: Annotated[
        Path | None, typer.Option(help="Orders of `exchange fixtures`, in place of random ones.")
    ] = None,
    websocket: Annotated[bool, typer.Option("--websocket", help="Over the stream.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Send orders and measure how many are taken and how long each waits."""
    plan = Plan(address(base_url), connections, total, duration, rate, websocket)
    mix = Mix(seed, instrument, f"load-{time.time_ns():x}")
    try:
        orders = iter(read_fixtures(file)) if file else mix.orders()
        measured = Measured()
        _run(plan, orders, measured, quiet=as_json)
    except (Unreachable, MixError) as error:
        raise ToolError(str(error)) from error
    if as_json:
        print(json.dumps(report.document(plan, measured), indent=2))
    else:
        report.show(Console(), plan, measured)


def fixtures(
    orders: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed, the same file.")] = 1,
    instrument: Annotated[str, typer.Option()] = INSTRUMENT,
    output: Annotated[Path, typer.Option(help="JSON Lines.")] = Path("orders.jsonl"),
) -> None:
    """Write a file of orders; the same seed gives the same bytes."""
    write_fixtures(output, Mix(seed, instrument, f"fixture-{seed}"), orders)
    Console().print(f"Wrote {orders:,} orders to {output}.", highlight=False)


def address(base_url: str) -> str:
    """Return where the exchange is: as told, else where the settings have it."""
    if base_url:
        return base_url.rstrip("/")
    settings = Settings.load()
    return f"http://{settings.host}:{settings.port}"


def _run(plan: Plan, orders: Any, measured: Measured, *, quiet: bool) -> None:
    console = Console(stderr=True, quiet=quiet)
    told = cycle([False]) if console.is_terminal else _every(LINE_EVERY_S)
    with report.progress(console) as bar:
        task = bar.add_task("", total=1.0)

        def tell() -> None:
            completed = report.done(plan, measured)
            bar.update(task, completed=completed, description=report.line(measured))
            if next(told):
                console.print(report.line(measured), highlight=False)

        try:
            asyncio.run(run_load(plan, orders, measured, tell))
        except KeyboardInterrupt:
            console.print("Stopped early.")


def _every(seconds: float) -> Any:
    """Yield whether it is time again."""
    last_s = time.monotonic()
    while True:
        due = time.monotonic() - last_s >= seconds
        if due:
            last_s = time.monotonic()
        yield due
