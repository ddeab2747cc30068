"""The commands on read models: their arguments and options.

What a command needs is imported when it is called: ``exchange`` also starts the processes that
others wait for.
"""

from typing import Annotated, Final

import typer

from exchange.tools.terminal import AsJson, BaseUrl, place_of

OPERATIONS_MAX: Final = 10_000

Name = Annotated[str, typer.Argument(metavar="PROJECTION", help="A read model, such as book.")]
Number = Annotated[
    int | None, typer.Option("--generation", min=1, help="Which one, where there are several.")
]
ExpectLive = Annotated[
    int | None,
    typer.Option(
        envvar="EXPECT_LIVE",
        min=1,
        help="The generation that you saw live; if another is, it is refused.",
    ),
]
Reason = Annotated[str, typer.Option(envvar="REASON", help="Why; it is kept for ever.")]

commands = typer.Typer()


@commands.command()
def status(base_url: BaseUrl = "", as_json: AsJson = False) -> None:
    """Tell how far each part is; exit with 0 if all are healthy, else with 1."""
    from exchange.tools.projections.status import tell_status

    tell_status(base_url, as_json=as_json)


@commands.command()
def rebuild(
    projection: Name,
    expect_live: ExpectLive = None,
    stay: Annotated[
        bool, typer.Option("--no-switch", help="Build it and keep it up, and do not switch.")
    ] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Build a read model anew beside the live one, verify it, and switch; exit 1 if it did not."""
    from exchange.tools.projections.rebuild import rebuild_each

    rebuild_each([projection], expect_live, reason, stay=stay, as_json=as_json)


@commands.command("rebuild-all")
def rebuild_all(reason: Reason = "", as_json: AsJson = False) -> None:
    """Rebuild every read model; exit 1 if one did not go live."""
    from exchange.tools.projections.rebuild import rebuild_each
    from projections.registry import READ_MODELS

    rebuild_each(READ_MODELS, None, reason, stay=False, as_json=as_json)


@commands.command("verify-projection")
def verify_projection(projection: Name, generation: Number = None, as_json: AsJson = False) -> None:
    """Compare every row of a read model with the log; exit 1 if one differs."""
    from exchange.tools.projections.verify import verify

    verify(projection, generation, as_json=as_json)


@commands.command("dry-run")
def dry_run(projection: Name, as_json: AsJson = False) -> None:
    """Count what this build's rules would change in a read model; nothing is switched."""
    from exchange.tools.projections.verify import try_dry

    try_dry(projection, as_json=as_json)


@commands.command()
def prove(
    at: Annotated[
        str,
        typer.Option(
            metavar="SHARD:POSITION,…",
            help="Decide again and fold up to here; a shard that is not named, up to its head.",
        ),
    ] = "",
    decisions: Annotated[
        bool,
        typer.Option("--decisions", help="Only decide the commands again, as before an upgrade."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the log, decide its commands again by this build, and tell each read model's digest.

    Exit with 1 if the log, a decision (but as a release means) or a generation's digest differs.
    """
    from exchange.tools.projections.prove import prove_log

    prove_log(at, only_decisions=decisions, as_json=as_json)


@commands.command()
def switch(
    projection: Name,
    generation: Number = None,
    expect_live: ExpectLive = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Although it was not compared with the log.")
    ] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Let queries read another generation, by default the one that is built; keep the former."""
    from exchange.tools.projections import changes

    change = changes.switch(projection, generation, expect_live, unverified=unverified)
    changes.make(change, reason, as_json=as_json)


@commands.command()
def rollback(
    projection: Name, expect_live: ExpectLive = None, reason: Reason = "", as_json: AsJson = False
) -> None:
    """Let queries read the former generation again, which loses nothing."""
    from exchange.tools.projections import changes

    changes.make(changes.rollback(projection, expect_live), reason, as_json=as_json)


@commands.command()
def pause(
    projection: Name,
    generation: Number = None,
    expect_live: ExpectLive = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Stop keeping up a generation, by default the live one, which is read as it stands."""
    from exchange.tools.projections import changes

    changes.make(changes.pause(projection, generation, expect_live), reason, as_json=as_json)


@commands.command()
def resume(
    projection: Name,
    generation: Number = None,
    expect_live: ExpectLive = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Go on with a paused generation."""
    from exchange.tools.projections import changes

    changes.make(changes.resume(projection, generation, expect_live), reason, as_json=as_json)


@commands.command()
def retry(
    projection: Name,
    generation: Number = None,
    expect_live: ExpectLive = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Try a failed generation again, from the event at which it stopped."""
    from exchange.tools.projections import changes

    changes.make(changes.retry(projection, generation, expect_live), reason, as_json=as_json)


@commands.command()
def skip(
    projection: Name,
    position: Annotated[str, typer.Argument(metavar="SHARD:POSITION", help="Where it failed.")],
    expect_live: ExpectLive = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Let this definition pass over an event, and go on; that is for ever, and shown for ever."""
    from exchange.tools.projections import changes

    change = changes.skip(projection, place_of(position), expect_live)
    changes.make(change, reason, as_json=as_json)


@commands.command()
def retire(
    projection: Name,
    generation: Number = None,
    expect_live: ExpectLive = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Give up a generation, by default the former one: there is no way back to it."""
    from exchange.tools.projections import changes

    changes.make(changes.retire(projection, generation, expect_live), reason, as_json=as_json)


@commands.command()
def operations(
    projection: Annotated[str, typer.Option(help="Only of this read model.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=OPERATIONS_MAX, help="The newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, newest first."""
    from exchange.tools.projections.operations import show_operations

    if projection:  # only then are the read models needed
        from exchange.tools.projections.stores import checked

        checked(projection)
    show_operations(projection or None, limit, as_json=as_json)
