"""The tree is that of RFC 9162, whole or from blocks, and a path proves one event alone."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.log.audit.tree import (
    BLOCK_EVENTS,
    EMPTY_ROOT,
    Tree,
    leaf_hash,
    node_hash,
    path,
    root_of,
    root_over,
)
from exchange.log.chain import event_text
from tests.projections.sample import read_sample

# The inputs and roots that implementations of Certificate Transparency are tested with.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def leaves_of(size: int) -> list[bytes]:
    return [sha256(b"\0" + str(number).encode()).digest() for number in range(size)]


def grown(leaves: list[bytes], blocks: tuple[bytes, ...] = ()) -> Tree:
    grown = Tree(blocks)
    grown.extend(leaves)
    return grown


def plain_root(leaves: list[bytes]) -> bytes:
    """The definition in section 2.1.1, word for word."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else EMPTY_ROOT
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return node_hash(plain_root(leaves[:middle]), plain_root(leaves[middle:]))


@pytest.mark.parametrize("size", range(1, len(INPUTS) + 1))
def test_roots_are_those_of_other_implementations(size: int) -> None:
    leaves = [sha256(b"\0" + data).digest() for data in INPUTS[:size]]

    assert grown(leaves).root.hex() == root_over(leaves).hex() == ROOTS[size - 1]


@given(st.integers(0, 300))
def test_a_tree_that_grows_has_the_root_of_the_definition(size: int) -> None:
    leaves = leaves_of(size)

    assert grown(leaves).root == root_over(leaves) == plain_root(leaves)


@given(st.integers(1, 200), st.data())
def test_a_path_leads_to_the_root_and_from_no_other_leaf(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    hashes, root = path(index, leaves), root_over(leaves)

    assert root_of(leaves[index], index, size, hashes) == root
    assert (root_of(leaves[other], other, size, hashes) == root) == (other == index)
    assert root_of(leaves[index], index, size, [*hashes, root]) is None
    assert not hashes or root_of(leaves[index], index, size, hashes[:-1]) is None


@given(st.integers(0, 5 * BLOCK_EVENTS))
def test_roots_of_blocks_and_the_rest_give_the_same_tree(size: int) -> None:
    leaves = leaves_of(size)
    whole = grown(leaves)
    blocks = tuple(whole.new_blocks)
    assert len(blocks) == size // BLOCK_EVENTS

    rest = leaves[len(blocks) * BLOCK_EVENTS :]
    assert grown(rest, blocks).root == whole.root
    assert root_over([*blocks, *([root_over(rest)] if rest else [])]) == whole.root


def test_the_path_of_one_in_ten_million_is_short() -> None:
    size = 10_000_000
    blocks = leaves_of(-(-size // BLOCK_EVENTS))
    within, above = path(77, leaves_of(BLOCK_EVENTS)), path(1234, blocks)

    assert len(within) + len(above) <= 24
    assert 32 * (len(within) + len(above)) < 1_000


@given(st.lists(st.integers(0, 700), max_size=4))
def test_how_leaves_come_changes_nothing(sizes: list[int]) -> None:
    leaves = leaves_of(sum(sizes))
    parted, at = Tree(), 0
    for size in sizes:
        parted.extend(leaves[at : at + size])
        at += size

    assert (parted.size, parted.root) == (len(leaves), grown(leaves).root)


def test_an_event_is_the_leaf_that_its_columns_and_text_make() -> None:
    first, second = read_sample()[:2]
    columns = (
        str(first.shard),
        str(first.position),
        first.instrument or "",
        first.type,
        str(first.version),
        first.command_id.hex,
        str(first.kafka_offset),
        first.data,
    )
    text = "\x1f".join(columns).encode()

    assert leaf_hash(event_text(first)) == sha256(b"\0" + text).digest()
    assert leaf_hash(event_text(first)) != leaf_hash(event_text(second))
