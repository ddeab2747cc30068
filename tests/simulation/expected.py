"""The log that must result, computed from the topic alone.

Faults may delay a command, repeat it or lose an answer, but they must not matter: the log
is a function of the records in Kafka. ``expect`` computes it with the naive oracle and with
claims as plain as they can be, and shares no code with the matcher.
"""

import hashlib
import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from exchange.ports import CommandRecord
from tests.domain.oracle import Message, Oracle

MADE_ORDER_ID = re.compile(r"[0-9a-f]{32}-BTC-USD")


@dataclass
class Expected:
    """The events of one record, or the earlier record whose id it repeats."""

    offset: int
    command_id: UUID | None
    events: list[Message] = field(default_factory=list)
    first: int | None = None
    conflict: bool = False


def expect(records: Sequence[CommandRecord], passed_over: Set[int]) -> list[Expected]:
    """Return what becomes of each record; those at ``passed_over`` were quarantined."""
    oracle = Oracle()
    keys: dict[UUID, tuple[int, Message]] = {}
    order_ids: set[str] = set()
    return [
        _expect(record, oracle, keys, order_ids, record.offset in passed_over) for record in records
    ]


def _expect(
    record: CommandRecord,
    oracle: Oracle,
    keys: dict[UUID, tuple[int, Message]],
    order_ids: set[str],
    passed_over: bool,
) -> Expected:
    command = _read(record.value)
    key_id = None if record.key_id is None else record.key_id.decode()
    if command is None or record.command_id is None:
        command = {"type": "Unreadable", **_fingerprint(record.value)}
    if passed_over:
        command = {"type": "QuarantinedRecord", **_fingerprint(record.value)}
    if record.command_id is None or command["type"] == "Unreadable":
        return Expected(record.offset, None, oracle.execute(command, record.time_ms, False, key_id))
    command_id = UUID(bytes=record.command_id)
    body = _body(command)
    first, first_body = keys.setdefault(command_id, (record.offset, body))
    if first != record.offset:
        conflict = command_id.version == 8 and body != first_body
        return Expected(record.offset, command_id, first=first, conflict=conflict)
    chosen = command["type"] == "PlaceOrder" and not MADE_ORDER_ID.fullmatch(command["order_id"])
    taken = chosen and command["order_id"] in order_ids
    if chosen:
        order_ids.add(command["order_id"])
    events = oracle.execute(command, record.time_ms, taken, key_id)
    return Expected(record.offset, command_id, events)


def _fingerprint(value: bytes) -> Message:
    return {"sha256": hashlib.sha256(value).hexdigest(), "size_bytes": len(value)}


def _read(value: bytes) -> Any:
    """Return a command, or None for what the nemesis puts in as garbage."""
    try:
        command = json.loads(value)
    except ValueError:
        return None
    return command if isinstance(command, dict) and len(command) > 1 else None


def _body(command: Message) -> Message:
    """Leave out what a gateway made."""
    if command["type"] in ("IssueKey", "RotateKey"):
        made_id = "key_id" if command["type"] == "IssueKey" else "new_key_id"
        return {**command, made_id: "", "master": None}
    made = MADE_ORDER_ID.fullmatch(command.get("order_id", ""))
    return {**command, "order_id": ""} if made and command["type"] == "PlaceOrder" else command
