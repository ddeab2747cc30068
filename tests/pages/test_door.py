"""How the pages sign, called in the browser and checked here without their help."""

import base64
import hashlib
import hmac
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Page

from tests.pages.test_shared import call

KEY_ID = "0123456789abcdef0123456789abcdef"
SECRET = bytes(range(32))
BODY = '{"client_id":"zoë"}'
URL = "http://127.0.0.1:3000/orders/a%20b?limit=2&cursor=x%2By"
DIGEST = base64.b64encode(hashlib.sha256(BODY.encode()).digest()).decode()
LOGIN = "await m.login(a[0]);"


def key_file(algorithm: str, secret: bytes = SECRET) -> str:
    text = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return json.dumps({"key_id": KEY_ID, "algorithm": algorithm, "secret": text})


def signed(blank: Page, algorithm: str, key: str | None = None) -> tuple[dict[str, str], str]:
    """Return the headers of a signed POST, and the text that they should be a signature of."""
    headers: dict[str, str] = call(
        blank,
        "shared/door.js",
        LOGIN + "return m.proofOf(new URL(a[1]), {method: 'POST', body: a[2],"
        " headers: a[3] === null ? {} : {'Idempotency-Key': a[3]}})",
        *(key_file(algorithm), URL, BODY, key),
    )
    lines = [
        '"@method": POST',
        '"@authority": 127.0.0.1:3000',
        '"@path": /orders/a%20b',
        '"@query": ?limit=2&cursor=x%2By',
        f'"content-digest": sha-256=:{DIGEST}:',
        *([] if key is None else [f'"idempotency-key": {key}']),
        f'"@signature-params": {headers["Signature-Input"].removeprefix("sig1=")}',
    ]
    return headers, "\n".join(lines)


def signature_in(headers: dict[str, str]) -> bytes:
    found = re.fullmatch(r"sig1=:([A-Za-z0-9+/=]+):", headers["Signature"])
    assert found is not None
    return base64.b64decode(found[1], validate=True)


def test_a_secret_of_both_signs_what_is_sent(blank: Page) -> None:
    headers, text = signed(blank, "hmac-sha256", key="abc-1")

    assert headers["Content-Digest"] == f"sha-256=:{DIGEST}:"
    assert signature_in(headers) == hmac.digest(SECRET, text.encode(), "sha256")
    assert re.fullmatch(
        r'sig1=\("@method" "@authority" "@path" "@query" "content-digest" "idempotency-key"\)'
        rf';created=[0-9]+;nonce="[\w-]{{24}}";keyid="{KEY_ID}"',
        headers["Signature-Input"],
    )


def test_a_private_key_signs_what_is_sent(blank: Page) -> None:
    headers, text = signed(blank, "ed25519")

    public = Ed25519PrivateKey.from_private_bytes(SECRET).public_key()
    public.verify(signature_in(headers), text.encode())
    assert "idempotency-key" not in headers["Signature-Input"]


def test_no_two_requests_have_the_same_nonce(blank: Page) -> None:
    inputs = {signed(blank, "hmac-sha256")[0]["Signature-Input"] for _ in range(3)}

    assert len(inputs) == 3


def test_the_time_is_that_of_the_exchange(blank: Page) -> None:
    created = call(
        blank,
        "shared/door.js",
        LOGIN + "m.setClock(1_900_000_000_000);"
        "const h = await m.proofOf(new URL(a[1]), {}); m.setClock(Date.now());"
        "return h['Signature-Input'].match(/created=(\\d+)/)[1]",
        *(key_file("hmac-sha256"), URL),
    )

    assert int(created) - 1_900_000_000 in range(30)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"key_id": 1}',
        key_file("hmac-sha256", b"short"),
        key_file("hmac-sha256").replace(KEY_ID, KEY_ID.upper()),
        key_file("rsa"),
    ],
)
def test_what_is_no_key_is_refused_and_logs_nobody_out(blank: Page, text: str) -> None:
    said, kept = call(
        blank,
        "shared/door.js",
        LOGIN + "let said = null; try { await m.login(a[1]) } catch (e) { said = e.message }"
        "const kept = m.keyId(); m.logout(); return [said, kept]",
        *(key_file("hmac-sha256"), text),
    )

    assert said
    assert "key" in said.lower()
    assert kept == KEY_ID


def test_nothing_is_signed_while_nobody_is_logged_in(blank: Page) -> None:
    headers = call(
        blank,
        "shared/door.js",
        LOGIN + "m.logout(); return m.proofOf(new URL(a[1]), {})",
        *(key_file("ed25519"), URL),
    )

    assert headers == {}
