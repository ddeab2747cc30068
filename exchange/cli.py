"""The command line: one command for each process of the exchange, and for its operators.

``processes`` puts the parts of each together. What a person did wrong ends in one line and exit
code 1 (2 for wrong arguments), never in a traceback. A command imports what it needs when it is
called: most start a process that others wait for.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.main import get_command

from exchange.config import LOOPBACK, PROJECT, Settings, SettingsError
from exchange.durability import UnsafeSettings
from exchange.healthy import PARTS, is_healthy
from exchange.stack.host.directory import RunDirectory
from exchange.stack.host.errors import StackError
from exchange.telemetry import logs
from exchange.tools.analysts.commands import commands as analysts
from exchange.tools.projections.commands import commands as projections
from exchange.tools.terminal import AsJson, BaseUrl, ToolError, address

RUN_DIRECTORY = RunDirectory(PROJECT / ".run")

OPERATORS = "exchange.tools.operators"
LATER: dict[str, tuple[str, str]] = {
    "load": ("exchange.tools.command", "load"),
    "fixtures": ("exchange.tools.command", "fixtures"),
    "book": ("exchange.tools.command", "book"),
    "trades": ("exchange.tools.command", "trades"),
    "verify": (f"{OPERATORS}.verification", "verify_log"),
    "rebuild-claims": (f"{OPERATORS}.claims", "rebuild_claims"),
    "retry-quarantined": (f"{OPERATORS}.quarantine", "retry_quarantined"),
    "adopt-topic": (f"{OPERATORS}.adopt_topic", "adopt_topic"),
    "snapshot": (f"{OPERATORS}.snapshots", "snapshot"),
    "backup": (f"{OPERATORS}.backups.backup", "backup"),
    "trim": (f"{OPERATORS}.backups.trim", "trim"),
    "republish": (f"{OPERATORS}.republish", "republish"),
    "open-orders-max": (f"{OPERATORS}.open_orders", "open_orders_max"),
    "accounts": (f"{OPERATORS}.accounts", "commands"),
    "keys": (f"{OPERATORS}.keys", "commands"),
}
"""Commands, and groups of them, whose modules have their options.

Each is imported when it is asked for.
"""


class Commands(TyperGroup):
    """All commands, of which those in ``LATER`` are made when one of them is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names."""
        return [*super().list_commands(ctx), *LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None if there is none of this name."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        module, function = LATER[cmd_name]
        found = getattr(import_module(module), function)
        if isinstance(found, typer.Typer):
            group = get_command(found)
            group.name = cmd_name
            return group
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(cmd_name)(telling_of_postgres(found))
        return get_command(alone)


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


def telling_of_postgres(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end in one line if PostgreSQL ends its connection at any statement."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "asyncpg":  # its errors have no one base
                raise
            told = f"PostgreSQL failed: {error}. What was done until then stands; run it again."
            raise ToolError(told) from error

    return run


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app()
    except (StackError, SettingsError, ToolError, UnsafeSettings) as error:
        sys.exit(str(error))


@app.command()
def setup() -> None:
    """Fetch what the local stack needs."""
    from exchange.stack import run as stack

    settings = Settings.load()
    RUN_DIRECTORY.prepare()
    if settings.kafka_is_local:
        stack.fetch_jars(settings, RUN_DIRECTORY, stack.Screen(Console()))


@app.command()
def run() -> None:
    """Start the whole exchange and keep it running until Ctrl-C."""
    from exchange.stack import run as stack

    settings = Settings.load()
    logs.configure(settings.log_format, "warning")  # the screen says the rest
    asyncio.run(stack.run(settings, RUN_DIRECTORY, Console()))


@app.command()
def stop() -> None:
    """End the exchange that runs in this directory, from another terminal."""
    from exchange.stack.stop import stop as end_run

    typer.echo(end_run(RUN_DIRECTORY))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from exchange.stack.migrations import migrate as upgrade

    settings = Settings.load()
    logs.configure(settings.log_format, settings.log_level)
    asyncio.run(upgrade(settings.sqlalchemy_url))


@app.command()
def prepare() -> None:
    """Bring schema and Kafka topic up to date and add shards: once, before all else starts."""
    from exchange.stack.growing import add_shards
    from exchange.stack.migrations import check_database
    from exchange.stack.migrations import migrate as upgrade
    from exchange.stack.services.kafka import ensure_topic

    settings = Settings.load()
    logs.configure(settings.log_format, settings.log_level)
    asyncio.run(upgrade(settings.sqlalchemy_url))
    asyncio.run(check_database(settings.database_url, settings.allow_unsafe))
    topic = (settings.kafka_bootstrap_servers, settings.kafka_topic, settings.shards)
    asyncio.run(ensure_topic(*topic, allow_unsafe=settings.allow_unsafe))
    asyncio.run(add_shards(settings))


@app.command()
def register(
    host: Annotated[str, typer.Option(help="Of a gateway.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Of a gateway.")] = 3000,
) -> None:
    """Register BTC-USD, unless it is registered."""
    from exchange.stack.probe import Gateway, register_first_instrument

    asyncio.run(register_first_instrument(Gateway(host, port), typer.echo))


@app.command()
def healthy(
    part: Annotated[str, typer.Argument(help="readiness, checks, matching or projections")],
    host: Annotated[str, typer.Option(help="Of a gateway.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Of a gateway.")] = 3000,
) -> None:
    """Exit with 0 if a gateway is ready, or a part of the exchange healthy as a gateway sees it."""
    if part not in PARTS:
        raise typer.BadParameter(f"{part} is none of {', '.join(PARTS)}.")
    if not is_healthy(part, host, port):
        raise typer.Exit(1)


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the data of the local stack: orders, trades, everything."""
    from exchange.stack.services import services

    if not yes:
        typer.confirm(f"Delete all data in {RUN_DIRECTORY.path}?", abort=True)
    RUN_DIRECTORY.prepare()
    with RUN_DIRECTORY.locked():
        RUN_DIRECTORY.stop_orphans()
        services.remove(RUN_DIRECTORY)


