"""The tools' commands: their options, and what they print."""

import asyncio
import json
import time
from collections.abc import Coroutine, Sized
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from exchange.client import ExchangeError, Following
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.signing import Signer
from exchange.tools.market import ladder, report, tape
from exchange.tools.market.ladder import Ladder
from exchange.tools.market.load import Measured, Plan, Unreachable, check_reachable, run_load
from exchange.tools.market.mix import (
    Mix,
    MixError,
    of_one_client,
    read_fixtures,
    write_fixtures,
)
from exchange.tools.terminal import AsJson, BaseUrl, KeyFile, ToolError, address, signer_of

LINE_EVERY_S = 2.0
TOTAL = 2_000
DURATION_S = 60.0
LEVELS_MAX = 1_000
TRADES_MAX = 1_000
Instrument = Annotated[str, typer.Argument(metavar="[INSTRUMENT]")]

Answer = TypeVar("Answer")


def load(
    base_url: BaseUrl = "",
    connections: Annotated[
        int, typer.Option(envvar="CONCURRENT_REQUESTS", min=1, max=2_000, help="At once.")
    ] = 100,
    total: Annotated[
        int | None,
        typer.Option(
            envvar="TOTAL_REQUESTS",
            min=0,
            help="Orders; 0: while it is time. By default the whole file, else 2000.",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(envvar="DURATION_SECONDS", min=0.1, help="Seconds at most. By default 60."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Orders a second; 0: as fast as answers come.")
    ] = 0.0,
    instrument: Annotated[str, typer.Option()] = INSTRUMENT_DEFAULT,
    seed: Annotated[int, typer.Option(help="The same seed, the same orders.")] = 1,
    file: Annotated[
        Path | None, typer.Option(help="Orders of `exchange fixtures`, in place of random ones.")
    ] = None,
    websocket: Annotated[bool, typer.Option("--websocket", help="Over the stream.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=500, help="Orders in a request or message.")] = 1,
    key: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Send orders and measure how many are taken and how long each waits."""
    mix = Mix(seed, instrument, f"load-{time.time_ns():x}")
    try:
        fixed = read_fixtures(file) if file else None
        planned = planned_total(total, fixed, timed=duration is not None)
        duration_s = DURATION_S if duration is None else duration
        plan = Plan(address(base_url), connections, planned, duration_s, rate, websocket, batch)
        measured, signer = Measured(), signer_of(key)
        orders = mix.orders() if fixed is None else iter(fixed)
        if signer is not None:
            orders = of_one_client(orders)
        _run(plan, orders, measured, signer, quiet=as_json)
    except (Unreachable, MixError) as error:
        raise ToolError(str(error)) from error
    if as_json:
        print(json.dumps(report.document(plan, measured), indent=2))
    else:
        report.show(Console(), plan, measured)
    if not measured.accepted:
        raise typer.Exit(1)


def fixtures(
    orders: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed, the same file.")] = 1,
    instrument: Annotated[str, typer.Option()] = INSTRUMENT_DEFAULT,
    output: Annotated[Path, typer.Option(help="JSON Lines.")] = Path("orders.jsonl"),
) -> None:
    """Write a file of orders; the same seed gives the same bytes."""
    try:
        write_fixtures(output, Mix(seed, instrument, f"fixture-{seed}"), orders)
    except OSError as error:
        raise ToolError(f"{output} cannot be written: {error.strerror}.") from error
    Console().print(f"Wrote {orders:,} orders to {output}.", highlight=False, markup=False)


def book(
    instrument: Instrument = INSTRUMENT_DEFAULT,
    base_url: BaseUrl = "",
    levels: Annotated[int, typer.Option(min=1, max=LEVELS_MAX, help="Of each side.")] = 15,
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
) -> None:
    """Show an order book as it changes, until Ctrl-C."""
    shows = ladder.show_once if once else ladder.show_live
    console = Console(highlight=False)
    url = address(base_url)
    with suppress(KeyboardInterrupt):
        _answered(check_reachable(url))
        _answered(shows(console, url, Ladder(instrument), levels, Notices()))


def trades(
    instrument: Instrument = INSTRUMENT_DEFAULT,
    base_url: BaseUrl = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with those to come, until Ctrl-C.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=TRADES_MAX, help="How many past ones.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the newest trades of an instrument, oldest first."""
    show = tape.show_json if as_json else tape.Printer(Console(highlight=False))
    url = address(base_url)
    with suppress(KeyboardInterrupt):
        _answered(check_reachable(url))
        past, sequence = _answered(tape.newest(url, instrument, limit))
        for trade in past:
            show(trade)
        if follow:
            following = Following(instrument, "trades", after=sequence)
            _answered(tape.show_following(url, following, show, Notices()))


def planned_total(told: int | None, fixed: Sized | None, *, timed: bool = False) -> int:
    """Return how many orders to send: ``told``, else the whole file, else ``TOTAL``.

    0 means any number until the time is up, as when only a duration is given (``timed``).
    """
    if told is not None:
        return told
    if fixed is not None:
        return len(fixed)
    return 0 if timed else TOTAL


class Notices:
    """Tells of a lost connection on standard error, where no script reads it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._lost = False

    def __call__(self, notice: str) -> None:
        if notice or self._lost:
            self._console.print(
                notice or "connected again", style="yellow", soft_wrap=True, markup=False
            )
        self._lost = bool(notice)


def _answered(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run ``work``; a refusal, or no answer, becomes an error of one line."""
    try:
        return asyncio.run(work)
    except (Unreachable, ExchangeError) as error:
        raise ToolError(str(error)) from error


def _run(
    plan: Plan, orders: Any, measured: Measured, signer: Signer | None, *, quiet: bool
) -> None:
    console = Console(stderr=True, quiet=quiet)
    told = cycle([False]) if console.is_terminal else _every(LINE_EVERY_S)
    with report.progress(console) as bar:
        task = bar.add_task("", total=1.0)

        def tell() -> None:
            completed = report.done(plan, measured)
            bar.update(task, completed=completed, description=report.line(measured))
            if next(told):
                left_s = report.left_s(plan, measured)
                console.print(f"{report.line(measured)}  {left_s:.0f} s left", highlight=False)

        try:
            asyncio.run(run_load(plan, orders, measured, tell, signer))
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
