"""Heartbeats, which connections that follow the same share."""

from exchange.gateway.stream.heartbeats import Heartbeats
from tests.gateway.stream.texts import message_of


def test_connections_that_follow_the_same_share_a_heartbeat() -> None:
    heartbeats = Heartbeats()

    one, same = heartbeats.of({"A": 1, "B": 2}), heartbeats.of({"A": 1, "B": 2})
    other = heartbeats.of({"A": 1})

    assert one is same
    assert message_of(one.text)["sequences"] == one.sequences == {"A": 1, "B": 2}
    assert message_of(other.text)["sequences"] == other.sequences == {"A": 1}
