"""``exchange accounts``: creates accounts, and suspends and resumes clients.

Each is a command through Kafka, to shard 0 or to all shards, in the order in which all else is
decided. Doing one twice does no harm.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import asyncpg
import msgspec
import typer
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncConnection

from exchange.config import Settings
from exchange.domain.commands import CreateAccount, ResumeClient, SuspendClient
from exchange.domain.events import AccountRejected, Event, KeyRejected
from exchange.domain.values import Id, RejectReason
from exchange.log.documents.text import timestamp
from exchange.log.events import load_event
from exchange.log.identity import account_command_id, suspension_command_id
from exchange.log.reader import read_heads
from exchange.processes.pool import engine_of
from exchange.tools.operators.commands import outcomes_of
from exchange.tools.terminal import ToolError, connect, counted, print_rows, wide_console
from projections.accounts import KEYS_SHARD, NAME, list_accounts
from projections.stores.checkpoints import (
    Live,
    ReadModelStale,
    ReadModelUnavailable,
    SequenceWaits,
    read_live,
)

PAGE: Final = 1_000  # rows of one query; larger pages are no faster
SEEN_WAIT_MS: Final = 10_000  # a read model is a fraction of a second behind the log
KEY: Final = "accounts"  # of records, for people to see

DONE: Final = (RejectReason.ALREADY_SUSPENDED, RejectReason.NOT_SUSPENDED)
"""Refusals of what is so already."""

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="Its client id.")]


class Refused(ToolError):
    """The exchange refused a command, so nothing was done."""


commands = typer.Typer(no_args_is_help=True, help="Accounts of clients, and who may trade.")


@commands.command()
def create(client: Client) -> None:
    """Let a client have keys."""
    asyncio.run(_create(Settings.load(), client_id_of(client)))


@commands.command("list")
def list_all() -> None:
    """Show clients with an account, and those that were ever suspended."""
    asyncio.run(_list(Settings.load(), wide_console()))


@commands.command()
def suspend(client: Client) -> None:
    """Take no more orders of a client, on every shard; it can cancel what it has."""
    asyncio.run(_tell_shards(Settings.load(), SuspendClient(client_id_of(client))))


@commands.command()
def resume(client: Client) -> None:
    """Take orders of a suspended client again, on every shard."""
    asyncio.run(_tell_shards(Settings.load(), ResumeClient(client_id_of(client))))


async def create_account(
    settings: Settings, connection: asyncpg.Connection, client_id: str, key_id: str | None = None
) -> Event:
    """Create an account, unless it is there; return what the log says of it.

    Raises:
        ToolError: It was refused, or its outcome is not known.
    """
    ids = {KEYS_SHARD: account_command_id(client_id)}
    command = CreateAccount(client_id)
    outcome = await outcomes_of(settings, connection, command, ids, key=KEY, key_id=key_id)
    return accepted(load_event(outcome[KEYS_SHARD][0]).event)


async def tell_shards(
    settings: Settings,
    connection: asyncpg.Connection,
    command: SuspendClient | ResumeClient,
    *,
    key: str | None = None,
    key_id: str | None = None,
) -> dict[int, int]:
    """Suspend or resume a client on every shard; return the position of each at which it is so.

    ``key`` is an idempotency key, ``key_id`` of the key by which the command was signed.

    Raises:
        ToolError: It was refused, or its outcome is not known.
    """
    action = "suspend" if isinstance(command, SuspendClient) else "resume"
    ids = {
        shard: suspension_command_id(action, command.client_id, key, shard)
        for shard in range(settings.shards)
    }
    outcomes = await outcomes_of(settings, connection, command, ids, key=KEY, key_id=key_id)
    for events in outcomes.values():
        event = load_event(events[0]).event
        if not (isinstance(event, AccountRejected) and event.reason in DONE):
            accepted(event)
    return {shard: events[0].position for shard, events in outcomes.items()}


def accepted(event: Event) -> Event:
    """Return an event that does not refuse anything.

    Raises:
        Refused: It refuses.
    """
    if isinstance(event, AccountRejected | KeyRejected):
        raise Refused(f"The exchange refused: {event.reason.value}.")
    return event


def client_id_of(text: str) -> str:
    """Return a client id.

    Raises:
        ToolError: It can be none.
    """
    try:
        client_id: str = msgspec.convert(text, Id)
    except msgspec.ValidationError as error:
        raise ToolError(f"{text!r} is no client id: {error}.") from error
    return client_id


@asynccontextmanager
async def telling(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the log; a failure of it ends in one line."""
    connection = await connect(settings.database_url)
    try:
        yield connection
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}. Give the command again.") from error
    finally:
        await connection.close()


@asynccontextmanager
async def read_model(
    settings: Settings, connection: asyncpg.Connection
) -> AsyncIterator[tuple[AsyncConnection, Live]]:
    """Lend a connection to the read model, which has all that the log has by now.

    Raises:
        ToolError: It is not built, or not kept up.
    """
    heads = {shard: at for shard, at in (await read_heads(connection)).items() if at}
    async with engine_of(settings, 1) as engine:
        try:
            await SequenceWaits(engine).reach(NAME, heads, timeout_ms=SEEN_WAIT_MS)
            async with engine.connect() as lent:
                yield lent, await read_live(lent, NAME)
        except (ReadModelUnavailable, ReadModelStale) as error:
            raise ToolError(f"{error}. Is the projector running?") from error


async def _create(settings: Settings, client_id: str) -> None:
    async with telling(settings) as connection:
        event = await create_account(settings, connection, client_id)
    typer.echo(f"{client_id} has an account since {timestamp(event.time_ms)}.")


async def _list(settings: Settings, console: Console) -> None:
    rows: list[tuple[object, ...]] = []
    async with telling(settings) as connection, read_model(settings, connection) as (lent, live):
        after = ""
        while True:
            found = await list_accounts(lent, live, after=after, limit=PAGE)
            rows += [
                (
                    one.client_id,
                    None if one.created_ms is None else timestamp(one.created_ms),
                    ", ".join(f"{shard}" for shard in one.suspended) or None,
                )
                for one in found
            ]
            if len(found) < PAGE:
                break
            after = found[-1].client_id
    columns = ("client", "account since", "suspended on shards")
    print_rows(console, counted(len(rows), "client"), columns, rows)


async def _tell_shards(settings: Settings, command: SuspendClient | ResumeClient) -> None:
    async with telling(settings) as connection:
        places = await tell_shards(settings, connection, command)
    what = "suspended" if isinstance(command, SuspendClient) else "not suspended"
    for shard, position in places.items():
        typer.echo(f"Shard {shard}: {command.client_id} is {what}, as of position {position:,}.")
