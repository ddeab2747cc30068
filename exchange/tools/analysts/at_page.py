"""``exchange at``: what a read model said at a moment, as tables or JSON, and what changed since.

An answer is told as tables of rows, each with a key. Two answers differ in the rows that only one
of them has, and in the values of those that both have.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import asyncpg
import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from exchange.analyst import answers
from exchange.analyst.answers import Asking
from exchange.config import Settings
from exchange.domain.values import Id
from exchange.door.caller import ANYBODY
from exchange.gateway.http.parameters import INTERVAL
from exchange.gateway.http.problems import Problem
from exchange.gateway.http.responses import skips_text
from exchange.gateway.parts.listings import Listings
from exchange.log.events import UnknownEvent
from exchange.log.moments import Moment
from exchange.ports import LogCorrupt
from exchange.processes.pool import engine_of
from exchange.tools.analysts.differences import (
    LEGEND,
    Change,
    Difference,
    Row,
    Rows,
    differences,
    pictures_of,
    without,
)
from exchange.tools.moments import moment_of
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import (
    NOTHING,
    WIDE,
    ToolError,
    connect,
    print_rows,
    printable,
    wide_console,
)
from projections.past.past import Past
from projections.stores.checkpoints import ReadModelStale, ReadModelUnavailable, noting_skips

MODELS: Final = ("book", "ticker", "positions", "orders", "order", "settlement", "analytics")
INTERVAL_MINUTES: Final = 60  # the hours of a day fit a terminal
POOL_MAX: Final = 2  # a fold of the log and the rows of a live table are asked one after the other
COMPARED_MAX: Final = 10_000  # rows; a difference of parts would name rows that did not change

ROWS_MAX: Final = 20  # without --limit

Document = dict[str, Any]
"""An answer as JSON has it, with every number as its text, so that keys have one type."""

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def show_at(
    text: str, what: str, name: str, other: str | None, limit: int | None, as_json: bool
) -> None:
    """Print what a read model said at a moment, or how that differs from another moment.

    Raises:
        ToolError: A moment is not in the log yet, or there was no such thing then.
    """
    _check_name(what, name)
    if other is not None and limit is not None:
        raise typer.BadParameter("--limit is of one moment: --diff compares all rows.")
    moments = [text] if other is None else [text, other]
    bound = (limit or ROWS_MAX) if other is None else COMPARED_MAX
    console = Console(stderr=True, quiet=as_json)
    (_, sequence, first), *others = _asked(moments, what, name, bound, console)
    if not others:
        if as_json:
            typer.echo(first)
        else:
            answer, out = _document(first), wide_console()
            _print_answer(out, sequence, tables_of(what, answer))
            if _has_more(answer, bound):
                out.print("There may be more: --limit says how many.", soft_wrap=True)
        return
    ((_, other_sequence, second),) = others
    before, after = _document(first), _document(second)
    if _has_more(before, bound) or _has_more(after, bound):
        raise ToolError(f"More than {COMPARED_MAX:,} rows would have to be compared.")
    changes = list(differences(tables_of(what, before), tables_of(what, after)))
    difference = Difference(sequence, other_sequence, changes)
    if as_json:
        typer.echo(msgspec.json.encode(difference).decode())
    else:
        _print_difference(wide_console(), difference)


def _check_name(what: str, name: str) -> None:
    if not name and what != "settlement":
        raise typer.BadParameter(f"{what} of what? Name it: exchange at MOMENT {what} NAME.")
    if name:
        try:
            msgspec.convert(name, Id)
        except msgspec.ValidationError as error:
            raise typer.BadParameter(f"{name!r} can be no name: {error}") from error


def _document(text: str) -> Document:
    document: Document = json.loads(text, parse_float=str, parse_int=str)
    return document


def _asked(
    moments: Sequence[str], what: str, name: str, limit: int, console: Console
) -> list[tuple[Moment, str, str]]:
    """Return what ``_ask`` does, and say what the answers lack."""
    with noting_skips() as skipped:
        found = asyncio.run(_ask(moments, what, name, limit, console))
    if skipped:
        told = f"An operator had read models pass over events: {skips_text(skipped)} are not in it."
        Console(stderr=True).print(told, style="yellow", soft_wrap=True)
    return found


async def _ask(
    moments: Sequence[str], what: str, name: str, limit: int, console: Console
) -> list[tuple[Moment, str, str]]:
    """Return each moment with its sequence and the answer of it."""
    settings = Settings.load()
    connection = await connect(settings.database_url)
    try:
        asked = [await moment_of(connection, text, "MOMENT") for text in moments]
        found = []
        with telling(console, EVENTS) as tell:
            async with engine_of(settings, POOL_MAX) as engine:
                for moment in asked:
                    past = Past(
                        engine,
                        moment,
                        settings.shards,
                        tell=lambda done, of: tell("Folding the log", done, of),
                    )
                    asking = Asking(past, ANYBODY, engine, Listings(engine), limit)
                    text = (await _answer(asking, what, name)).decode()
                    told = f'{{"as_of_sequence":"{asking.sequence}",{text[1:]}'
                    found.append((moment, asking.sequence, told))
        return found
    except Problem as problem:
        raise ToolError(problem.detail) from problem
    except (ReadModelStale, ReadModelUnavailable, UnknownEvent) as error:
        raise ToolError(f"{error}.") from error
    except LogCorrupt as error:
        raise ToolError(f"The log is damaged: {error}: see make verify.") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError, OSError) as error:
        raise ToolError(f"PostgreSQL: {error}") from error
    finally:
        await connection.close()


async def _answer(asking: Asking, what: str, name: str) -> bytes:
    """Return what is answered about an instrument, a client, an order or a cycle."""
    match what:
        case "book":
            return await answers.orderbook(asking, {"instrument": name})
        case "ticker":
            return await answers.ticker(asking, {"instrument": name})
        case "analytics":
            asked = {"instrument": name, INTERVAL.name: str(INTERVAL_MINUTES)}
            return await answers.analytics(asking, asked)
        case "positions":
            return await answers.positions(asking, {"client_id": name})
        case "orders":
            return await answers.orders(asking, {"client_id": name})
        case "order":
            one = await answers.order(asking, {"order_id": name})
            events = await answers.order_events(asking, {"order_id": name})
            members = [_members.decode(text) for text in (one, events)]
            return msgspec.json.encode(members[0] | members[1])  # both have the same sequence
        case _:
            if not name:
                return await answers.cycles(asking, {})
            return await answers.cycle(asking, {"cycle_id": name})


def tables_of(what: str, answer: Document) -> list[Rows]:
    """Return the rows of an answer, by their tables."""
    match what:
        case "book":
            asks = [{"side": "sell", **level} for level in reversed(answer["asks"])]
            bids = [{"side": "buy", **level} for level in answer["bids"]]
            return [Rows(answer["instrument"], ("side", "price"), asks + bids, _of_book)]
        case "positions" | "orders":
            key = "instrument" if what == "positions" else "order_id"
            rows = [without(row, "client_id") for row in answer[what]]
            return [Rows(f"{answer['client_id']}: {what}", (key,), rows)]
        case "order":
            events = [_event_row(event) for event in answer["events"]]
            return [_figures("order", answer["order"]), Rows("events", ("sequence",), events)]
        case "settlement" if "cycles" in answer:
            return [Rows("cycles", ("cycle_id",), answer["cycles"])]
        case "settlement":
            owed = [
                {"client_id": client["client_id"], **one}
                for client in answer["clients"]
                for one in client["obligations"]
            ]
            columns = ("client_id", "instrument")
            return [_figures("cycle", answer["cycle"]), Rows("obligations", columns, owed)]
        case "analytics":
            return [Rows(answer["instrument"], ("time_bucket",), answer["aggregates"])]
        case _:
            return [_figures(answer["instrument"], without(answer, "as_of_sequence"))]


def _of_book(key: tuple[str, ...]) -> tuple[bool, Decimal]:
    """Return where a level stands in a book: the highest price of each side first, sells first."""
    side, price = key
    return side == "buy", -Decimal(price)


def _has_more(answer: Document, limit: int) -> bool:
    """Tell whether an answer may lack rows: a page says so, and a side of a book may be full."""
    sides = (answer.get(side, ()) for side in ("bids", "asks"))
    return bool(answer.get("next_cursor")) or any(len(levels) >= limit for levels in sides)


def _figures(title: str, members: Mapping[str, Any]) -> Rows:
    """Return members of an object as rows; those of an object in it have its name before theirs."""
    rows = []
    for name, value in members.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [{"figure": f"{name} {part}".strip(), "value": one} for part, one in parts]
    return Rows(title, ("figure",), rows)


def _event_row(event: Row) -> Row:
    named = {"sequence": event["sequence"], "timestamp": event["timestamp"], "type": event["type"]}
    rest = (f"{name} {value}" for name, value in event.items() if name not in named)
    return {**named, "what": ", ".join(rest)}


def _print_answer(console: Console, sequence: str, tables: Sequence[Rows]) -> None:
    console.print(f"As of {sequence}", markup=False, soft_wrap=True)
    for one in tables:
        if not one.rows:
            console.print(f"{one.title}: nothing yet", markup=False, soft_wrap=True)
            continue
        columns = list(dict.fromkeys(name for row in one.rows for name in row))
        cells = [[row.get(name) for name in columns] for row in one.rows]
        print_rows(console, one.title, columns, cells)


def _print_difference(console: Console, difference: Difference) -> None:
    """Print a line for each row: ``+`` it came, ``-`` it went, ``~`` it changed."""
    console.print(
        f"From {difference.as_of_sequence} to {difference.other_sequence}",
        markup=False,
        soft_wrap=True,
    )
    if not difference.changes:
        console.print("Nothing differs.")
        return
    pictures = pictures_of(difference.changes)
    table = Table("", "row", "before", "after", *([LEGEND] if any(pictures) else []), box=None)
    for change, picture in zip(difference.changes, pictures, strict=True):
        sides = ("\n".join(_values(change, side)) for side in (change.before, change.after))
        mark, style = _mark(change)
        drawn = [picture] if any(pictures) else []
        table.add_row(mark, escape(_row(change)), *map(escape, sides), *drawn, style=style)
    unbounded = console.options.update_width(WIDE)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    for change, picture in zip(difference.changes, pictures, strict=True):
        mark, style = _mark(change)
        lines = [f"{mark} {_row(change)}"]
        for when, side in (("before", change.before), ("after", change.after)):
            lines += [f"    {when:<6} {value}" for value in _values(change, side)]
        if picture:
            lines.append(f"    {picture}")
        console.print("\n".join(lines), style=style, markup=False, soft_wrap=True)
    if any(pictures):
        console.print(LEGEND, markup=False, soft_wrap=True)


def _mark(change: Change) -> tuple[str, str]:
    """Return the sign of a change, and the style of its lines."""
    if change.before is not None and change.after is not None:
        return "~", "yellow"
    return ("+", "green") if change.before is None else ("-", "red")


def _row(change: Change) -> str:
    return " ".join(map(_cell, (change.table, *change.key.values())))


def _values(change: Change, side: Row | None) -> list[str]:
    """Return the values of one side that the other does not have."""
    before, after = change.before or {}, change.after or {}
    return [
        f"{name} {_cell(value)}"
        for name, value in (side or {}).items()
        if name not in change.key and before.get(name) != after.get(name)
    ]


def _cell(value: object) -> str:
    return NOTHING if value is None else printable(str(value))
