"""Accounts, their keys, and clients that are suspended: what is decided of them.

Read ``decide_account``. As in ``engine``, deciding changes nothing, and ``change_account`` applies
one event; it returns what the event adds to the digest.

Shard 0 alone knows accounts and keys. A suspension is decided on every shard by itself. Nothing
here verifies a signature: what is decided is which keys there are, and the gateways keep to it.

What decisions need is kept and no more: of a key that was revoked little more than its id. An id is
used once, so it is kept for ever: an admin made each, and a million take some 200 MB.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from exchange.domain.commands import (
    AccountCommand,
    CreateAccount,
    IssueKey,
    ResumeClient,
    RevokeKey,
    RotateKey,
    SuspendClient,
)
from exchange.domain.events import (
    AccountCreated,
    AccountRejected,
    ClientResumed,
    ClientSuspended,
    Event,
    KeyIssued,
    KeyRejected,
    KeyRevoked,
)
from exchange.domain.values import KeyAlgorithm, KeyScope, RejectReason

# It changes decisions, so it is no setting. A person or a program has one key; a hundred of each
# account are looked through in a millisecond.
KEYS_MAX: Final = 100


class Key(Struct, frozen=True, array_like=True):
    """A key as decisions need it; the signatures that it makes are the gateways' matter.

    ``ends_ms`` is since when it is revoked, or from when on; None as long as it is not. One that is
    revoked has no scopes, addresses or label any more.
    """

    key_id: str
    client_id: str
    algorithm: KeyAlgorithm
    scopes: tuple[KeyScope, ...] = ()
    addresses: tuple[str, ...] = ()
    expires_ms: int | None = None
    label: str = ""
    ends_ms: int | None = None

    def is_good(self, now_ms: int) -> bool:
        """Tell whether requests may be signed by it."""
        return all(end is None or now_ms < end for end in (self.expires_ms, self.ends_ms))


@dataclass(slots=True)
class Accounts:
    """All accounts and keys of shard 0; ``good`` has the ids of an account's keys, if not more.

    Those that have ended since the account's last key are still in ``good``.
    """

    good: dict[str, set[str]] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)


def decide_account(
    accounts: Accounts, suspended: Set[str], command: AccountCommand, now_ms: int
) -> list[Event]:
    """Return the events that a command about an account, its keys or its orders causes."""
    match command:
        case CreateAccount(client_id):
            if client_id in accounts.good:
                return [AccountRejected(client_id, RejectReason.ACCOUNT_EXISTS, time_ms=now_ms)]
            return [AccountCreated(client_id, time_ms=now_ms)]
        case SuspendClient(client_id):
            if client_id in suspended:
                reason = RejectReason.ALREADY_SUSPENDED
                return [AccountRejected(client_id, reason, time_ms=now_ms)]
            return [ClientSuspended(client_id, time_ms=now_ms)]
        case ResumeClient(client_id):
            if client_id not in suspended:
                return [AccountRejected(client_id, RejectReason.NOT_SUSPENDED, time_ms=now_ms)]
            return [ClientResumed(client_id, time_ms=now_ms)]
        case IssueKey():
            return [_issue(accounts, command, now_ms)]
        case RotateKey():
            return _rotate(accounts, command, now_ms)
        case RevokeKey():
            return [_revoke(accounts, command, now_ms)]
        case _:
            assert_never(command)


def change_account(accounts: Accounts, event: AccountCreated | KeyIssued | KeyRevoked) -> int:
    """Apply one event; return what it adds to the digest."""
    match event:
        case AccountCreated(client_id):
            accounts.good[client_id] = set()
            return _account_hash(client_id)
        case KeyIssued():
            _forget_ended(accounts, event.client_id, event.time_ms)
            key = Key(
                event.key_id,
                event.client_id,
                event.algorithm,
                event.scopes,
                event.addresses,
                event.expires_ms,
                event.label,
            )
            _add(accounts, key, event.time_ms)
            return _key_hash(key)
        case KeyRevoked():
            key = accounts.keys[event.key_id]
            ended = replace(key, scopes=(), addresses=(), label="", ends_ms=event.ends_ms)
            accounts.keys[key.key_id] = ended
            return _key_hash(ended) - _key_hash(key)
        case _:
            assert_never(event)


def change_suspension(suspended: set[str], event: ClientSuspended | ClientResumed) -> int:
    """Apply one event; return what it adds to the digest."""
    client_id = event.client_id
    if isinstance(event, ClientSuspended):
        suspended.add(client_id)
        return _suspension_hash(client_id)
    suspended.remove(client_id)
    return -_suspension_hash(client_id)


def rebuild_accounts(names: Iterable[str], keys: Iterable[Key], now_ms: int) -> Accounts:
    """Return the accounts of these names with these keys."""
    accounts = Accounts({name: set() for name in names})
    for key in keys:
        _add(accounts, key, now_ms)
    return accounts


def hash_of(accounts: Accounts, suspended: Iterable[str]) -> int:
    """Return what accounts, keys and suspended clients add to the digest."""
    hashes = sum(_account_hash(name) for name in accounts.good)
    hashes += sum(_key_hash(key) for key in accounts.keys.values())
    return hashes + sum(_suspension_hash(client_id) for client_id in suspended)


def _issue(accounts: Accounts, command: IssueKey, now_ms: int) -> Event:
    reason = _refusal_of_issue(accounts, command, now_ms)
    if reason is not None:
        return KeyRejected(command.key_id, command.client_id, reason, time_ms=now_ms)
    return KeyIssued(
        key_id=command.key_id,
        client_id=command.client_id,
        algorithm=command.algorithm,
        public_key=command.public_key,
        master=command.master,
        scopes=command.scopes,
        addresses=command.addresses,
        expires_ms=command.expires_ms,
        label=command.label,
        rotated_from=None,
        overlap_ms=None,
        time_ms=now_ms,
    )


def _refusal_of_issue(accounts: Accounts, command: IssueKey, now_ms: int) -> RejectReason | None:
    if command.client_id not in accounts.good:
        return RejectReason.UNKNOWN_ACCOUNT
    if command.key_id in accounts.keys:
        return RejectReason.KEY_EXISTS
    if not _fits(command.algorithm, command.public_key, command.master):
        return RejectReason.KEY_MATERIAL
    if _count_good(accounts, command.client_id, now_ms) >= KEYS_MAX:
        return RejectReason.TOO_MANY_KEYS
    return None


def _rotate(accounts: Accounts, command: RotateKey, now_ms: int) -> list[Event]:
    key = accounts.keys.get(command.key_id)
    if key is None:
        return [KeyRejected(command.key_id, None, RejectReason.UNKNOWN_KEY, time_ms=now_ms)]
    if key.ends_ms is not None or not key.is_good(now_ms):
        reason = RejectReason.KEY_NOT_GOOD
        return [KeyRejected(command.key_id, key.client_id, reason, time_ms=now_ms)]
    refusal = _refusal_of_rotation(accounts, key, command, now_ms)
    if refusal is not None:
        return [KeyRejected(command.new_key_id, key.client_id, refusal, time_ms=now_ms)]
    issued = KeyIssued(
        key_id=command.new_key_id,
        client_id=key.client_id,
        algorithm=key.algorithm,
        public_key=command.public_key,
        master=command.master,
        scopes=key.scopes,
        addresses=key.addresses,
        expires_ms=key.expires_ms,
        label=key.label,
        rotated_from=key.key_id,
        overlap_ms=command.overlap_ms,
        time_ms=now_ms,
    )
    ends_ms = now_ms + command.overlap_ms
    return [issued, KeyRevoked(key.key_id, key.client_id, ends_ms, time_ms=now_ms)]


def _refusal_of_rotation(
    accounts: Accounts, key: Key, command: RotateKey, now_ms: int
) -> RejectReason | None:
    if command.new_key_id in accounts.keys:
        return RejectReason.KEY_EXISTS
    if not _fits(key.algorithm, command.public_key, command.master):
        return RejectReason.KEY_MATERIAL
    if _count_good(accounts, key.client_id, now_ms) > KEYS_MAX:  # one of them is replaced
        return RejectReason.TOO_MANY_KEYS
    return None


def _revoke(accounts: Accounts, command: RevokeKey, now_ms: int) -> Event:
    key = accounts.keys.get(command.key_id)
    if key is None:
        return KeyRejected(command.key_id, None, RejectReason.UNKNOWN_KEY, time_ms=now_ms)
    if key.ends_ms is not None and key.ends_ms <= now_ms:
        reason = RejectReason.KEY_ENDED
        return KeyRejected(command.key_id, key.client_id, reason, time_ms=now_ms)
    return KeyRevoked(key.key_id, key.client_id, ends_ms=now_ms, time_ms=now_ms)


def _add(accounts: Accounts, key: Key, now_ms: int) -> None:
    accounts.keys[key.key_id] = key
    if key.is_good(now_ms):
        accounts.good[key.client_id].add(key.key_id)


def _fits(algorithm: KeyAlgorithm, public_key: str | None, master: int | None) -> bool:
    """Tell whether a key has what its algorithm needs, and nothing else."""
    has_public = algorithm is KeyAlgorithm.ED25519
    return (public_key is not None) == has_public and (master is None) == has_public


def _count_good(accounts: Accounts, client_id: str, now_ms: int) -> int:
    keys = accounts.keys
    return sum(keys[key_id].is_good(now_ms) for key_id in accounts.good[client_id])


def _forget_ended(accounts: Accounts, client_id: str, now_ms: int) -> None:
    good = accounts.good[client_id]
    good -= {key_id for key_id in good if not accounts.keys[key_id].is_good(now_ms)}


def _account_hash(client_id: str) -> int:
    return _hash(f"account\x1f{client_id}")


def _suspension_hash(client_id: str) -> int:
    return _hash(f"suspended\x1f{client_id}")


def _key_hash(key: Key) -> int:
    # Neither ids, networks nor labels hold control characters, so the separator cannot be forged.
    return _hash(
        f"key\x1f{key.key_id}\x1f{key.client_id}\x1f{key.algorithm.value}"
        f"\x1f{' '.join(key.scopes)}\x1f{' '.join(key.addresses)}\x1f{key.expires_ms}"
        f"\x1f{key.ends_ms}\x1f{key.label}"
    )


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest(), "big")
