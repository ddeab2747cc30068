"""The hash chain over a shard's events: a link is the hash of the one before and of the event."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from exchange.ports import StoredEvent

# Enough bytes to find the changed event. That one was changed is proved by the full chain.
LINK_BYTES: Final = 8


def chain_links(chain: bytes, events: Sequence[StoredEvent]) -> list[bytes]:
    """Return the hash chain after each event: one SHA-256 over the last and the event's columns.

    Event by event, so that any batching of the same events gives the same chain.
    """
    return links_over(chain, [event_text(stored) for stored in events])


def links_over(chain: bytes, texts: Sequence[bytes]) -> list[bytes]:
    """Return the hash chain after each event, of which the texts are given."""
    links: list[bytes] = []
    for text in texts:
        chain = sha256(chain + text).digest()
        links.append(chain)
    return links


def event_text(stored: StoredEvent) -> bytes:
    """Return what is hashed of an event: its columns and its text, with separators."""
    columns = (
        f"{stored.shard}\x1f{stored.position}\x1f{stored.instrument or ''}\x1f{stored.type}"
        f"\x1f{stored.version}\x1f{stored.command_id.hex}\x1f{stored.kafka_offset}\x1f"
    )
    return columns.encode() + stored.data.encode()


def abridge_links(links: Sequence[bytes]) -> bytes:
    """Return what a batch keeps of its links: enough to find the event that was changed."""
    return b"".join(link[:LINK_BYTES] for link in links)
