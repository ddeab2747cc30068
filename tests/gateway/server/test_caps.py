"""How many connections are taken: by the settings, by address, and by what the system allows."""

import resource
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from exchange.gateway.server.server import OWN_DESCRIPTORS, Caps
from exchange.processes.descriptors import descriptors

CAPS = Caps(
    total=10, of_address=2, proxies=(ip_network("10.0.0.0/8"), ip_network("2001:db8::7/128"))
)


@pytest.mark.parametrize(
    ("peer", "taken", "of_address", "says"),
    [
        ("198.51.100.7", 9, 1, ""),
        ("198.51.100.7", 9, 2, "One address may have 2 connections"),
        ("198.51.100.7", 10, 0, "This gateway takes 10 connections"),
        ("10.1.1.1", 9, 9, ""),
        ("::ffff:10.1.1.1", 9, 9, ""),
        # Of its /64 only this one is a proxy, though all of them count as one.
        ("2001:db8::7", 9, 9, ""),
        ("2001:db8::8", 9, 9, "One address may have 2 connections"),
        ("10.1.1.1", 10, 0, "This gateway takes 10 connections"),
    ],
)
def test_one_more_connection(peer: str, taken: int, of_address: int, says: str) -> None:
    excess = CAPS.excess(peer, taken, of_address)

    assert excess.startswith(says)
    assert bool(excess) == bool(says)


@pytest.mark.parametrize(
    ("allowed", "total"),
    [
        (1_000_000, 10_000),
        (10_000 + OWN_DESCRIPTORS, 10_000),
        (1_024, 1_024 - OWN_DESCRIPTORS),
        (256, 128),  # too few for either, so half and half
    ],
)
def test_no_more_connections_are_taken_than_there_are_descriptors(allowed: int, total: int) -> None:
    assert Caps(total=10_000).within(allowed).total == total


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit of a process whose soft one is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_as_far_as_is_wanted(hard: int) -> None:
    assert descriptors(100) == 512  # enough
    assert descriptors(700) == 700
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, hard)


def test_the_soft_limit_is_raised_as_far_as_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 1_024))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))

    assert descriptors(10_256) == 1_024
    assert told == [(1_024, 1_024)]


def test_a_system_that_allows_no_more_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not that many")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)

    assert descriptors(700) == 512
