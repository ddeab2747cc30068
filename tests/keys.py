"""Keys of the clients of a test: an admin's first, and one for each client that has one.

``KeyRing`` signs whatever httpx sends: orders and cancels by the key of the client that the body
names, all else by the admin's, who may read what belongs to anybody.
"""

import asyncio
import json
import time
from collections.abc import Generator
from typing import Any, Final
from uuid import uuid4

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exchange.signing import Ed25519Signer, Signer, signed_headers

MASTER: Final = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="  # no secret: it is of tests
SCOPES: Final = ("read", "trade", "cancel")
PATIENCE_S: Final = 90.0  # what an admin asks is asked until it is done, whatever falls meanwhile
PAUSE_S: Final = 0.2


class KeyRing(httpx.Auth):
    """Signs requests; ``admin`` is the key of an admin who may also audit."""

    requires_request_body = True

    def __init__(self, admin: Signer) -> None:
        self._admin = admin
        self._signers: dict[str, Signer] = {}

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        body = request.content
        is_own = request.method == "POST" and request.url.path.startswith("/orders")
        signer = self._signers[json.loads(body)["client_id"]] if is_own else self._admin
        request.headers.update(signed_headers(signer, request.method, str(request.url), body))
        yield request

    async def give(self, http: httpx.AsyncClient, client_id: str) -> None:
        """Issue a new key to a client, and sign by it from now on; revoke the one before it."""
        former = self._signers.get(client_id)
        if former is None:
            await asked(http, "/accounts", {"client_id": client_id})
        private = Ed25519PrivateKey.generate()
        body = {
            "client_id": client_id,
            "algorithm": "ed25519",
            "public_key": private.public_key().public_bytes_raw().hex(),
            "scopes": SCOPES,
            "idempotency_key": uuid4().hex,
        }
        key = (await asked(http, "/keys", body))["key"]
        self._signers[client_id] = Ed25519Signer(key["key_id"], private.private_bytes_raw())
        if former is not None:
            await asked(http, f"/keys/{former.key_id}/revoke")


async def asked(http: httpx.AsyncClient, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer to what an admin asks: again and again, until it is done."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = await http.post(path, json=body)
        except httpx.TransportError as error:
            told = repr(error)
        else:
            told = answer.text
            if answer.status_code in (200, 201, 409):  # 409: an earlier attempt has done it
                return answer.json()
        assert time.monotonic() < deadline_s, f"{path} is not done: {told}"
        await asyncio.sleep(PAUSE_S)
