"""Ids that nobody has had before: of commands without a key, and of the orders that they place."""

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """Return a new UUID that sorts by time (RFC 9562)."""
    random = int.from_bytes(os.urandom(10), "big")
    number = (time.time_ns() // 1_000_000) << 80 | random
    number = number & ~(0xF << 76) | (0x7 << 76)
    return UUID(int=number & ~(0x3 << 62) | (0x2 << 62))
