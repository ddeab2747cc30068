"""A Merkle tree over a shard's events, so that one event can be shown to be in the log.

The tree is that of RFC 9162 (Certificate Transparency), section 2.1. Its leaves are the events by
position, each as the text that the hash chain is computed over (``chain.event_text``). Its root,
published at some position, pins all events up to there. ``Tree`` grows by leaves; ``path`` gives
the hashes that lead from one event to the root, some 24 for ten million events; ``root_of`` walks
them.

Of a tree only the roots of whole blocks need to be kept, 32 bytes for 256 events. What is below a
block's root is computed again from its events.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

BLOCK_EVENTS: Final = 256  # must be a power of two: a block is a whole subtree
EMPTY_ROOT: Final = sha256().digest()


def leaf_hash(text: bytes) -> bytes:
    """Return the hash of an event as a leaf; ``text`` is what ``chain.event_text`` gives."""
    return sha256(b"\0" + text).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two subtrees."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that only grows; above its last leaves it keeps one root for each whole subtree."""

    def __init__(self, blocks: Sequence[bytes] = ()) -> None:
        """Begin with the roots of the first blocks, each of ``BLOCK_EVENTS`` leaves."""
        self.new_blocks: list[bytes] = []  # roots of blocks that were completed since
        self._leaves: list[bytes] = []  # of the block that is not whole yet
        self._whole: list[tuple[int, bytes]] = []  # sizes and roots, largest first
        self._size = 0  # of these
        for block in blocks:
            self._add(block)

    @property
    def size(self) -> int:
        """How many leaves it has."""
        return self._size + len(self._leaves)

    @property
    def root(self) -> bytes:
        """The hash over all leaves so far."""
        roots = [root for _, root in self._whole]
        if self._leaves:
            roots.append(root_over(self._leaves))
        if not roots:
            return EMPTY_ROOT
        root = roots.pop()
        while roots:
            root = node_hash(roots.pop(), root)
        return root

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add the hashes of the next events."""
        self._leaves += leaves
        while len(self._leaves) >= BLOCK_EVENTS:
            block = root_over(self._leaves[:BLOCK_EVENTS])
            del self._leaves[:BLOCK_EVENTS]
            self.new_blocks.append(block)
            self._add(block)

    def _add(self, root: bytes) -> None:
        size = BLOCK_EVENTS
        self._size += size
        while self._whole and self._whole[-1][0] == size:
            root, size = node_hash(self._whole.pop()[1], root), 2 * size
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
        pairs = [node_hash(*pair) for pair in zip(level[::2], level[1::2], strict=False)]
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