@app.command()
def matcher(
    shard: Annotated[list[int], typer.Option(help="A shard to run; repeatable.")],
    standby: Annotated[
        bool, typer.Option(help="Beside a matcher: on its own metrics port.")
    ] = False,
) -> None:
    """Decide the commands of some shards; if another matcher does, stand by to take over."""
    from exchange.processes.matcher import run_matcher

    _cancelled(lambda settings: run_matcher(settings, shard, standby=standby))


@app.command()
def projector() -> None:
    """Keep the read models up to date."""
    from exchange.processes.projector import run_projections

    _cancelled(run_projections)


@app.command()
def builder() -> None:
    """Build, verify and switch the generations of read models that operators want."""
    from exchange.processes.builder import run_builder

    _cancelled(run_builder)


@app.command()
def publisher() -> None:
    """Send every event of the log to the Kafka topic of events."""
    from exchange.processes.publisher import run_publisher

    _cancelled(run_publisher)


@app.command()
def analyst() -> None:
    """Answer questions about the past, which gateways pass on."""
    from exchange.processes.analyst import run_analyst

    _process(run_analyst)


@app.command("operator")
def serve_operators(
    base_url: BaseUrl = "",
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Let the page change read models.")
    ] = False,
) -> None:
    """Serve the operators' desk, a page that shows the exchange, and changes nothing by default."""
    from exchange.operator.process import run_operator

    _process(
        lambda settings, stopping: run_operator(
            settings,
            address(base_url),
            stopping,
            allows_changes=allow_changes or settings.operator_allow_changes,
        )
    )


@app.command()
def gateway(port: Annotated[int, typer.Option(help="Where to listen.")]) -> None:
    """Serve HTTP."""
    from exchange.processes.gateway import run_gateway

    _process(lambda settings, stopping: run_gateway(settings, port, stopping))


@app.command()
def restore(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="Of a backup: its dump or its manifest."),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what the database has, after asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of an empty database; the exchange must be stopped."""
    from exchange.stack.alone import services_alone
    from exchange.stack.run import Screen
    from exchange.tools.operators.backups.restore import restore as put_back

    async def work() -> None:
        screen = Screen(Console(stderr=True, quiet=as_json))
        async with services_alone(settings, RUN_DIRECTORY, screen):
            await put_back(settings, file, replace=replace, yes=yes, as_json=as_json)

    settings = Settings.load()
    asyncio.run(work())


@app.command()
def requests() -> None:
    """Print requests to send from an editor (docs/exchange.http)."""
    from exchange.gateway.app import INTERFACE
    from exchange.gateway.description.requests_file import requests_file

    print(requests_file(INTERFACE), end="")


app.add_typer(projections)
app.add_typer(analysts)


def _cancelled(work: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    from exchange.processes.running import cancelled_by

    _process(lambda settings, stopping: cancelled_by(stopping, work(settings)))


def _process(work: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    from exchange.processes.running import serve_until_stopped

    settings = Settings.load()
    logs.configure(settings.log_format, settings.log_level)
    serve_until_stopped(lambda stopping: work(settings, stopping))
