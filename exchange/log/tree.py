"""A Merkle tree over a shard's events, so that one event can be shown to be in the log.

The tree is that of RFC 9162 (Certificate Transparency), section 2.1; its leaves are the events by
position, each as the text that the hash chain is computed over. Its root, published at some
position, pins all events up to there. ``Tree`` grows by leaves; ``path`` gives the hashes that lead
from one event to the root, some 24 for ten million events; ``root_of`` walks them.

Of a tree only the roots of whole blocks need to be kept, 32 bytes for 256 events. What is below a
block's root is computed again from its events.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from exchange.log.chain import event_text
from exchange.ports import StoredEvent

BLOCK_EVENTS: Final = 256  # must be a power of two: a block is a whole subtree
EMPTY_ROOT: Final = sha256().digest()


def leaf_hash(stored: StoredEvent) -> bytes:
    """Return the hash of an event as a leaf."""
    return sha256(b"\0" + event_text(stored)).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two subtrees."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that only grows; it keeps one root for each whole subtree, largest first."""

    def __init__(self, blocks: Sequence[bytes] = ()) -> None:
        """Begin with the roots of the first blocks, each of ``BLOCK_EVENTS`` leaves."""
        self.size = 0
        self.new_blocks: list[bytes] = []  # roots of blocks that were completed by ``append``
        self._whole: list[tuple[int, bytes]] = []  # sizes and roots
        for block in blocks:
            self._add(BLOCK_EVENTS, block)

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next event."""
        self._add(1, leaf)

    @property
    def root(self) -> bytes:
        """The hash over all leaves so far."""
        if not self._whole:
            return EMPTY_ROOT
        *others, (_, root) = self._whole
        for _, left in reversed(others):
            root = node_hash(left, root)
        return root

    def _add(self, size: int, root: bytes) -> None:
        self.size += size
        while self._whole and self._whole[-1][0] == size:
            root, size = node_hash(self._whole.pop()[1], root), 2 * size
            if size == BLOCK_EVENTS:
                self.new_blocks.append(root)
        self._whole.append((size, root))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the hashes that lead from a leaf to the root over all leaves, the lowest first.

    ``index`` counts from 0. Leaves may be roots of whole subtrees, all of one size but the last.
    """
    hashes: list[bytes] = []
    begin, end = 0, len(leaves)
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            hashes.append(root_over(leaves[middle:end]))
            end = middle
        else:
            hashes.append(root_over(leaves[begin:middle]))
            begin = middle
    return hashes[::-1]


def root_over(leaves: Sequence[bytes]) -> bytes:
    """Return the root over hashes of leaves, or of whole subtrees of one size but the last."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        pairs = [node_hash(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = pairs if len(level) % 2 == 0 else [*pairs, level[-1]]
    return level[0]


def root_of(leaf: bytes, index: int, size: int, hashes: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf's path leads to; None if it is no path in a tree of this size.

    Section 2.1.3.2 of the RFC.
    """
    at, last, root = index, size - 1, leaf
    for other in hashes:
        if last == 0:
            return None
        if at % 2 or at == last:
            root = node_hash(other, root)
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            root = node_hash(root, other)
        at, last = at // 2, last // 2
    return root if last == 0 else None


def _split(size: int) -> int:
    """Return the largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
