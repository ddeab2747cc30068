"""Tokens: what a page or a quick script shows instead of a signature, for a quarter of an hour.

A client's token names its key and the time at which it was asked for, under an HMAC of a master
key. Nothing of it is stored. It is made of the signed request alone, so a replay of this gives the
same token, with the same end. Whether its key is still good is asked each time.

A pass is what a gateway shows the analysts' process: whose question it passes on.
"""

import base64
import binascii
import hmac
import struct
from typing import Final

import msgspec
from msgspec import Struct

from exchange.domain.values import KeyScope
from exchange.door.secrets import MasterKeyError, MasterKeys

TOKEN_S: Final = 900  # a page asks for another by its key; a lost one ends soon
PASS_S: Final = 30  # an answer takes 12 s at most; the clocks of two machines may differ
TOKEN_CHARS_MAX: Final = 1_024

_TOKEN: Final = struct.Struct(">BI16sQ")
_CLIENT: Final = 1
_MAC_BYTES: Final = 32


class Token(Struct, frozen=True):
    """What a client's token says."""

    key_id: str
    created: int

    @property
    def ends_s(self) -> int:
        return self.created + TOKEN_S


class Pass(Struct, frozen=True, array_like=True):
    """Whose question a gateway passes on, and what they may; without a client it is anybody's."""

    client_id: str | None
    key_id: str | None
    scopes: tuple[KeyScope, ...]
    created: int


_PASS: Final = msgspec.json.Decoder(Pass)


class Tokens:
    """Makes and reads tokens and passes by the master keys of this process."""

    def __init__(self, masters: MasterKeys) -> None:
        self._masters = masters
        self._secrets: dict[tuple[str, int], bytes] = {}  # two for each master key

    def make(self, key_id: str, created: int) -> str:
        """Return the token of a key that is asked for at ``created``, in Unix seconds."""
        master = self._masters.newest
        said = _TOKEN.pack(_CLIENT, master, bytes.fromhex(key_id), created)
        return _text(said + self._mac("token", master, said))

    def read(self, text: str) -> Token | None:
        """Return what a token says; None if it is none, or not of our master keys."""
        raw = _bytes_of(text)
        if len(raw) != _TOKEN.size + _MAC_BYTES:
            return None
        said = raw[: _TOKEN.size]
        kind, master, key_id, created = _TOKEN.unpack(said)
        if kind != _CLIENT or not self._is_ours("token", master, said, raw[_TOKEN.size :]):
            return None
        return Token(key_id.hex(), created)

    def make_pass(
        self, client_id: str | None, key_id: str | None, scopes: frozenset[KeyScope], now_s: int
    ) -> str:
        """Return a gateway's pass."""
        master = self._masters.newest
        whole = Pass(client_id, key_id, tuple(sorted(scopes)), now_s)
        said = master.to_bytes(4, "big") + msgspec.json.encode(whole)
        return _text(said + self._mac("pass", master, said))

    def read_pass(self, text: str, now_s: int) -> Pass | None:
        """Return what a pass says; None if it is none, or too old."""
        raw = _bytes_of(text)
        said, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not self._is_ours("pass", int.from_bytes(said[:4], "big"), said, mac):
            return None
        whole = _PASS.decode(said[4:])
        return whole if abs(now_s - whole.created) <= PASS_S else None

    def _is_ours(self, purpose: str, master: int, said: bytes, mac: bytes) -> bool:
        try:
            return hmac.compare_digest(self._mac(purpose, master, said), mac)
        except MasterKeyError:
            return False

    def _mac(self, purpose: str, master: int, said: bytes) -> bytes:
        secret = self._secrets.get((purpose, master))
        if secret is None:
            of_tokens, of_passes = self._masters.token_secret, self._masters.analyst_secret
            secret = (of_tokens if purpose == "token" else of_passes)(master)
            self._secrets[purpose, master] = secret
        return hmac.digest(secret, said, "sha256")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes_of(text: str) -> bytes:
    """Return the bytes of a token's text, none if it is no such text."""
    if len(text) > TOKEN_CHARS_MAX or not text.isascii():
        return b""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except binascii.Error:
        return b""
