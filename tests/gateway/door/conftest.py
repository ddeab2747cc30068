"""A gateway whose door asks for keys, and keys of several kinds: each is issued by commands."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exchange.domain.commands import (
    ClientCommand,
    CreateAccount,
    IssueKey,
    RevokeKey,
    SuspendClient,
)
from exchange.domain.values import KeyAlgorithm, KeyScope
from exchange.door.modes import Door
from exchange.door.secrets import MasterKeys
from exchange.gateway.server.hosts import Hosts
from exchange.log.identity import uuid7
from exchange.signing import Ed25519Signer, HmacSigner, Signer, signed_headers
from exchange.transport.commands import Delivery
from exchange.transport.messages import encode_command
from projections.projector.projector import run_projector
from projections.projector.snapshotter import SnapshotPace
from tests.conftest import DOOR_REDIS_DATABASE, Services
from tests.gateway.conftest import (
    PATIENCE_S,
    Venue,
    gateway_at,
    matching,
    new_venue,
    register,
    running,
)

ALL: Final = tuple(KeyScope)
MASTERS: Final = MasterKeys({1: bytes(32), 2: bytes(range(32))})
KEPT: Final = Hosts(Door.KEYS, ("exchange.example",))
ALICE, BOB, SAM = "door-alice", "door-bob", "door-sam"


@pytest.fixture(scope="package", autouse=True)
def patient_door() -> Any:
    """Let the keys be followed slowly: the machine may be busy."""
    with pytest.MonkeyPatch.context() as patches:
        for name in ("BEHIND_S", "LOOK_S"):
            patches.setattr(f"exchange.door.keys.{name}", PATIENCE_S)
        patches.setattr("exchange.door.keys.FOLLOW_S", 0.05)
        yield


async def decided(venue: Venue, *commands: ClientCommand) -> None:
    """Have commands decided, and shown by the projection."""
    producer = venue.producer()
    await producer.start()
    try:
        for command in commands:
            delivered: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
            producer.produce(
                0,
                key="door",
                value=encode_command(command),
                command_id=uuid7(),
                reply_to=b"",
                on_delivery=delivered.set_result,
                version=4,
            )
            assert not (await delivered).error
    finally:
        await producer.stop()


_numbers = iter(range(1, 2**31))


def issue(
    client_id: str,
    scopes: tuple[KeyScope, ...] = ALL,
    algorithm: KeyAlgorithm = KeyAlgorithm.ED25519,
    addresses: tuple[str, ...] = (),
    expires_ms: int | None = None,
) -> tuple[IssueKey, Signer]:
    """Return the command that issues a new key, and its signer."""
    key_id = f"{time.time_ns():016x}{next(_numbers):016x}"
    secret = bytes.fromhex(key_id) * 2
    is_ed25519 = algorithm is KeyAlgorithm.ED25519
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()
    command = IssueKey(
        key_id=key_id,
        client_id=client_id,
        algorithm=algorithm,
        public_key=public if is_ed25519 else None,
        master=None if is_ed25519 else 1,
        scopes=scopes,
        addresses=addresses,
        expires_ms=expires_ms,
        label="",
    )
    hmac = HmacSigner(key_id, MASTERS.hmac_secret(1, key_id))
    return command, Ed25519Signer(key_id, secret) if is_ed25519 else hmac


@dataclass(frozen=True)
class Kept:
    """A gateway that asks for keys, and signers of keys."""

    http: httpx.AsyncClient
    venue: Venue
    signers: Mapping[str, Signer]

    def request(
        self,
        signer: Signer,
        method: str,
        path: str,
        body: bytes = b"",
        key: str | None = None,
        *,
        created: int | None = None,
        nonce: str | None = None,
    ) -> httpx.Request:
        """Return a signed request."""
        request = self.http.build_request(method, path, content=body or None)
        url = str(request.url)
        request.headers.update(signed_headers(signer, method, url, body, key, created, nonce))
        if body:
            request.headers["Content-Type"] = "application/json"
        return request

    async def send(
        self, signer: str | Signer, method: str, path: str, **how: Any
    ) -> httpx.Response:
        """Send a signed request."""
        by = self.signers[signer] if isinstance(signer, str) else signer
        return await self.http.send(self.request(by, method, path, **how))


@pytest.fixture(scope="package")
async def venue(services: Services, template_database: str) -> AsyncIterator[Venue]:
    """A venue of this folder's own: admins close its cycles."""
    async with new_venue(services, template_database, DOOR_REDIS_DATABASE) as venue:
        pace = SnapshotPace(events=1_000_000, seconds=3_600)
        projector = run_projector(venue.engine, venue.redis, pace_ms=5, snapshots=pace)
        async with matching(venue), running(projector):
            yield venue


@pytest.fixture(scope="package")
async def http(venue: Venue) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway at the venue whose door is open."""
    async with gateway_at(venue) as client:
        assert (await register(client, "BTC-USD")).status_code == 201
        yield client


@pytest.fixture(scope="package")
async def kept(venue: Venue) -> AsyncIterator[Kept]:
    long_ago_ms = 1_700_000_000_000
    made = {
        "alice": issue(ALICE),
        "hmac": issue(ALICE, algorithm=KeyAlgorithm.HMAC_SHA256),
        "bob": issue(BOB),
        "sam": issue(SAM),
        "expired": issue(ALICE, expires_ms=long_ago_ms),
        "revoked": issue(ALICE),
        "foreign": issue(ALICE, addresses=("192.0.2.0/24", "2001:db8::/32")),
        "near": issue(ALICE, addresses=("127.0.0.0/8",)),
        "plain": issue(ALICE, (KeyScope.READ, KeyScope.TRADE, KeyScope.CANCEL)),
        **{f"only {scope}": issue(ALICE, (scope,)) for scope in KeyScope},
        **{
            f"no {scope}": issue(ALICE, tuple(s for s in KeyScope if s is not scope))
            for scope in KeyScope
        },
    }
    commands: list[ClientCommand] = [
        *(CreateAccount(client) for client in (ALICE, BOB, SAM)),
        *(command for command, _ in made.values()),
        RevokeKey(made["revoked"][0].key_id),
        SuspendClient(SAM),
    ]
    await decided(venue, *commands)
    async with gateway_at(venue, hosts=KEPT, masters=MASTERS) as http:
        kept = Kept(http, venue, {name: signer for name, (_, signer) in made.items()})
        await until_let_in(kept, "sam")
        yield kept


async def until_let_in(kept: Kept, signer: str | Signer) -> None:
    """Wait until the key is known."""
    async with asyncio.timeout(PATIENCE_S):
        while (await kept.send(signer, "GET", "/healthz")).status_code in (401, 503):
            await asyncio.sleep(0.02)


@pytest.fixture(scope="package")
async def traded(http: httpx.AsyncClient) -> str:
    """An instrument that is traded through the kept door."""
    name = "DOOR-USD"
    response = await register(http, name)
    assert response.status_code == 201, response.text
    return name
