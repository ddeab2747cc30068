"""A proof is small, and the script in the docs accepts it and refuses it with any bit changed."""

import hashlib
import importlib.util
import json
import random
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import anyio
import asyncpg
import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.config import PROJECT
from exchange.domain.values import Shard
from exchange.log.audit.blocks import keep_blocks, read_unkept
from exchange.log.audit.proof import Proof, prove_event
from exchange.log.audit.tree import BLOCK_EVENTS
from exchange.log.audit.verify import verify
from exchange.tools.terminal import ToolError
from tests.conftest import Services, drop_database, new_database
from tests.log.audit.test_blocks import SHARD, make_log
from tests.projections.sample import read_sample

pytestmark = pytest.mark.anyio

SCRIPT = PROJECT / "docs" / "check_proof.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_proof", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def log_url(services: Services, template_database: str) -> Iterator[str]:
    """A log of which most blocks are kept, and some are not yet."""
    database_url = new_database(services, template_database)
    services.portal.call(make_log, database_url)
    services.portal.call(_keep_some, database_url)
    yield database_url
    drop_database(services, database_url)


async def _keep_some(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    (unkept,) = await read_unkept(connection)
    await keep_blocks(connection, unkept)
    await connection.close()


def encoded(proof: Proof) -> str:
    return msgspec.json.encode(proof).decode()


def published(proof: Proof) -> str:
    return f"{proof.shard}:{proof.size}:{proof.root}"


def is_refused(script: ModuleType, data: bytes, root: str) -> bool:
    try:
        script.check(data.decode(), root)
    except (ValueError, KeyError, TypeError, AttributeError):
        return True
    return False


async def test_any_event_is_proved_at_any_size_of_the_tree(
    log_url: str, script: ModuleType
) -> None:
    connection = await asyncpg.connect(log_url)
    head = await connection.fetchval("select position from head")
    chance = random.Random(11)
    sizes = [1, 2, 255, 256, 257, 512, 600, head - head % BLOCK_EVENTS, head]
    places = [(position, size) for size in sizes for position in (1, size)]
    places += [(chance.randint(1, 600), 600), (chance.randint(1, head), head)]
    proofs = [await prove_event(connection, SHARD, *place) for place in places]
    walk = await verify(connection, Shard(0), expected=dict.fromkeys(sizes, ()))
    await connection.close()

    for proof in proofs:
        assert script.check(encoded(proof), published(proof)).endswith(proof.data)
        assert walk.pins[proof.size].root == proof.root
        assert proof.position <= proof.size


async def test_a_proof_with_any_bit_flipped_is_refused(log_url: str, script: ModuleType) -> None:
    connection = await asyncpg.connect(log_url)
    proof = await prove_event(connection, SHARD, 300, 999)
    other = await prove_event(connection, SHARD, 301, 999)
    larger = await prove_event(connection, SHARD, 300, 1000)
    await connection.close()
    data = bytearray(encoded(proof).encode())
    root = published(proof)

    accepted = []
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        if not is_refused(script, bytes(data), root):
            accepted.append(bit)
        data[bit // 8] ^= 1 << bit % 8
    flipped = bytearray(root.encode())
    for bit in range(8 * len(flipped)):
        flipped[bit // 8] ^= 1 << bit % 8
        assert is_refused(script, bytes(data), flipped.decode("latin-1"))
        flipped[bit // 8] ^= 1 << bit % 8

    assert accepted == []
    assert not is_refused(script, bytes(data), root)
    mixed = json.loads(data) | {"path": other.path}
    assert is_refused(script, json.dumps(mixed).encode(), root)
    assert is_refused(script, bytes(data), published(larger))


async def test_at_ten_million_events_a_proof_needs_the_kept_blocks_alone_and_less_than_2_kb(
    log_url: str,
) -> None:
    """The log has few of these events; of the others there are blocks, whose roots are made up."""
    connection = await asyncpg.connect(log_url)
    whole = 10_000_000 // BLOCK_EVENTS
    begun = connection.transaction()
    await begun.start()
    await connection.execute(
        "insert into tree_blocks select 0, block, sha256(block::text::bytea)"
        " from generate_series((select max(block) + 1 from tree_blocks), $1) as block",
        whole - 1,
    )
    proof = await prove_event(connection, SHARD, 700, whole * BLOCK_EVENTS)
    await begun.rollback()
    await connection.close()
    longest = max((one for one in read_sample()), key=lambda one: len(one.data))
    at_the_end = replace(
        proof, data=longest.data, position=9_999_999, size=10_000_000, kafka_offset=9_999_999
    )

    assert len(b64decode(proof.path)) == 24 * 32
    assert len(encoded(at_the_end)) < 2_000


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["proof", *map(str, arguments)])


def test_a_name_of_any_script_is_proved_whatever_the_terminal_can_show(tmp_path: Path) -> None:
    data = '{"type":"OrderCancelled","client_id":"zoë 株"}'
    columns = [0, 1, "BTC-USD", "OrderCancelled", 1, "0" * 32, 5, data]
    leaf = hashlib.sha256(b"\0" + "\x1f".join(map(str, columns)).encode()).hexdigest()
    names = ("shard", "position", "instrument", "type", "version", "command_id", "kafka_offset")
    proof = dict(zip((*names, "data"), columns, strict=True)) | {
        "size": 1,
        "root": leaf,
        "path": "",
    }
    (tmp_path / "proof.json").write_bytes(msgspec.json.encode(proof))
    command = [sys.executable, str(SCRIPT), "proof.json", f"0:1:{leaf}"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    told = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, check=False)

    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.startswith(b"In the log: event 0:1 OrderCancelled ")


async def test_a_proof_that_is_printed_is_checked_by_the_script_alone(
    log_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", log_url)
    shown = await anyio.to_thread.run_sync(run, "0:300", "--at", "0:999")
    printed = await anyio.to_thread.run_sync(run, "0:300", "--at", "0:999", "--json")
    assert shown.exit_code == printed.exit_code == 0, (shown, printed)
    file = tmp_path / "proof.json"
    file.write_text(printed.stdout)
    pinned = shown.stdout.splitlines()[2]
    assert "python docs/check_proof.py proof.json " + pinned in shown.stdout

    async def check(root: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", str(SCRIPT), str(file), root]
        return await anyio.run_process(command, check=False, cwd=tmp_path)

    accepted, refused = await check(pinned), await check(pinned.replace("999", "998"))

    assert (accepted.returncode, refused.returncode) == (0, 1), (accepted, refused)
    assert accepted.stdout.startswith(b"In the log: event 0:300 ")
    assert refused.stderr.strip() == b"NOT PROVED: it does not lead to the published root"
    for arguments, told in (
        (("0:300", "--at", "0:299"), "is not among those up to 0:299"),
        (("0:0",), "Event 0:0 is not among"),
        (("7:1",), "There is no shard 7"),
        (("0:99999999",), "there is no event 99999999 yet"),
    ):
        result = await anyio.to_thread.run_sync(run, *arguments)
        assert isinstance(result.exception, ToolError)
        assert told in str(result.exception)
