"""Chains and roots that were kept elsewhere, compared with those of a walk over events."""

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from exchange.log.audit.tree import Tree, leaf_hash


class Pin(Struct, frozen=True):
    """The chain and the root after an event, in hex, either of which pins all events up to it."""

    chain: str
    root: str | None


class NotKept(Exception):
    """What was kept of ``position`` is neither the chain up to it nor the root there.

    ``root`` is None in a walk that has no tree.
    """

    def __init__(self, position: int, kept: bytes, chain: bytes, root: bytes | None) -> None:
        super().__init__(position)
        self.position, self.kept, self.chain, self.root = position, kept, chain, root


class KeptCheck:
    """Goes along with a walk, and compares what was kept of the events that it passes."""

    def __init__(self, kept: Mapping[int, Collection[bytes]], *, from_start: bool) -> None:
        """Begin a walk; only one that begins with the first event has a tree.

        Args:
            kept: Chains and roots by position; a position without any is only noted.
            from_start: Whether the walk begins with the first event.
        """
        self.compared = 0
        self.passed: dict[int, Pin] = {}  # of the positions in ``kept``
        self._kept = kept
        self._tree = Tree() if from_start else None

    @property
    def root(self) -> bytes | None:
        """The root over all events so far; None without a tree."""
        return None if self._tree is None else self._tree.root

    def take_blocks(self) -> list[bytes]:
        """Return the roots of blocks that have become whole since the last call."""
        if self._tree is None:
            return []
        blocks, self._tree.new_blocks = self._tree.new_blocks, []
        return blocks

    def begin(self, position: int, chain: bytes) -> None:
        """Compare what was kept of the position after which the walk begins.

        Raises:
            NotKept: It is another.
        """
        self._compare(position, chain)

    def go_on(self, first: int, links: Sequence[bytes], texts: Sequence[bytes]) -> None:
        """Compare what was kept of the next events.

        Args:
            first: The position of the first of them.
            links: The chain after each.
            texts: What is hashed of each.

        Raises:
            NotKept: At the first position of which another was kept.
        """
        leaves = [] if self._tree is None else [leaf_hash(text) for text in texts]
        grown = 0
        for position in sorted(p for p in self._kept if 0 <= p - first < len(links)):
            index = position - first
            self._grow(leaves[grown : index + 1])
            grown = index + 1
            self._compare(position, links[index])
        self._grow(leaves[grown:])

    def _grow(self, leaves: Sequence[bytes]) -> None:
        if self._tree is not None:
            self._tree.extend(leaves)

    def _compare(self, position: int, chain: bytes) -> None:
        if position not in self._kept:
            return
        root = self.root
        self.passed[position] = Pin(chain.hex(), None if root is None else root.hex())
        for kept in self._kept[position]:
            if kept not in (chain, root):
                raise NotKept(position, kept, chain, root)
            self.compared += 1
