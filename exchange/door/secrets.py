"""The secrets of the door: numbered master keys, and what is derived from them (HKDF, RFC 5869).

``MasterKeys.hmac_secret`` is the secret of a client's HMAC key. It is derived from a master key and
the id of the client's key, so that no store holds it: the log says which master key it is of, by
its number. A new key takes the master key of the highest number (``newest``); the former ones stay
for as long as keys of theirs are used.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MASTER_BYTES: Final = 32
SECRET_BYTES: Final = 32
MASTERS_MAX: Final = 100  # one a month for eight years
MASTER_NUMBER_MAX: Final = 2**31 - 1  # the log has it as an integer

# What a derived secret is for: no secret serves two purposes. None of these may ever change.
FOR_REQUESTS: Final = "exchange: requests of key "
FOR_TOKENS: Final = "exchange: tokens"
FOR_ANALYST: Final = "exchange: questions to the analysts' process"

_ENTRY: Final = re.compile(r"([1-9][0-9]{0,9}):([A-Za-z0-9+/]{43}=)")


class MasterKeyError(Exception):
    """The master keys cannot be used; the message says what to do, and nothing of their bytes."""


class MasterKeys:
    """The master keys by their numbers; there may be none."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(keys)

    @property
    def newest(self) -> int:
        """The number of the master key that new keys take.

        Raises:
            MasterKeyError: There is none.
        """
        if not self._keys:
            raise MasterKeyError(
                "No master key is set: give KEYS_MASTER or KEYS_MASTER_FILE one, as"
                ' `echo "1:$(openssl rand -base64 32)"` makes it.'
            )
        return max(self._keys)

    def hmac_secret(self, master: int, key_id: str) -> bytes:
        """Return the secret of a client's HMAC key, of the master key with the number ``master``.

        Raises:
            MasterKeyError: There is no such master key here.
        """
        return self._derived(master, FOR_REQUESTS + key_id)

    def token_secret(self, master: int) -> bytes:
        """Return the secret that makes tokens.

        Raises:
            MasterKeyError: There is no such master key here.
        """
        return self._derived(master, FOR_TOKENS)

    def analyst_secret(self, master: int) -> bytes:
        """Return the secret by which the analysts' process knows a gateway.

        Raises:
            MasterKeyError: There is no such master key here.
        """
        return self._derived(master, FOR_ANALYST)

    def _derived(self, master: int, purpose: str) -> bytes:
        key = self._keys.get(master)
        if key is None:
            raise MasterKeyError(
                f"The master key {master} is missing: KEYS_MASTER or KEYS_MASTER_FILE must keep the"
                " master keys of all keys that are used."
            )
        derivation = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=purpose.encode())
        return derivation.derive(key)


def read_master_keys(text: str) -> MasterKeys:
    """Read ``NUMBER:BASE64`` of 32 bytes each, on lines of their own or with commas between them.

    Raises:
        MasterKeyError: The text has another form, or a number twice.
    """
    entries = [entry for part in text.split(",") for entry in part.split()]
    if len(entries) > MASTERS_MAX:
        raise MasterKeyError(f"There are {len(entries)} master keys: {MASTERS_MAX} is the most.")
    keys: dict[int, bytes] = {}
    for nth, entry in enumerate(entries, 1):
        number, key = _entry(entry, nth)
        if number in keys:
            raise MasterKeyError(f"The master key {number} is there twice.")
        keys[number] = key
    return MasterKeys(keys)


def _entry(entry: str, nth: int) -> tuple[int, bytes]:
    found = _ENTRY.fullmatch(entry)
    try:
        if found is not None and int(found[1]) <= MASTER_NUMBER_MAX:
            return int(found[1]), base64.b64decode(found[2], validate=True)
    except binascii.Error:
        pass
    raise MasterKeyError(
        f"Master key {nth} of the list must be NUMBER:BASE64 of {MASTER_BYTES} bytes, as"
        ' `echo "1:$(openssl rand -base64 32)"` makes it.'
    )
