"""Signed requests: one profile of HTTP message signatures (RFC 9421), for both of its sides.

Read ``signature_base``: it is the text that is signed. A client sends what ``signed_headers``
returns, with a signer of its key file (``load_signer``, ``key_file_text``). The door reads it with
``read_input`` and ``read_signature``.

The profile is one list of components in one order, so nobody can leave one out: method, authority,
path, query, digest of the body (also of an empty one), and ``Idempotency-Key`` exactly if the
request has that header. Its parameters are ``created`` (Unix seconds), ``nonce`` and ``keyid``.
"""

import base64
import binascii
import hmac
import re
import secrets
import time
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

ED25519: Final = "ed25519"
HMAC_SHA256: Final = "hmac-sha256"
KEY_FILE_BYTES_MAX: Final = 4_096  # one has some 150 bytes
SECRET_BYTES: Final = 32  # of both algorithms
NONCE_BYTES: Final = 16
DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_COVERED: Final = '"@method" "@authority" "@path" "@query" "content-digest"'
_KEYED: Final = ' "idempotency-key"'
_INPUT: Final = re.compile(
    rf"sig1=\({_COVERED}({_KEYED})?\)"
    r';created=([1-9][0-9]{0,10});nonce="([A-Za-z0-9_-]{16,64})";keyid="([0-9a-f]{32})"'
)
_SIGNATURE: Final = re.compile(r"sig1=:([A-Za-z0-9+/]{1,128}={0,2}):")


class KeyFileError(Exception):
    """A key file cannot be used; the message says why."""


class Input(Struct, frozen=True):
    """What ``Signature-Input`` says; ``is_keyed``: the idempotency key is signed too."""

    is_keyed: bool
    created: int
    nonce: str
    key_id: str


class Signed(Struct, frozen=True):
    """The parts of a request that are signed, as they are sent."""

    method: str
    authority: str
    path: str
    query: str
    content_digest: str
    idempotency_key: str | None
    created: int
    nonce: str
    key_id: str


class Signer(Protocol):
    """A secret, and the id of its key."""

    @property
    def key_id(self) -> str: ...

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a text."""
        ...


class Ed25519Signer:
    """Signs by a private key of Ed25519: ``secret`` has its 32 bytes (RFC 8032)."""

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.key_id = key_id
        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    def sign(self, text: bytes) -> bytes:
        return self._key.sign(text)


class HmacSigner:
    """Signs by a secret that the door can make too."""

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.key_id = key_id
        self._secret = secret

    def sign(self, text: bytes) -> bytes:
        return hmac.digest(self._secret, text, "sha256")


class KeyFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A key with its secret in base64url, as JSON in a file."""

    key_id: str
    algorithm: str
    secret: str


_KEY_FILE: Final = msgspec.json.Decoder(KeyFile)


def content_digest(body: bytes) -> str:
    """Return the value of ``Content-Digest`` (RFC 9530)."""
    text = binascii.b2a_base64(sha256(body).digest(), newline=False)
    return f"sha-256=:{text.decode()}:"


def signature_base(parts: Signed) -> bytes:
    """Return the text that is signed (RFC 9421, 2.5)."""
    key = parts.idempotency_key
    keyed = "" if key is None else f'"idempotency-key": {key}\n'
    return (
        f'"@method": {parts.method}\n"@authority": {parts.authority}\n"@path": {parts.path}\n'
        f'"@query": {parts.query}\n"content-digest": {parts.content_digest}\n{keyed}'
        f'"@signature-params": {_parameters(parts)}'
    ).encode("latin-1")


def signed_headers(
    signer: Signer,
    method: str,
    url: str,
    body: bytes = b"",
    idempotency_key: str | None = None,
    created: int | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """Return the headers that sign a request; with a key also ``Idempotency-Key``.

    Args:
        signer: Whose request it is.
        method: As it is sent, in capitals.
        url: The whole URL as it is sent: with its escapes, and without a fragment.
        body: The bytes of the body.
        idempotency_key: The value of that header, if there is one.
        created: The time in Unix seconds, by default now.
        nonce: 16 to 64 of ``A-Za-z0-9_-``, by default a new one.
    """
    split = urlsplit(url)
    parts = Signed(
        method=method,
        authority=authority_of(split.netloc.rpartition("@")[2], split.scheme),
        path=split.path or "/",
        query=f"?{split.query}",
        content_digest=content_digest(body),
        idempotency_key=idempotency_key,
        created=int(time.time()) if created is None else created,
        nonce=nonce or secrets.token_urlsafe(NONCE_BYTES),
        key_id=signer.key_id,
    )
    signature = base64.b64encode(signer.sign(signature_base(parts))).decode()
    headers = {
        "Content-Digest": parts.content_digest,
        "Signature-Input": f"sig1={_parameters(parts)}",
        "Signature": f"sig1=:{signature}:",
    }
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    return headers


def authority_of(host: str, scheme: str) -> str:
    """Return the authority of a host with or without a port: lower case, no default port."""
    return host.lower().removesuffix(DEFAULT_PORTS.get(scheme, ""))


def read_input(text: str) -> Input | None:
    """Return what a ``Signature-Input`` of the profile says; None if it is of no other."""
    found = _INPUT.fullmatch(text)
    if found is None:
        return None
    keyed, created, nonce, key_id = found.groups()
    return Input(keyed is not None, int(created), nonce, key_id)


def read_signature(text: str) -> bytes | None:
    """Return the bytes of a ``Signature``; None if it is none of the profile."""
    found = _SIGNATURE.fullmatch(text)
    if found is None:
        return None
    try:
        return binascii.a2b_base64(found[1], strict_mode=True)
    except binascii.Error:
        return None


def key_file_text(key_id: str, algorithm: str, secret: bytes) -> str:
    """Return the text of a key file."""
    text = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return msgspec.json.format(msgspec.json.encode(KeyFile(key_id, algorithm, text))).decode()


def load_signer(path: Path) -> Ed25519Signer | HmacSigner:
    """Return the signer of a key file.

    Raises:
        KeyFileError: It cannot be read, or is no key file.
    """
    try:
        with path.open("rb") as file:
            found = _KEY_FILE.decode(file.read(KEY_FILE_BYTES_MAX))
        secret = base64.urlsafe_b64decode(found.secret + "=" * (-len(found.secret) % 4))
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}.") from error
    except (msgspec.MsgspecError, ValueError) as error:
        # Neither the text nor the error is told: both may have the secret.
        form = '{"key_id": "…", "algorithm": "…", "secret": "base64url"}'
        raise KeyFileError(f"{path}: is no key file, which has the form {form}.") from error
    if len(secret) != SECRET_BYTES:
        raise KeyFileError(f"{path}: the secret has {len(secret)} bytes, not {SECRET_BYTES}.")
    if found.algorithm == ED25519:
        return Ed25519Signer(found.key_id, secret)
    if found.algorithm == HMAC_SHA256:
        return HmacSigner(found.key_id, secret)
    known = f"{ED25519} or {HMAC_SHA256}"
    raise KeyFileError(f"{path}: the algorithm is {known}, not {found.algorithm[:32]!r}.")


def _parameters(parts: Signed) -> str:
    keyed = "" if parts.idempotency_key is None else _KEYED
    return (
        f'({_COVERED}{keyed});created={parts.created};nonce="{parts.nonce}";keyid="{parts.key_id}"'
    )
