"""A proof is small, and the script in the docs accepts it and refuses it with any bit changed."""

import hashlib
import importlib.util
import random
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import asyncpg
import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.config import PROJECT
from exchange.domain.events import TradeExecuted
from exchange.domain.values import SHARDS_MAX, UNITS_LIMIT, Price, Quantity, Shard, Side
from exchange.log.audit.blocks import keep_blocks, read_unkept
from exchange.log.audit.proof import Proof, pack, prove_event
from exchange.log.audit.tree import BLOCK_EVENTS
from exchange.log.audit.verify import verify
from exchange.log.events import encode_event_data
from exchange.tools.terminal import ToolError
from tests.conftest import Services, drop_database, new_database
from tests.log.audit.test_blocks import SHARD, make_log

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


FORMS: tuple[Callable[[Proof], bytes], ...] = (msgspec.json.encode, pack)


def published(proof: Proof) -> str:
    return f"{proof.shard}:{proof.size}:{proof.root}"


def is_refused(script: ModuleType, data: bytes, root: str) -> bool:
    try:
        script.check(data, root)
    except (ValueError, LookupError, TypeError, AttributeError, zlib.error):
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
        for form in FORMS:
            assert script.check(form(proof), published(proof)).endswith(proof.data)
        assert walk.pins[proof.size].root == proof.root
        assert proof.position <= proof.size


@pytest.mark.parametrize("form", FORMS)
async def test_a_proof_with_any_bit_flipped_is_refused(
    form: Callable[[Proof], bytes], log_url: str, script: ModuleType
) -> None:
    connection = await asyncpg.connect(log_url)
    proof = await prove_event(connection, SHARD, 300, 999)
    other = await prove_event(connection, SHARD, 301, 999)
    larger = await prove_event(connection, SHARD, 300, 1000)
    await connection.close()
    data = bytearray(form(proof))
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
    assert is_refused(script, form(replace(proof, path=other.path)), root)
    assert is_refused(script, form(replace(proof, data=other.data)), root)
    assert is_refused(script, bytes(data[:-1]), root)
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
    longest = [replace(proof, **longest_event(random.Random(seed))) for seed in range(20)]

    assert len(b64decode(proof.path)) == 24 * 32
    assert max(len(pack(one)) for one in longest) < 2_000
    assert all(pack(one).endswith(b64decode(proof.path)) for one in longest)


def longest_event(chance: random.Random) -> dict[str, Any]:
    """A trade whose names and numbers are as long as can be, of characters that nothing repeats."""
    ids = ["".join(chr(chance.randrange(0x10000, 0x110000)) for _ in range(64)) for _ in range(4)]
    units = UNITS_LIMIT - 1
    trade = TradeExecuted(
        instrument="W" * 31,
        price=Price(units),
        quantity=Quantity(units),
        taker_side=Side.SELL,
        taker_order_id=ids[0],
        taker_client_id=ids[1],
        taker_remaining=Quantity(units),
        maker_order_id=ids[2],
        maker_client_id=ids[3],
        maker_remaining=Quantity(units),
        time_ms=1_800_000_000_000,
    )
    return {
        "shard": SHARDS_MAX - 1,
        "position": 9_876_543,
        "instrument": trade.instrument,
        "command_id": chance.randbytes(16).hex(),
        "kafka_offset": 98_765_432_109,
        "data": encode_event_data(trade).decode(),
        "size": 10_000_000,
        "root": chance.randbytes(32).hex(),
    }


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


def test_the_script_says_how_it_is_used() -> None:
    told = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, check=False)

    assert told.returncode == 1
    assert b"Run `python check_proof.py PROOF SHARD:POSITION:ROOT`" in told.stderr


async def test_a_proof_that_is_printed_is_checked_by_the_script_alone(
    log_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", log_url)
    packed = tmp_path / "event.proof"
    shown = await anyio.to_thread.run_sync(run, "0:300", "--at", "0:999")
    written = await anyio.to_thread.run_sync(run, "0:300", "--at", "0:999", "--to", packed)
    printed = await anyio.to_thread.run_sync(run, "0:300", "--at", "0:999", "--json")
    for result in (shown, written, printed):
        assert result.exit_code == 0, result
    file = tmp_path / "proof.json"
    file.write_text(printed.stdout)
    pinned = shown.stdout.splitlines()[2]
    assert "exchange proof 0:300 --at 0:999 --to event.proof\n" in shown.stdout
    assert f"python docs/check_proof.py event.proof {pinned}\n" in shown.stdout
    assert f"python docs/check_proof.py {packed} {pinned}\n" in written.stdout

    async def check(file: Path, root: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", str(SCRIPT), str(file), root]
        return await anyio.run_process(command, check=False, cwd=tmp_path)

    for one in (file, packed):
        accepted, refused = await check(one, pinned), await check(one, pinned.replace("999", "998"))
        assert (accepted.returncode, refused.returncode) == (0, 1), (accepted, refused)
        assert accepted.stdout.startswith(b"In the log: event 0:300 ")
        assert refused.stderr.strip() == b"NOT PROVED: it does not lead to the published root"
    nested = b'{"path":' + 10_000 * b"["
    for damaged in (b"", b"x", nested, zlib.compress(nested), packed.read_bytes()[:40]):
        file.write_bytes(damaged)
        refused = await check(file, pinned)
        assert (refused.returncode, refused.stderr[:12]) == (1, b"NOT PROVED: "), refused
    for arguments, told in (
        (("0:300", "--at", "0:299"), "is not among those up to 0:299"),
        (("0:0",), "Event 0:0 is not among"),
        (("7:1",), "There is no shard 7"),
        (("0:99999999",), "there is no event 99999999 yet"),
        (("0:1", "--to", tmp_path / "none" / "event.proof"), "The proof cannot be written: "),
    ):
        result = await anyio.to_thread.run_sync(run, *arguments)
        assert isinstance(result.exception, ToolError)
        assert told in str(result.exception)
