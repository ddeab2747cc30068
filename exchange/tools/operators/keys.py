"""``exchange keys``: issues keys to accounts, rotates and revokes them; ``bootstrap`` begins.

A secret is printed once, or written into a file that only its owner can read: of Ed25519 it is made
here and never leaves, of HMAC it is derived from the master key. The file is written before the
exchange is asked, so that a key that was issued is never without its secret.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from rich.console import Console

from exchange.config import Settings
from exchange.domain.commands import IssueKey, RevokeKey, RotateKey
from exchange.domain.events import Event, KeyIssued, KeyRevoked
from exchange.domain.values import (
    OVERLAP_MS_MAX,
    KeyAlgorithm,
    KeyId,
    KeyScope,
    Label,
    PublicKey,
)
from exchange.door.secrets import MasterKeyError
from exchange.log.documents.text import timestamp
from exchange.log.events import load_event
from exchange.log.identity import uuid7
from exchange.processes.door import master_keys_of
from exchange.signing import key_file_text
from exchange.tools.moments import time_ms_of
from exchange.tools.operators.accounts import (
    PAGE,
    Refused,
    accepted,
    client_id_of,
    create_account,
    read_model,
    telling,
)
from exchange.tools.operators.commands import outcomes_of
from exchange.tools.terminal import ToolError, counted, print_rows, wide_console
from projections.accounts import KEYS_SHARD, Key, list_keys

KEY: Final = "keys"  # of records, for people to see
FIRST_ADMIN: Final = "admin"
FIRST_SCOPES: Final = (KeyScope.READ, KeyScope.AUDIT, KeyScope.ADMIN)
OVERLAP_S: Final = 24 * 60 * 60

commands = typer.Typer(no_args_is_help=True, help="Keys, by which requests are signed.")

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="Whose account.")]
KeyName = Annotated[str, typer.Argument(metavar="KEY_ID", help="Its id, as `list` shows it.")]
Algorithm = Annotated[KeyAlgorithm, typer.Option(help="How it signs.")]
To = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the secret into a new file, mode 0600.")
]
Labelled = Annotated[str, typer.Option("--label", help="What people call it.")]
PublicKeyHex = Annotated[
    str, typer.Option("--public-key", help="Of Ed25519, as 64 hex digits; else one is made here.")
]


class Secret(Struct, frozen=True):
    """What a new key signs with; ``text`` is that of its key file, None if others have that."""

    public_key: str | None
    master: int | None
    text: str | None


@commands.command()
def bootstrap(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Of the admin.")] = FIRST_ADMIN,
    algorithm: Algorithm = KeyAlgorithm.ED25519,
    to: To = None,
    label: Labelled = "bootstrap",
    another: Annotated[
        bool, typer.Option("--another", help="Even if there is a key for admins.")
    ] = False,
) -> None:
    """Make the account of an admin and its first key."""
    settings = Settings.load()
    asyncio.run(_bootstrap(settings, client_id_of(client), algorithm, to, label, another=another))


@commands.command()
def issue(
    client: Client,
    scope: Annotated[list[KeyScope], typer.Option(help="What it is good for; repeatable.")],
    algorithm: Algorithm = KeyAlgorithm.ED25519,
    public_key: PublicKeyHex = "",
    address: Annotated[
        list[str] | None, typer.Option(help="A network from which it is good; repeatable.")
    ] = None,
    expires: Annotated[str, typer.Option(help="When it ends by itself, in ISO 8601.")] = "",
    label: Labelled = "",
    to: To = None,
) -> None:
    """Issue a key to an account."""
    settings, key_id = Settings.load(), uuid7().hex
    secret = _new_secret(settings, key_id, algorithm, public_key)
    command = IssueKey(
        key_id,
        client_id_of(client),
        algorithm,
        secret.public_key,
        secret.master,
        tuple(one for one in KeyScope if one in scope),
        _networks(address or ()),
        time_ms_of(expires, "--expires") if expires else None,
        _checked(label, Label, "label"),
    )
    asyncio.run(_change(settings, command, key_id, secret, to))


@commands.command("list")
def list_all(
    client: Annotated[str, typer.Option(help="Only this client's.")] = "",
) -> None:
    """Show keys, those that have ended too."""
    asyncio.run(_list(Settings.load(), client or None, wide_console()))


@commands.command()
def rotate(
    key_id: KeyName,
    algorithm: Algorithm = KeyAlgorithm.ED25519,
    public_key: PublicKeyHex = "",
    overlap: Annotated[
        int,
        typer.Option(min=0, max=OVERLAP_MS_MAX // 1_000, help="Seconds that the old one stays."),
    ] = OVERLAP_S,
    to: To = None,
) -> None:
    """Put a new key, of the same algorithm, in the place of one."""
    settings, new_id = Settings.load(), uuid7().hex
    secret = _new_secret(settings, new_id, algorithm, public_key)
    former = _checked(key_id, KeyId, "key id")
    overlap_ms = overlap * 1_000
    command = RotateKey(former, new_id, secret.public_key, secret.master, overlap_ms)
    asyncio.run(_change(settings, command, new_id, secret, to))


@commands.command()
def revoke(key_id: KeyName) -> None:
    """End a key at once."""
    asyncio.run(_revoke(Settings.load(), _checked(key_id, KeyId, "key id")))


async def _bootstrap(
    settings: Settings,
    client_id: str,
    algorithm: KeyAlgorithm,
    to: Path | None,
    label: str,
    *,
    another: bool,
) -> None:
    key_id = uuid7().hex
    secret = _new_secret(settings, key_id, algorithm, "")
    command = IssueKey(
        key_id,
        client_id,
        algorithm,
        secret.public_key,
        secret.master,
        FIRST_SCOPES,
        (),
        None,
        _checked(label, Label, "label"),
    )
    async with telling(settings) as connection:
        if not another:
            await _check_no_admin(settings, connection)
        await create_account(settings, connection, client_id)
    await _change(settings, command, key_id, secret, to)


async def _check_no_admin(settings: Settings, connection: asyncpg.Connection) -> None:
    async for key in _keys(settings, connection, None):
        if KeyScope.ADMIN in key.scopes and not _has_ended(key):
            raise ToolError(
                f"There is a key for admins: {key.key_id} of {key.client_id}. Nothing was done;"
                " --another issues one more."
            )


async def _change(
    settings: Settings,
    command: IssueKey | RotateKey,
    key_id: str,
    secret: Secret,
    to: Path | None,
) -> None:
    with _kept(secret, to):
        async with telling(settings) as connection:
            event = await decided(settings, connection, command)
    assert isinstance(event, KeyIssued), event
    ends = "" if event.expires_ms is None else f" until {timestamp(event.expires_ms)}"
    scopes = " ".join(scope.value for scope in event.scopes)
    typer.echo(f"Key {key_id} of {event.client_id} is issued{ends}, for: {scopes}.")
    if event.overlap_ms is not None:
        ends_at = timestamp(event.time_ms + event.overlap_ms)
        typer.echo(f"Key {event.rotated_from} ends at {ends_at}.")
    if secret.text is not None and to is None:
        typer.echo("Its key file, which is shown this once:")
        typer.echo(secret.text)
    elif secret.text is not None:
        typer.echo(f"Its secret is in {to}.")


async def decided(
    settings: Settings,
    connection: asyncpg.Connection,
    command: IssueKey | RotateKey | RevokeKey,
    key_id: str | None = None,
) -> Event:
    """Return the first event of a command; ``key_id`` is of the key by which it was signed.

    Raises:
        ToolError: It was refused, or its outcome is not known.
    """
    new_id = command.new_key_id if isinstance(command, RotateKey) else command.key_id
    # The id of a new key is that of its command.
    command_id = uuid7() if isinstance(command, RevokeKey) else UUID(hex=new_id)
    ids = {KEYS_SHARD: command_id}
    outcome = await outcomes_of(settings, connection, command, ids, key=KEY, key_id=key_id)
    return accepted(load_event(outcome[KEYS_SHARD][0]).event)


async def _list(settings: Settings, client_id: str | None, console: Console) -> None:
    async with telling(settings) as connection:
        keys = [key async for key in _keys(settings, connection, client_id)]
    rows = [
        (
            key.key_id,
            key.client_id,
            " ".join(key.scopes),
            state_of(key),
            key.algorithm.value,
            timestamp(key.issued_ms),
            " ".join(key.addresses) or None,
            key.label or None,
        )
        for key in keys
    ]
    columns = ("key", "client", "scopes", "state", "algorithm", "issued", "from", "label")
    print_rows(console, counted(len(rows), "key"), columns, rows)


async def _revoke(settings: Settings, key_id: str) -> None:
    async with telling(settings) as connection:
        event = await decided(settings, connection, RevokeKey(key_id))
    assert isinstance(event, KeyRevoked), event
    typer.echo(f"Key {key_id} of {event.client_id} has ended.")


async def _keys(
    settings: Settings, connection: asyncpg.Connection, client_id: str | None
) -> AsyncIterator[Key]:
    async with read_model(settings, connection) as (lent, live):
        after = ""
        while True:
            found = await list_keys(lent, live, client_id, after=after, limit=PAGE)
            for key in found:
                yield key
            if len(found) < PAGE:
                return
            after = found[-1].key_id


def state_of(key: Key) -> str:
    """Tell whether a key is good, and when it ends or has ended."""
    ends = [end for end in (key.expires_ms, key.ends_ms) if end is not None]
    if not ends:
        return "good"
    return f"{'ended' if _has_ended(key) else 'ends'} {timestamp(min(ends))}"


def _has_ended(key: Key) -> bool:
    now_ms = time.time() * 1_000
    return any(end is not None and end <= now_ms for end in (key.expires_ms, key.ends_ms))


def _new_secret(
    settings: Settings, key_id: str, algorithm: KeyAlgorithm, public_key: str
) -> Secret:
    """Return what a new key signs with: somebody's public key, or a secret of its own."""
    if algorithm is KeyAlgorithm.ED25519:
        if public_key:
            return Secret(_checked(public_key.lower(), PublicKey, "public key"), None, None)
        private = Ed25519PrivateKey.generate()
        text = key_file_text(key_id, algorithm.value, private.private_bytes_raw())
        return Secret(private.public_key().public_bytes_raw().hex(), None, text)
    if public_key:
        raise ToolError("A key of HMAC has no public key: its secret comes from the master key.")
    masters = master_keys_of(settings)
    try:
        master = masters.newest
        text = key_file_text(key_id, algorithm.value, masters.hmac_secret(master, key_id))
    except MasterKeyError as error:
        raise ToolError(str(error)) from error
    return Secret(None, master, text)


@contextmanager
def _kept(secret: Secret, to: Path | None) -> Iterator[None]:
    """Write a secret into its file, which goes again if the key is not issued.

    Raises:
        ToolError: The file is there, or cannot be written; then nothing is done.
    """
    if secret.text is None or to is None:
        yield
        return
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret.text + "\n")
    except OSError as error:
        raise ToolError(f"{to}: {error.strerror}. Nothing was done.") from error
    try:
        yield
    except Refused:
        to.unlink()
        raise
    except ToolError as error:
        told = f"The secret is in {to}: keep it only if `exchange keys list` shows the key."
        raise ToolError(f"{error} {told}") from error


def _networks(addresses: Sequence[str]) -> tuple[str, ...]:
    try:
        found = [str(ip_network(text)) for text in addresses]
    except ValueError as error:
        raise ToolError(f"--address: {error}.") from error
    if any("%" in text for text in found):
        raise ToolError("--address: a zone is of one machine; leave out what follows the %.")
    return tuple(dict.fromkeys(found))


def _checked(text: str, kind: Any, what: str) -> str:
    try:
        checked: str = msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise ToolError(f"{text!r} is no {what}: {error}.") from error
    return checked
