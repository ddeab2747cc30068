"""A signer that shares nothing with ours: the shell script of the documentation."""

import asyncio
import base64
import json
from typing import Any

import pytest

from exchange.config import PROJECT
from exchange.domain.values import KeyAlgorithm
from tests.gateway.conftest import order
from tests.gateway.door.conftest import ALICE, MASTERS, Kept, decided, issue, until_let_in

pytestmark = pytest.mark.anyio

SCRIPT = PROJECT / "docs" / "signed_request.sh"


async def sent(kept: Kept, algorithm: str, secret: bytes, key_id: str, *words: str) -> Any:
    method, path, *body = words
    process = await asyncio.create_subprocess_exec(
        *("sh", str(SCRIPT), method, str(kept.http.base_url.join(path)), *body),
        env={
            "PATH": "/usr/bin:/bin",
            "KEY_ID": key_id,
            "ALGORITHM": algorithm,
            "SECRET": base64.urlsafe_b64encode(secret).decode().rstrip("="),
        },
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    return json.loads(told)


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
async def test_openssl_and_curl_place_an_order(
    kept: Kept, traded: str, algorithm: KeyAlgorithm
) -> None:
    command, signer = issue(ALICE, algorithm=algorithm)
    await decided(kept.venue, command)
    await until_let_in(kept, signer)
    key_id = command.key_id
    secret = bytes.fromhex(key_id) * 2
    if algorithm is KeyAlgorithm.HMAC_SHA256:
        secret = MASTERS.hmac_secret(1, key_id)
    body = json.dumps(order(traded, client_id=...))

    placed = await sent(kept, algorithm, secret, key_id, "POST", "/orders", body)
    listed = await sent(kept, algorithm, secret, key_id, "GET", f"/orders?instrument={traded}")

    assert placed["order"]["client_id"] == ALICE, placed
    assert placed["order"]["order_id"] in {one["order_id"] for one in listed["orders"]}
