"""Lets callers in: by a signature, or by a token.

Read ``Keeper.admit``. What is wrong is told in one order: what was shown, its key, the signature,
the clock, the key's end, the address. So only who has signed by a key hears of the key.
"""

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from msgspec import Struct

from exchange.domain.values import KeyScope
from exchange.door.caller import Caller
from exchange.door.keys import Keys, KnownKey
from exchange.door.refusals import Reason, Refused
from exchange.door.tokens import Tokens
from exchange.signing import (
    Signed,
    authority_of,
    content_digest,
    read_input,
    read_signature,
    signature_base,
)

CLOCK_S: Final = 30  # how far a caller's clock may be off: more than a request takes to come
NEVER_BY_TOKEN: Final = frozenset({KeyScope.ADMIN})  # what a lost token must not allow
PASSED_ON: Final = frozenset({KeyScope.READ, KeyScope.AUDIT})  # the past is only read
BEARER: Final = "bearer "
SHOW: Final = "Sign the request (docs/protocol.md, Signed requests), or send a token."


class Shown(Struct, frozen=True):
    """What a request shows at the door, as it was sent; empty is what it does not have."""

    method: str
    scheme: str
    host: str
    path: str
    query: str
    content_digest: str = ""
    signature_input: str = ""
    signature: str = ""
    authorization: str = ""
    idempotency_key: str | None = None


class Keeper:
    """Knows the keys, and lets their owners in.

    Args:
        keys: The keys, which somebody follows.
        tokens: What makes and reads tokens.
        now_s: The clock, in Unix seconds.
    """

    def __init__(self, keys: Keys, tokens: Tokens, now_s: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._tokens = tokens
        self._now_s = now_s

    async def admit(self, shown: Shown, body: bytes, address: str) -> Caller:
        """Return who asks.

        Args:
            shown: What the request shows.
            body: Its body.
            address: Where it comes from.

        Raises:
            Refused: They are not let in, and why.
            Unavailable: It is not known which keys are good.
        """
        if shown.signature_input or shown.signature:
            return await self._signed(shown, body, address)
        if not shown.authorization:
            raise Refused(Reason.MISSING, SHOW)
        if not shown.authorization.lower().startswith(BEARER):
            raise Refused(Reason.MALFORMED, f"Authorization is no Bearer token. {SHOW}")
        return await self.admit_token(shown.authorization[len(BEARER) :].strip(), address)

    async def admit_token(self, text: str, address: str) -> Caller:
        """Return who shows a token.

        Raises:
            Refused: They are not let in, and why.
            Unavailable: It is not known which keys are good.
        """
        token = self._tokens.read(text)
        if token is None:
            return self._passed_on(text)
        if self._now_s() >= token.ends_s:
            raise Refused(Reason.EXPIRED_KEY, "The token has ended: ask for another.")
        known = await self._known(token.key_id)
        _check(known, address, self._now_s())
        scopes = known.scopes - NEVER_BY_TOKEN
        return Caller(known.key.client_id, token.key_id, scopes, ends_s=token.ends_s)

    @property
    def is_fresh(self) -> bool:
        """Whether it is known which keys are good."""
        return self._keys.is_fresh

    def is_over(self, caller: Caller) -> Reason | None:
        """Return why a caller who was let in must leave; None if they may stay."""
        if caller.key_id is None:
            return None
        if caller.ends_s is not None and self._now_s() >= caller.ends_s:
            return Reason.EXPIRED_KEY
        known = self._keys.peek(caller.key_id)
        return None if known is None else _end_of(known, self._now_s())

    def pass_for(self, caller: Caller) -> str:
        """Return what shows another of our processes for whom this one asks."""
        now_s = int(self._now_s())
        scopes = caller.scopes & PASSED_ON
        return self._tokens.make_pass(caller.client_id, caller.key_id, scopes, now_s)

    def token_for(self, caller: Caller) -> tuple[str, int]:
        """Return the token of a caller who has signed for it, and its end in Unix seconds.

        Raises:
            Refused: They have not.
        """
        if caller.key_id is None or caller.created is None:
            raise Refused(Reason.MISSING, "A token is got by a signed request, not by a token.")
        text = self._tokens.make(caller.key_id, caller.created)
        token = self._tokens.read(text)
        assert token is not None
        return text, token.ends_s

    async def _signed(self, shown: Shown, body: bytes, address: str) -> Caller:
        said, signature = read_input(shown.signature_input), read_signature(shown.signature)
        if (
            said is None
            or signature is None
            or said.is_keyed != (shown.idempotency_key is not None)
        ):
            raise Refused(
                Reason.MALFORMED,
                "Signature-Input or Signature is not of the one form that is taken here.",
            )
        known = await self._known(said.key_id)
        text = signature_base(
            Signed(
                shown.method,
                authority_of(shown.host, shown.scheme),
                shown.path,
                shown.query,
                shown.content_digest,
                shown.idempotency_key,
                said.created,
                said.nonce,
                said.key_id,
            )
        )
        # The digest is no secret: both sides of this comparison came with the request.
        is_whole = content_digest(body) == shown.content_digest
        if not (known.check(text, signature) and is_whole):
            raise Refused(Reason.BAD, "The signature is not that of this request by this key.")
        now_s = self._now_s()
        _check_clock(said.created, now_s)
        _check(known, address, now_s)
        return Caller(
            known.key.client_id,
            said.key_id,
            known.scopes,
            created=said.created,
            idempotency_key=sha256(text).hexdigest(),
        )

    def _passed_on(self, text: str) -> Caller:
        """Return for whom one of our own processes asks; they are let in already."""
        shown = self._tokens.read_pass(text, int(self._now_s()))
        if shown is None:
            raise Refused(Reason.BAD, f"This is no token of this exchange. {SHOW}")
        scopes = frozenset(shown.scopes) & PASSED_ON
        return Caller(shown.client_id, shown.key_id, scopes, is_passed_on=True)

    async def _known(self, key_id: str) -> KnownKey:
        known = await self._keys.get(key_id)
        if known is None:
            raise Refused(Reason.UNKNOWN_KEY, "There is no such key.")
        return known


def _check_clock(created: int, now_s: float) -> None:
    if abs(now_s - created) > CLOCK_S:
        raise Refused(
            Reason.CLOCK,
            f"Here it is {int(now_s)}, and the request was created at {created}: they may be"
            f" {CLOCK_S} s apart. GET /time tells the time.",
        )


def _check(known: KnownKey, address: str, now_s: float) -> None:
    end = _end_of(known, now_s)
    if end is Reason.REVOKED_KEY:
        raise Refused(end, "The key was revoked.")
    if end is not None:
        raise Refused(end, "The key has reached its end.")
    if not known.may_come_from(address):
        raise Refused(Reason.ADDRESS, f"The key is not good at {address}.")


def _end_of(known: KnownKey, now_s: float) -> Reason | None:
    key = known.key
    if key.ends_ms is not None and now_s * 1_000 >= key.ends_ms:
        return Reason.REVOKED_KEY
    if key.expires_ms is not None and now_s * 1_000 >= key.expires_ms:
        return Reason.EXPIRED_KEY
    return None
