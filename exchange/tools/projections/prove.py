"""``exchange prove``: what was found of the log, of its decisions, and of the read models."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from exchange.log.audit.deciding import MEANT
from exchange.log.audit.verify import Verified
from exchange.tools.moments import positions_of
from exchange.tools.operators.verification import show as show_log
from exchange.tools.projections.proving import (
    SHOWN_EVENTS_MAX,
    Decided,
    Model,
    Otherwise,
    Proved,
    Proving,
)
from exchange.tools.projections.stores import Stores, answered
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import ToolError, counted, wide_console


def prove_log(at: str, *, only_decisions: bool, as_json: bool) -> None:
    """Prove the log up to some positions, print what was found, and exit with 1 if not all holds.

    Raises:
        ToolError: A position is not in the log, or a store does not answer.
    """
    console = Console(stderr=True, highlight=False, quiet=as_json)

    async def work(stores: Stores) -> Proved:
        positions = await positions_of(stores.connection, at)
        if not positions:
            raise ToolError("The log has no shard yet: there is nothing to prove.")
        with telling(console, EVENTS) as tell:
            return await Proving(stores, positions, tell).prove(only_decisions=only_decisions)

    found = answered(work)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        show(wide_console(), found)
    if not found.holds:
        raise typer.Exit(1)


def show(console: Console, found: Proved) -> None:
    """Print what was found; last, whether all of it holds."""
    if found.log:
        show_log(console, found.log)
        for one in found.log:
            _show_pin(console, one, found.positions[one.shard])
    _show_decisions(console, found)
    if found.models:
        _show_models(console, found.models)
    compared = all(one.generation is not None for one in found.models)
    whole = "All of it holds" if compared else "All that was compared holds"
    verdict = whole if found.holds else "Not all of it holds"
    console.print(f"{verdict}, by {found.build}, at {found.at}.", soft_wrap=True)


def _show_pin(console: Console, log: Verified, position: int) -> None:
    """Print the chain and root to keep of a position; those of the head are told already."""
    if log.problem is not None or position == log.up_to:
        return
    pin = log.pins[position]
    for what, kept in (("chain", pin.chain), ("root", pin.root)):
        console.print(f"--expect {log.shard}:{position}:{kept}  # {what}", soft_wrap=True)


def _show_decisions(console: Console, found: Proved) -> None:
    meant: Counter[str] = Counter()
    for one in found.decisions:
        told = f"shard {one.shard}: {one.commands:,} commands up to {one.up_to:,} decided again"
        verdict = f"[red]{one.otherwise:,} otherwise[/red]" if one.otherwise else "none otherwise"
        console.print(f"{told}, {verdict}", soft_wrap=True)
        meant.update(one.meant)
    reasons = {one.name: one.reason for one in MEANT}
    for name, count in sorted(meant.items()):
        console.print(f"{count:,} differ as a release means, {name}: {reasons[name]}")
    for one in found.decisions:
        if one.first is not None:
            _show_first(console, one, one.first)
        if one.broken is not None:
            told = f"shard {one.shard}: no command after event {one.up_to:,} was decided again"
            console.print(told, style="red", soft_wrap=True)


def _show_first(console: Console, decided: Decided, first: Otherwise) -> None:
    console.print(f"[red]shard {decided.shard}, event {first.position}:[/red] ", end="")
    if first.command is None:
        console.print(f"no command causes it: {first.error}", markup=False, soft_wrap=True)
        return
    console.print("the first command that would be decided otherwise", style="red")
    now = ["the rules fail: " + first.error] if first.error else first.decided
    lines = [("command", first.command)]
    lines += [("recorded", event) for event in first.recorded or ["no further event"]]
    lines += [("now", event) for event in now or ["no further event"]]
    for what, told in lines:
        console.print(f"  {what:<9} {_json(told)}", markup=False, soft_wrap=True)
    shown = f"Events are shown from {first.differs_at} on, at most {SHOWN_EVENTS_MAX}."
    console.print(f"  {shown}", soft_wrap=True)


def _show_models(console: Console, models: Sequence[Model]) -> None:
    headings = ("read model", "definition", "rows of all its tables", "digest", "verified there")
    table = Table(*headings, box=None)
    for one in models:
        passed = f", {counted(one.skipped, 'event')} passed over" if one.skipped else ""
        digest = f"{one.digest}{passed}"
        table.add_row(one.projection, one.fingerprint, f"{one.rows:,}", digest, _beside(one))
    console.print(table)
    alone = [one.projection for one in models if one.generation is None]
    if alone:
        console.print(
            f"Compared with nothing: {', '.join(alone)}. None of their generations was verified at"
            " these positions, so their digests are only told: exchange verify-projection NAME"
            " verifies one.",
            markup=False,
            soft_wrap=True,
        )


def _beside(model: Model) -> str:
    if model.generation is None:
        return "none was"
    same = model.verified == model.digest
    told = f"generation {model.generation}"
    return f"{told}, the same" if same else f"[red]{told} had {model.verified}[/red]"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
