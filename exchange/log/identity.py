"""Ids of commands, and the names that commands claim for ever.

The id of a command with an idempotency key is a hash of client and key (version 8); a command
without a key gets a new id (version 7). What is hashed here is in the claims of existing logs: none
of it may ever change.
"""

import os
import time
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    CreateAccount,
    IssueKey,
    LimitOpenOrders,
    MalformedRecord,
    PlaceOrder,
    PlaceShard,
    QuarantinedRecord,
    RegisterInstrument,
    ResumeClient,
    RetriedRecord,
    RevokeKey,
    RotateKey,
    SuspendClient,
)
from exchange.domain.values import Offset, Shard, instrument_of_exchange_order_id
from exchange.log.command_form import encoder, without_defaults
from exchange.ports import UNKNOWN_BODY, Claim

KEYED_COMMAND_ID_VERSION: Final = 8
UNKEYED_COMMAND_ID_VERSION: Final = 7
# The bits of version and variant (RFC 9562). They are asked several times for each command, and
# ``UUID.version`` takes five times as long.
_VARIANT: Final = 0x2 << 62
_FORM: Final = 0xF << 76 | 0x3 << 62
_KEYED: Final = KEYED_COMMAND_ID_VERSION << 76 | _VARIANT
_UNKEYED: Final = UNKEYED_COMMAND_ID_VERSION << 76 | _VARIANT
BODY_HASH_BYTES: Final = 16  # 128 bits: a client can only collide with itself, under one key


def uuid7() -> UUID:
    """Return a new UUID that sorts by time (RFC 9562)."""
    random = int.from_bytes(os.urandom(10), "big")
    number = (time.time_ns() // 1_000_000) << 80 | random
    return UUID(int=number & ~_FORM | _UNKEYED)


def command_id_for(client_id: str | None, key: str | None) -> UUID:
    """Return the id of a command: of its key where there is one, else a new one."""
    if client_id is None or key is None:
        return uuid7()
    return keyed_command_id(client_id, key)


def keyed_command_id(client_id: str, idempotency_key: str) -> UUID:
    """Return the id that every command of this client with this key has."""
    return _hash_uuid("key", client_id, idempotency_key)


def registration_command_id(instrument: str) -> UUID:
    """Return the id of an instrument's registration: its name is the idempotency key."""
    return _hash_uuid("instrument", instrument)


def cycle_command_id(shard: int, cycle: int) -> UUID:
    """Return the id of a cycle's closing on a shard: its number is the idempotency key."""
    return _hash_uuid("settlement cycle", str(shard), str(cycle))


def cancel_all_command_id(client_id: str, key: str, shard: int, part: int) -> UUID:
    """Return the id of a part of what cancels a client's orders on a shard; the first is part 0.

    The client's keys for orders are others, so one key may be used for both.
    """
    return _hash_uuid("cancel all", client_id, key, str(shard), str(part))


def retry_command_id(shard: int, offset: int) -> UUID:
    """Return the id of the retry of a quarantined record: its location is the idempotency key."""
    return _hash_uuid("retry", str(shard), str(offset))


def placing_command_id(shard: int) -> UUID:
    """Return the id of a shard's placing in the open cycle: a shard is placed once."""
    return _hash_uuid("shard", str(shard))


def account_command_id(client_id: str) -> UUID:
    """Return the id of an account's creation: its name is the idempotency key."""
    return _hash_uuid("account", client_id)


def issuing_command_id(client_id: str, key: str | None) -> UUID:
    """Return the id of what issues a key to an account."""
    return uuid7() if key is None else _hash_uuid("issue key", client_id, key)


def key_command_id(action: str, key_id: str, key: str | None) -> UUID:
    """Return the id of what rotates or revokes a key."""
    return uuid7() if key is None else _hash_uuid(f"{action} key", key_id, key)


def suspension_command_id(action: str, client_id: str, key: str | None, shard: int) -> UUID:
    """Return the id of what suspends or resumes a client on a shard."""
    return uuid7() if key is None else _hash_uuid(f"{action} client", client_id, key, str(shard))


def is_keyed(command_id: UUID) -> bool:
    """Tell whether a resend of this command must give the first one's outcome."""
    return command_id.int & _FORM == _KEYED


def is_unkeyed(command_id: UUID) -> bool:
    """Tell whether a gateway made the id: a second record with it is the first one, sent again."""
    return command_id.int & _FORM == _UNKEYED


def command_claim(command_id: UUID) -> str:
    """Name the claim of a command; the table has only those of keyed commands."""
    return f"command:{command_id.hex}"


def unkeyed_claim(command_id: UUID, shard: int, offset: int) -> Claim:
    """Return the claim that a command without a key has by its events, without a hash."""
    return Claim(command_claim(command_id), Shard(shard), Offset(offset), UNKNOWN_BODY)


def order_claim(order_id: str) -> str:
    """Name the claim of an order id that a client chose."""
    return f"order:{order_id}"


def body_hash(command: Command) -> bytes:
    """Hash what the client asked; what a gateway made (the id of an order or key) is left out.

    So is the number of the master key, which may be another one when a request is sent again.

    Claims hold these hashes for ever, so the hash of a request that an earlier build could make
    never changes: a field that was added later counts only where it differs from its default.
    """
    match command:
        case PlaceOrder() if instrument_of_exchange_order_id(command.order_id) is not None:
            command = msgspec.structs.replace(command, order_id="")  # no client can choose that
        case IssueKey():
            command = msgspec.structs.replace(command, key_id="", master=None)
        case RotateKey():
            command = msgspec.structs.replace(command, new_key_id="", master=None)
        case RetriedRecord(offset, digest):
            return retry_body_hash(offset, digest)
        case (
            PlaceOrder()
            | CancelOrder()
            | CancelAllOrders()
            | RegisterInstrument()
            | CloseSettlementCycle()
            | LimitOpenOrders()
            | PlaceShard()
            | CreateAccount()
            | SuspendClient()
            | ResumeClient()
            | RevokeKey()
            | MalformedRecord()
            | QuarantinedRecord()
        ):
            pass
    return sha256(encoder.encode(without_defaults(command))).digest()[:BODY_HASH_BYTES]


def retry_body_hash(offset: int, digest: str) -> bytes:
    """Hash an operator's retry, from two fields that its event ``CommandRetried`` has too."""
    return sha256(f"RetriedRecord\0{offset}\0{digest}".encode()).digest()[:BODY_HASH_BYTES]


def _hash_uuid(*parts: str) -> UUID:
    # A NUL cannot be in an id, so no two lists of parts give the same text.
    digest = sha256("\0".join(parts).encode()).digest()[:16]
    number = int.from_bytes(digest, "big")
    return UUID(int=number & ~_FORM | _KEYED)
