"""What does it cost a gateway that an order is signed?

Workload: the head and the body of an order, as curl sends them, go through the entrance of a
gateway that asks for keys, up to the caller: what is shown is read, its key found, the text that is
signed is made anew, digest and signature are checked, and so are clock, end, address and scope. The
client and the idempotency key of the order follow. Beside it, in turns, the bare check of the same
signature over the same text, by the same library. Once with Ed25519, once with HMAC.

Processor time counts, so other work on the machine hardly shows.

Not included: the client's signing, the look-up of a key that is not known yet (once), the claim
that the matcher takes for the order's key, and the budget of the key, which is asked for together
with the client's.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.types import Scope

from bench.runner import Findings, Goal, ask, parser_of, spread, table_of
from exchange.domain.values import KeyAlgorithm, KeyScope
from exchange.door.keeper import Keeper
from exchange.door.keys import Keys
from exchange.door.secrets import MasterKeys
from exchange.door.tokens import Tokens
from exchange.gateway.http.callers import of_client
from exchange.gateway.http.declaration import Access
from exchange.gateway.orders.entry import ORDER_BODY
from exchange.gateway.server.entrance import BODY, Entrance
from exchange.log.identity import command_id_for
from exchange.signing import (
    Ed25519Signer,
    HmacSigner,
    Signed,
    Signer,
    content_digest,
    read_input,
    read_signature,
    signature_base,
    signed_headers,
)
from projections.accounts import Key

KEY_ID: Final = "0123456789abcdef0123456789abcdef"
SECRET: Final = bytes(range(32))
URL: Final = "http://localhost:3000/orders"
ORDER: Final = (
    b'{"instrument":"BTC-USD","side":"buy","type":"limit","price":70150.5,"quantity":0.25}'
)
MASTERS: Final = MasterKeys({1: SECRET})
OVER_US: Final = 25.0


class Followed(Keys):
    """Keys that are followed, without a database."""

    @property
    def is_fresh(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Measured:
    """Microseconds of processor time for an order, by algorithm and round."""

    orders: int
    bare: dict[str, list[float]] = field(default_factory=dict)
    whole: dict[str, list[float]] = field(default_factory=dict)
    unsigned: dict[str, list[float]] = field(default_factory=dict)


async def measure(orders: int, rounds: int) -> Measured:
    """Measure the bare check, the whole way and that of an open door in turns."""
    measured = Measured(orders)
    gc.disable()
    for number in range(rounds + 1):
        for algorithm in KeyAlgorithm:
            scope = signed(signer_of(algorithm))
            keys = Followed(create_async_engine("postgresql+asyncpg://nobody@localhost"), MASTERS)
            known = keys.learn(key_of(algorithm))
            entrance = Entrance(Keeper(keys, Tokens(MASTERS)))
            text, signature = base_of(scope)
            assert known.check(text, signature)
            costs = (
                (measured.bare, spent_us(orders, lambda: known.check(text, signature))),  # noqa: B023
                (measured.whole, await way_us(orders, entrance, scope)),
                (measured.unsigned, await way_us(orders, Entrance(), scope, "client-A")),
            )
            if number:  # the first warms up
                for some, cost_us in costs:
                    some.setdefault(algorithm, []).append(cost_us)
        gc.collect()
    return measured


def spent_us(orders: int, work: Callable[[], object]) -> float:
    """Return what some work costs."""
    begun_s = time.process_time()
    for _ in range(orders):
        work()
    return (time.process_time() - begun_s) / orders * 1e6


async def way_us(orders: int, entrance: Entrance, scope: Scope, named: str = "") -> float:
    """Return what it costs to find out who sends an order, and which command it is."""
    body = replace(ORDER_BODY.decode(ORDER), client_id=named)
    begun_s = time.process_time()
    for _ in range(orders):
        caller = await entrance.caller(scope, Access.TRADE, Access.PUBLIC)
        whole = of_client(caller, body)
        command_id_for(whole.client_id, caller.idempotency_key)
    return (time.process_time() - begun_s) / orders * 1e6


def signer_of(algorithm: KeyAlgorithm) -> Signer:
    """Return the signer of the one key."""
    if algorithm is KeyAlgorithm.ED25519:
        return Ed25519Signer(KEY_ID, SECRET)
    return HmacSigner(KEY_ID, MASTERS.hmac_secret(1, KEY_ID))


def key_of(algorithm: KeyAlgorithm) -> Key:
    """Return the one key as the read model has it."""
    public = Ed25519PrivateKey.from_private_bytes(SECRET).public_key().public_bytes_raw().hex()
    is_ed25519 = algorithm is KeyAlgorithm.ED25519
    return Key(
        key_id=KEY_ID,
        client_id="client-A",
        algorithm=algorithm,
        public_key=public if is_ed25519 else None,
        master=None if is_ed25519 else 1,
        scopes=tuple(KeyScope),
        addresses=("127.0.0.0/8",),
        expires_ms=None,
        label="",
        issued_ms=0,
        ends_ms=None,
        rotated_from=None,
        position=1,
    )


def signed(signer: Signer) -> Scope:
    """Return a signed order as the server hands it on."""
    plain = {"Host": "localhost:3000", "User-Agent": "curl/8.5.0", "Accept": "*/*"}
    sent = {**plain, "Content-Type": "application/json", "Content-Length": str(len(ORDER))}
    sent |= signed_headers(signer, "POST", URL, ORDER)
    return {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/orders",
        "raw_path": b"/orders",
        "query_string": b"",
        "client": ("127.0.0.1", 50_000),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        BODY: ORDER,
    }


def base_of(scope: Scope) -> tuple[bytes, bytes]:
    """Return the text that is signed, and its signature."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    said = read_input(headers["signature-input"])
    signature = read_signature(headers["signature"])
    assert said is not None
    assert signature is not None
    digest = content_digest(ORDER)
    parts = Signed(
        *("POST", "localhost:3000", "/orders", "?", digest, None),
        *(said.created, said.nonce, said.key_id),
    )
    return signature_base(parts), signature


def findings(measured: Measured) -> Findings:
    """Return the medians over the rounds."""
    table = table_of("key", "bare check, µs", "signed order, µs", "over it, µs", "open door, µs")
    goals = []
    for algorithm, bare in measured.bare.items():
        whole, unsigned = measured.whole[algorithm], measured.unsigned[algorithm]
        over = [one - other for one, other in zip(whole, bare, strict=True)]
        table.add_row(
            algorithm, spread(bare, 1), spread(whole, 1), spread(over, 1), spread(unsigned, 1)
        )
        goals.append(Goal(f"µs over the bare check, {algorithm}", median(over), OVER_US, True))
    return Findings(f"{measured.orders:,} orders in each round", [table], goals)


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--orders", type=int, default=5_000)

    def measured(options: argparse.Namespace) -> Measured:
        return asyncio.run(measure(options.orders, options.rounds))

    ask(parser, measured, findings)


if __name__ == "__main__":
    main()
