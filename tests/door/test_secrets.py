"""Master keys, and what is derived from them; OpenSSL derives the same."""

import base64
import subprocess

import pytest

from exchange.door.secrets import FOR_REQUESTS, MasterKeyError, MasterKeys, read_master_keys

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
KEY_ID = "0123456789abcdef0123456789abcdef"


def entry(number: int, key: bytes) -> str:
    return f"{number}:{base64.b64encode(key).decode()}"


def test_openssl_derives_the_same_secret() -> None:
    derived = subprocess.run(
        [
            *("openssl", "kdf", "-keylen", "32", "-kdfopt", "digest:SHA256"),
            *("-kdfopt", f"hexkey:{FIRST.hex()}", "-kdfopt", f"info:{FOR_REQUESTS}{KEY_ID}"),
            *("-binary", "HKDF"),
        ],
        capture_output=True,
        check=True,
        timeout=20,
    ).stdout

    assert MasterKeys({1: FIRST}).hmac_secret(1, KEY_ID) == derived


def test_a_secret_is_the_same_for_ever() -> None:
    keys = MasterKeys({1: FIRST})
    pinned = "0a62d23ffb2c734630eb9c3c68d90a80c7705e59032fdf7f76bdcd4b4fcc8000"
    assert keys.hmac_secret(1, KEY_ID).hex() == pinned


def test_no_secret_is_that_of_another_key_or_purpose() -> None:
    keys = MasterKeys({1: FIRST, 2: SECOND})
    made = {
        keys.hmac_secret(1, KEY_ID),
        keys.hmac_secret(2, KEY_ID),
        keys.hmac_secret(1, KEY_ID[::-1]),
        keys.token_secret(1),
        keys.analyst_secret(1),
    }
    assert len(made) == 5


@pytest.mark.parametrize(
    "text",
    [
        f"{entry(1, FIRST)},{entry(3, SECOND)}",
        f"{entry(3, SECOND)}\n{entry(1, FIRST)}\n",
        f" {entry(1, FIRST)} , {entry(3, SECOND)},",
    ],
)
def test_the_highest_number_is_for_new_keys(text: str) -> None:
    keys = read_master_keys(text)
    assert keys.newest == 3
    assert keys.hmac_secret(1, KEY_ID) == MasterKeys({1: FIRST}).hmac_secret(1, KEY_ID)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("secret", "Master key 1 of the list must be"),
        (f"{entry(1, FIRST)},2:{'A' * 42}==", "Master key 2 of the list must be"),
        (entry(1, FIRST[1:]), "Master key 1 of the list must be"),
        (entry(0, FIRST), "Master key 1 of the list must be"),
        (entry(2**31, FIRST), "Master key 1 of the list must be"),
        (f"{entry(1, FIRST)},{entry(1, SECOND)}", "The master key 1 is there twice"),
        (",".join(entry(n, FIRST) for n in range(1, 102)), "There are 101 master keys"),
    ],
)
def test_others_are_refused_without_a_word_of_their_bytes(text: str, why: str) -> None:
    with pytest.raises(MasterKeyError, match=why) as caught:
        read_master_keys(text)
    assert text not in str(caught.value)


def test_a_master_key_that_is_missing_is_named() -> None:
    with pytest.raises(MasterKeyError, match="The master key 2 is missing"):
        MasterKeys({1: FIRST}).hmac_secret(2, KEY_ID)
    with pytest.raises(MasterKeyError, match="No master key is set"):
        MasterKeys({}).newest  # noqa: B018
