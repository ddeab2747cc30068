"""The commands of analysts, and what each may be told."""

from pathlib import Path
from typing import Annotated, Final

import typer

from exchange.tools.terminal import AsJson, ToolError, place_of

NEEDS_EXTRA: Final = (
    "This needs pyarrow, which make setup installs into .venv: pip install '.[analysis]' in a"
    " checkout, or the wheel's file with [analysis] behind its name."
)

commands = typer.Typer()


@commands.command()
def export(
    data_sets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[events] [trades] [orders] [book] [positions] [settlement]",
            help="What to export; by default events and trades.",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="The folder; goes on with what is there.")] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="One shard; by default all.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="After this time (ISO 8601).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Up to this time; by default all.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="csv|jsonl", help="Write this too, beside Parquet; repeatable."
        ),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(min=1, max=1_000, help="Of a book, on each side; by default 10."),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=86_400,
            help="Of books that changed; 0 is after each change. By default 60.",
        ),
    ] = None,
    follow: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="Go on as the log grows, which is looked at so often; Ctrl-C ends it.",
        ),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Prove this folder instead: nothing missing or changed.")
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARD:POSITION:HEX",
            help="With --check: a chain or root that was kept elsewhere; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write events and what follows from them to Parquet files, or prove a folder of them."""
    try:
        from exchange.tools.analysts import export as exporting
    except ImportError as error:
        raise ToolError(NEEDS_EXTRA) from error
    if check is not None:
        written = (data_sets, to, begin, until, formats)
        if any(written) or (shard, levels, every, follow) != (None,) * 4:
            raise typer.BadParameter("--check takes --expect alone.")
        exporting.check(check, expect or [], as_json=as_json)
        return
    if expect:
        raise typer.BadParameter("--expect belongs to --check.")
    if to is None:
        raise typer.BadParameter("--to DIR says where to write.")
    if follow is not None and until is not None:
        raise typer.BadParameter("--follow has no end: leave --until out.")
    exporting.export_to(
        to,
        data_sets or [],
        shard,
        begin,
        until,
        (levels, every),
        formats or [],
        follow_s=follow,
        as_json=as_json,
    )


@commands.command("analytics-role")
def analytics_role(
    name: Annotated[str, typer.Argument(help="Of the role.")],
    only_print: Annotated[
        bool, typer.Option("--sql", help="Print the SQL, change nothing.")
    ] = False,
) -> None:
    """Make a role of the database that can only read the schema analytics, within bounds."""
    from exchange.tools.analysts.role import make_role

    make_role(name, only_print=only_print)


@commands.command()
def schemas(
    directory: Annotated[Path, typer.Argument(file_okay=False, help="The folder.")],
) -> None:
    """Write the JSON Schemas of published events (docs/schemas)."""
    from exchange.tools.analysts.schemas import write_schemas

    write_schemas(directory)


@commands.command()
def proof(
    event: Annotated[str, typer.Argument(metavar="SHARD:POSITION", help="The event.")],
    at: Annotated[
        str | None,
        typer.Option(
            metavar="SHARD:POSITION", help="Of which the root was published; by default the head."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The file to write the proof to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that an event is in the log, by a proof that needs nothing of the exchange to check."""
    from exchange.tools.analysts.proof import show_proof

    show_proof(place_of(event), None if at is None else place_of(at), to, as_json=as_json)


@commands.command()
def statement(
    client: Annotated[str, typer.Argument(help="The client.")],
    at: Annotated[
        str,
        typer.Option(
            metavar="MOMENT",
            help="A time (ISO 8601), or SHARD:POSITION,…; by default as it is now.",
        ),
    ] = "",
    cycle: Annotated[
        int | None,
        typer.Option(min=1, help="A settlement cycle; by default the open one of the moment."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell a client's positions, and its fills and obligations of a settlement cycle."""
    from exchange.tools.analysts.statement_page import show_statement

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other.")
    show_statement(client, at, cycle, as_csv=as_csv, as_json=as_json)


@commands.command()
def at(
    moment: Annotated[str, typer.Argument(help="A time (ISO 8601), SHARD:POSITION,… or now.")],
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="book, ticker, positions, orders, order, settlement or analytics.",
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(help="The instrument, client, order or cycle; of settlement none: cycles."),
    ] = "",
    diff: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Tell what differs at this moment.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000,
            help="At most so many rows, of a book on each side; by default 20. Not with --diff.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a read model said at a moment, or what changed between two."""
    from exchange.tools.analysts.at_page import MODELS, show_at

    if what not in MODELS:
        raise typer.BadParameter(f"{what} is none of: {', '.join(MODELS)}.")
    show_at(moment, what, name, diff, limit, as_json)


@commands.command()
def replay(
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MOMENT",
            help="After this time (ISO 8601) or SHARD:POSITION,…; by default from the first event.",
        ),
    ] = "",
    to: Annotated[
        str, typer.Option(metavar="MOMENT", help="Up to this moment; by default all there is.")
    ] = "",
    shard: Annotated[int | None, typer.Option(min=0, help="One shard; by default all.")] = None,
    instrument: Annotated[str | None, typer.Option(help="Only events of it.")] = None,
    client: Annotated[
        str | None, typer.Option(help="Only events that name it, on either side of a trade.")
    ] = None,
    of_type: Annotated[
        str | None, typer.Option("--type", help="Only this type, such as TradeExecuted.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Only events of this order, on either side of a trade.")
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=1, max=65_535, help="Tell them as /stream does, on this port."
        ),
    ] = None,
    speed: Annotated[
        str,
        typer.Option(
            metavar="N|max|step",
            help="With --serve: N times as fast as it was, max, or step: paused at first.",
        ),
    ] = "1",
    as_json: AsJson = False,
) -> None:
    """Print the events of the log in order, or serve them over a stream as if they happened now."""
    from exchange.analyst.events import Wanted
    from exchange.tools.analysts.replay_page import show_replay
    from exchange.tools.analysts.serving.server import show_serving

    wanted = Wanted(instrument=instrument, client=client, order=order, type=of_type)
    if serve is None:
        if speed != "1":
            raise typer.BadParameter("--speed belongs to --serve.")
        show_replay(begin, to, shard, wanted, as_json=as_json)
        return
    if as_json:
        raise typer.BadParameter("--json belongs to a replay that is printed, not to --serve.")
    if wanted != Wanted():
        raise typer.BadParameter("--serve takes no filter: each subscriber says what it follows.")
    show_serving(begin, to, shard, serve, speed)
