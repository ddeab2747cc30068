"""Signed requests; OpenSSL makes and checks the same signatures."""

import base64
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.signing import (
    ED25519,
    HMAC_SHA256,
    Ed25519Signer,
    HmacSigner,
    Input,
    KeyFileError,
    Signed,
    authority_of,
    content_digest,
    key_file_text,
    load_signer,
    read_input,
    read_signature,
    signature_base,
    signed_headers,
)

KEY_ID = "0123456789abcdef0123456789abcdef"
SECRET = bytes(range(32))
NONCE = "n" * 16
PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")  # what goes before the 32 bytes


def parts(**changed: object) -> Signed:
    known: dict[str, object] = {
        "method": "POST",
        "authority": "exchange.example:3000",
        "path": "/orders",
        "query": "?",
        "content_digest": content_digest(b"{}"),
        "idempotency_key": None,
        "created": 1_700_000_000,
        "nonce": NONCE,
        "key_id": KEY_ID,
    }
    return Signed(**(known | changed))  # type: ignore[arg-type]


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *arguments], input=given, capture_output=True, check=True, timeout=20
    ).stdout


def test_the_text_that_is_signed_has_a_line_for_each_component() -> None:
    assert signature_base(parts(idempotency_key="abc", query="?a=b")).decode() == (
        '"@method": POST\n'
        '"@authority": exchange.example:3000\n'
        '"@path": /orders\n'
        '"@query": ?a=b\n'
        '"content-digest": sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:\n'
        '"idempotency-key": abc\n'
        '"@signature-params": ("@method" "@authority" "@path" "@query" "content-digest"'
        ' "idempotency-key");created=1700000000;nonce="nnnnnnnnnnnnnnnn"'
        ';keyid="0123456789abcdef0123456789abcdef"'
    )


def test_a_request_is_signed_as_its_url_says_it() -> None:
    url = "http://me@EXCHANGE.example:80/orders/a%20b?x=%2f"

    headers = signed_headers(HmacSigner(KEY_ID, SECRET), "GET", url, created=5, nonce=NONCE)

    empty = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    read = read_input(headers["Signature-Input"])
    assert read == Input(is_keyed=False, created=5, nonce=NONCE, key_id=KEY_ID)
    base = signature_base(
        parts(
            method="GET",
            authority="exchange.example",
            path="/orders/a%20b",
            query="?x=%2f",
            content_digest=empty,
            created=5,
        )
    )
    assert headers["Content-Digest"] == empty
    assert read_signature(headers["Signature"]) == HmacSigner(KEY_ID, SECRET).sign(base)
    assert "Idempotency-Key" not in headers


def test_a_key_and_its_signature_go_together() -> None:
    headers = signed_headers(
        HmacSigner(KEY_ID, SECRET), "POST", "http://localhost:3000/orders", b"{}", "abc"
    )
    read = read_input(headers["Signature-Input"])
    assert read is not None
    assert read.is_keyed
    assert headers["Idempotency-Key"] == "abc"


def test_each_request_has_a_nonce_of_its_own() -> None:
    signer = HmacSigner(KEY_ID, SECRET)
    made = {signed_headers(signer, "GET", "http://a/")["Signature-Input"] for _ in range(100)}
    assert len(made) == 100


@pytest.mark.parametrize(
    ("host", "scheme", "authority"),
    [
        ("LocalHost:3000", "http", "localhost:3000"),
        ("a:80", "http", "a"),
        ("a:443", "http", "a:443"),
        ("a:443", "https", "a"),
        ("[::1]:80", "http", "[::1]"),
    ],
)
def test_the_authority_is_the_host_without_a_default_port(
    host: str, scheme: str, authority: str
) -> None:
    assert authority_of(host, scheme) == authority


def test_openssl_makes_the_same_signatures(tmp_path: Path) -> None:
    base, key, text = signature_base(parts()), tmp_path / "key", tmp_path / "text"
    key.write_bytes(PKCS8_ED25519 + SECRET)
    text.write_bytes(base)

    signed = openssl(
        *("pkeyutl", "-sign", "-rawin", "-inkey", str(key)), *("-keyform", "DER", "-in", str(text))
    )
    digest = openssl(
        *("dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{SECRET.hex()}", "-binary"),
        given=base,
    )

    assert Ed25519Signer(KEY_ID, SECRET).sign(base) == signed
    assert HmacSigner(KEY_ID, SECRET).sign(base) == digest


def test_openssl_makes_the_same_digest() -> None:
    made = base64.b64encode(openssl("dgst", "-sha256", "-binary", given=b'{"a":1}')).decode()
    assert content_digest(b'{"a":1}') == f"sha-256=:{made}:"


INPUT = (
    'sig1=("@method" "@authority" "@path" "@query" "content-digest")'
    f';created=1700000000;nonce="{NONCE}";keyid="{KEY_ID}"'
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        INPUT.replace("sig1", "sig2"),
        INPUT.replace('"@query" ', ""),
        INPUT.replace('"@path" "@query"', '"@query" "@path"'),
        INPUT.replace('"content-digest")', '"content-digest" "date")'),
        INPUT.replace(")", ');alg="ed25519"', 1),
        INPUT.replace(";created=1700000000", ""),
        INPUT.replace("1700000000", "-1"),
        INPUT.replace("1700000000", "01700000000"),
        INPUT.replace("1700000000", "1" * 12),
        INPUT.replace(NONCE, "short"),
        INPUT.replace(NONCE, "n" * 65),
        INPUT.replace(NONCE, f"{NONCE}\\"),
        INPUT.replace(KEY_ID, KEY_ID.upper()),
        INPUT.replace(KEY_ID, KEY_ID[1:]),
        f"{INPUT};expires=1",
        f"{INPUT}, sig2=()",
        f" {INPUT}",
        f"{INPUT}\n",
    ],
)
def test_another_list_or_another_parameter_is_of_no_profile(text: str) -> None:
    assert read_input(INPUT) is not None
    assert read_input(text) is None


@pytest.mark.parametrize("text", ["", "sig1=::", "sig1=:a:", "sig2=:YQ==:", "sig1=:YQ==: "])
def test_what_is_no_signature_is_read_as_none(text: str) -> None:
    assert read_signature("sig1=:YQ==:") == b"a"
    assert read_signature(text) is None


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    read_input(text)
    read_signature(text)


@pytest.mark.parametrize(
    ("algorithm", "kind"), [(ED25519, Ed25519Signer), (HMAC_SHA256, HmacSigner)]
)
def test_a_key_file_gives_its_signer(algorithm: str, kind: type, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(key_file_text(KEY_ID, algorithm, sha256(b"secret").digest()))

    signer = load_signer(file)

    assert type(signer) is kind
    assert signer.key_id == KEY_ID
    assert signer.sign(b"text") == kind(KEY_ID, sha256(b"secret").digest()).sign(b"text")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is no key file"),
        ('{"key_id": "a", "algorithm": "ed25519", "secret": "MDA"}', "has 2 bytes, not 32"),
        (key_file_text(KEY_ID, "rsa", SECRET), "ed25519 or hmac-sha256, not 'rsa'"),
        (f"{key_file_text(KEY_ID, ED25519, SECRET)}{' ' * 5_000}x", ""),
    ],
)
def test_another_file_is_refused_without_its_secret(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    if not why:  # only the beginning of a large file is read
        load_signer(file)
        return
    with pytest.raises(KeyFileError) as caught:
        load_signer(file)
    assert why in str(caught.value)
    assert base64.urlsafe_b64encode(SECRET).decode().rstrip("=") not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"gone\.json: No such file"):
        load_signer(tmp_path / "gone.json")
