"""An event as a record of the topic: CloudEvents 1.0 in binary mode, the document as JSON.

The position is in each record: that makes publishing exact and lets a reader drop what it has.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from confluent_kafka import Message
from msgspec import Struct

from exchange.log.chain import chain_links
from exchange.log.documents.document import Documents
from exchange.log.documents.schemas import FORM, schema_id
from exchange.ports import StoredEvent

SEQUENCE_DIGITS: Final = 20  # CloudEvents compares sequences as text
CONTENT_TYPE: Final = "application/json"

_encoder: Final = msgspec.json.Encoder()


class Record(Struct, frozen=True, gc=False):
    """What is produced of one event."""

    key: str | None
    value: bytes
    headers: list[tuple[str, str]]


class Written(Struct, frozen=True):
    """What a record of the topic tells of itself: whose event it is, and the chain after it."""

    log_id: str
    shard: int
    position: int
    chain: bytes


class Ends(Struct, frozen=True):
    """A partition's first and last record; ``was_cut`` says that earlier ones were deleted."""

    first: Written
    last: Written
    was_cut: bool


class NotOurs(Exception):
    """A record of the topic that no publisher wrote; the message says where it is."""


def records_of(
    log_id: str,
    events: list[StoredEvent],
    documents: Documents,
    chain: bytes,
    traces: Mapping[int, str],
) -> tuple[list[Record], bytes]:
    """Return the records of events, and the chain after the last.

    Args:
        log_id: Of the log.
        events: Consecutive ones.
        documents: Make their values.
        chain: The one before them.
        traces: The contexts of sampled commands, by the position of their first events.

    Raises:
        UnknownEvent: One was written by another version of the software.
    """
    links = chain_links(chain, events)
    records = [
        _record(log_id, stored, documents, link, traces.get(stored.position))
        for stored, link in zip(events, links, strict=True)
    ]
    return records, links[-1]


def _record(
    log_id: str, stored: StoredEvent, documents: Documents, link: bytes, traceparent: str | None
) -> Record:
    document = documents.of(stored, link)
    headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", f"{stored.shard}-{stored.position}"),
        ("ce_source", f"/exchange/{log_id}/{stored.shard}"),
        ("ce_type", f"exchange.{stored.type}.v{FORM}"),
        ("ce_time", document["time"]),
        ("ce_sequence", str(stored.position).zfill(SEQUENCE_DIGITS)),
        ("ce_dataschema", schema_id(stored.type)),
        ("ce_chain", document["chain"]),
        ("content-type", CONTENT_TYPE),
    ]
    if stored.instrument is not None:
        headers.append(("ce_subject", stored.instrument))
    if traceparent is not None:
        headers.append(("ce_traceparent", traceparent))
    return Record(stored.instrument, _encoder.encode(document), headers)


def written_in(message: Message) -> Written:
    """Return what a record's headers tell.

    Raises:
        NotOurs: They are not those of a published event.
    """
    headers = dict(message.headers() or ())
    try:
        source = _text(headers["ce_source"]).split("/")
        _, exchange, log_id, shard = source
        if exchange != "exchange":
            raise ValueError(exchange)
        sequence, chain = _text(headers["ce_sequence"]), _text(headers["ce_chain"])
        return Written(log_id, int(shard), int(sequence), bytes.fromhex(chain))
    except (KeyError, ValueError) as error:
        raise NotOurs(
            f"the record at offset {message.offset()} of partition {message.partition()} is no"
            " published event"
        ) from error


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
