"""Accounts and keys by the command line: through Kafka to the matchers, and read from the model."""

import asyncio
import base64
import json
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.config import Settings
from exchange.door.secrets import read_master_keys
from exchange.log.command_form import commands_version
from exchange.log.reader import read_readable
from exchange.processes.matcher import run_matcher
from exchange.processes.projector import run_projections
from exchange.signing import Ed25519Signer, HmacSigner, load_signer
from exchange.tools.terminal import ToolError

pytestmark = pytest.mark.anyio

SHARDS = 2
MASTER = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
IS_READ = "select exists(select from live where projection = 'accounts')"
READ = "select data from events where shard = 0 order by position"


@pytest.fixture
async def exchange(
    settings: Settings, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Settings]:
    """Matchers of two shards and a projector, which the command line finds by its settings."""
    chosen = replace(
        settings, shards=SHARDS, kafka_topic=make_topic(SHARDS), metrics_port=0, keys_master=MASTER
    )
    monkeypatch.setattr(Settings, "load", lambda: chosen)
    # The first command to a Kafka that is new waits for what the broker makes for it.
    monkeypatch.setattr("exchange.transport.commands.DELIVERY_TIMEOUT_MS", 30_000)
    parts = [
        asyncio.create_task(run_matcher(chosen, range(SHARDS), standby=False)),
        asyncio.create_task(run_projections(chosen)),
    ]
    connection = await asyncpg.connect(chosen.database_url)
    async with asyncio.timeout(30):
        while await read_readable(connection) != dict.fromkeys(range(SHARDS), commands_version()):
            await asyncio.sleep(0.05)
        while not await connection.fetchval(IS_READ):
            await asyncio.sleep(0.05)
    await connection.close()
    yield chosen
    for part in parts:
        part.cancel()
    await asyncio.wait(parts)


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def done(*arguments: str) -> str:
    result = await run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


async def refused(*arguments: str) -> str:
    result = await run(*arguments)
    assert isinstance(result.exception, ToolError), result.output
    return str(result.exception)


async def logged(settings: Settings) -> str:
    connection = await asyncpg.connect(settings.database_url)
    rows = await connection.fetch(READ)
    await connection.close()
    return "\n".join(row["data"] for row in rows)


async def test_an_admin_is_made_once_and_its_secret_is_in_a_file_of_its_own(
    exchange: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "admin.json"

    first = await done("keys", "bootstrap", "--to", str(file))
    again = await refused("keys", "bootstrap")
    another = await done("keys", "bootstrap", "ops", "--algorithm", "hmac-sha256", "--another")
    listed = await done("keys", "list")

    signer = load_signer(file)
    assert isinstance(signer, Ed25519Signer)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"Key {signer.key_id} of admin is issued, for: read audit admin." in first
    secret = json.loads(file.read_text())["secret"]
    assert secret not in first
    assert f"There is a key for admins: {signer.key_id} of admin." in again
    shown = json.loads(another.partition("shown this once:\n")[2])
    masters = read_master_keys(MASTER)
    (tmp_path / "ops.json").write_text(json.dumps(shown))
    ops = load_signer(tmp_path / "ops.json")
    assert isinstance(ops, HmacSigner)
    expected = HmacSigner(shown["key_id"], masters.hmac_secret(1, shown["key_id"]))
    assert ops.sign(b"x") == expected.sign(b"x")
    assert signer.key_id in listed
    assert shown["key_id"] in listed
    log = await logged(exchange)
    assert secret not in log
    assert shown["secret"] not in log
    public = Ed25519PrivateKey.from_private_bytes(_secret(file)).public_key().public_bytes_raw()
    assert public.hex() in log


def _secret(file: Path) -> bytes:
    return base64.urlsafe_b64decode(json.loads(file.read_text())["secret"] + "=")


@pytest.mark.usefixtures("exchange")
async def test_a_key_is_issued_rotated_and_revoked(tmp_path: Path) -> None:
    created = await done("accounts", "create", "acme")
    file = tmp_path / "acme.json"
    scopes = ("--scope", "trade", "--scope", "read", "--address", "10.0.0.0/8")
    issued = await done(
        "keys", "issue", "acme", *scopes, "--label", "bot", "--expires", "2099-01-01", "--to",
        str(file),
    )  # fmt: skip
    key_id = load_signer(file).key_id
    rotated = await done("keys", "rotate", key_id, "--overlap", "60", "--to", f"{file}.new")
    new_id = load_signer(Path(f"{file}.new")).key_id
    twice = await refused("keys", "rotate", key_id, "--to", f"{file}.newer")
    revoked = await done("keys", "revoke", key_id)
    ended = await refused("keys", "revoke", key_id)
    listed = await done("keys", "list", "--client", "acme")
    taken = await refused("keys", "rotate", new_id, "--to", str(file))

    assert created.startswith("acme has an account since ")
    assert f"Key {key_id} of acme is issued until 2099-01-01T00:00:00.000Z, for: read trade." in (
        issued
    )
    assert f"Key {key_id} ends at " in rotated
    assert twice == "The exchange refused: key_not_good."
    assert not Path(f"{file}.newer").exists(), "a secret without a key is of no use"
    assert revoked == f"Key {key_id} of acme has ended.\n"
    assert ended == "The exchange refused: key_ended."
    assert listed.startswith("2 keys\n")
    assert "File exists. Nothing was done." in taken


@pytest.mark.usefixtures("exchange")
async def test_a_client_is_suspended_and_resumed_on_every_shard() -> None:
    suspended = await done("accounts", "suspend", "sue")
    again = await done("accounts", "suspend", "sue")
    listed = await done("accounts", "list")
    resumed = await done("accounts", "resume", "sue")

    lines = [f"Shard {shard}: sue is suspended, as of position 1." for shard in range(SHARDS)]
    assert suspended.splitlines() == lines
    assert again.splitlines() == [line.replace("position 1", "position 2") for line in lines]
    assert listed.splitlines()[0] == "1 client"
    assert "0, 1" in listed
    assert "Shard 1: sue is not suspended, as of position 3." in resumed


@pytest.mark.usefixtures("exchange")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("accounts", "create", "a/b"), "is no client id"),
        (("keys", "issue", "nobody", "--scope", "read"), "unknown_account"),
        (("keys", "revoke", "x"), "is no key id"),
        (("keys", "revoke", "0" * 32), "unknown_key"),
        (("keys", "issue", "a", "--scope", "read", "--address", "10.0.0.1/8"), "host bits set"),
        (("keys", "issue", "a", "--scope", "read", "--address", "fe80::1%eth0"), "zone"),
        (("keys", "issue", "a", "--scope", "read", "--public-key", "ab"), "is no public key"),
        (
            (
                "keys", "issue", "a", "--scope", "read", "--algorithm", "hmac-sha256",
                "--public-key", "ab" * 32,
            ),
            "has no public key",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_told(arguments: tuple[str, ...], told: str) -> None:
    assert told in await refused(*arguments)


async def test_without_a_master_key_there_is_no_key_of_hmac(
    exchange: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "load", lambda: replace(exchange, keys_master=""))

    told = await refused("keys", "bootstrap", "--algorithm", "hmac-sha256")

    assert "No master key is set" in told
