"""The hash chain of a long stretch of log, computed in a process of its own.

A replay and its chain each keep a core busy, and one Python process has one. The job comes
on standard input, since it has the database's address in it, and the chain goes to standard
output. A worker whose parent has died ends with its stretch, after some seconds.
"""

import asyncio
import sys
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange.event_log import chain_up_to

STATEMENT_TIMEOUT_S: Final = 30  # a part takes milliseconds; a database that is silent is away


class ChainJob(Struct, frozen=True):
    """From where to where the chain is wanted, and what it is at ``after``."""

    database_url: str
    shard: int
    after: int
    up_to: int
    chain: bytes


class ChainFailed(Exception):
    """The worker ended without an answer; its own words are on standard error."""


async def chain_in_process(job: ChainJob) -> bytes:
    """Return the hash chain at ``job.up_to``."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "exchange.chain_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        answer, _ = await worker.communicate(msgspec.json.encode(job))
    except asyncio.CancelledError:
        worker.kill()
        raise
    if worker.returncode != 0:
        raise ChainFailed(f"the chain up to {job.up_to}: exit code {worker.returncode}")
    return bytes.fromhex(answer.decode())


async def _work(job: ChainJob) -> bytes:
    connection = await asyncpg.connect(
        job.database_url,
        timeout=STATEMENT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        server_settings={"statement_timeout": f"{STATEMENT_TIMEOUT_S}s", "jit": "off"},
    )
    try:
        return await chain_up_to(
            connection, job.shard, after=job.after, up_to=job.up_to, chain=job.chain
        )
    finally:
        await connection.close()


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=ChainJob)
    sys.stdout.write(asyncio.run(_work(asked)).hex())
