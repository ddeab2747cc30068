"""How much of the stream one key may have at once, over all connections of a gateway."""

from collections import Counter
from typing import Final

from exchange.gateway.http.problems import Code, Problem

CONNECTIONS_MAX: Final = 100  # a program has one or a few
SUBSCRIPTIONS_MAX: Final = 1_000  # all channels of 250 instruments; each costs its events


class KeyCaps:
    """The connections and subscriptions of each key that has some."""

    def __init__(self) -> None:
        self._connections: Counter[str] = Counter()
        self._subscriptions: Counter[str] = Counter()

    def join(self, key_id: str | None, subscriptions: int) -> None:
        """Count a connection that has become a key's.

        Raises:
            Problem: 429, the key has too many.
        """
        if key_id is None:
            return
        if self._connections[key_id] >= CONNECTIONS_MAX:
            detail = f"A key has at most {CONNECTIONS_MAX} connections."
            raise Problem(Code.STREAM_TOO_MANY, detail)
        self.check(key_id, subscriptions)
        self._connections[key_id] += 1
        self.add(key_id, subscriptions)

    def leave(self, key_id: str | None, subscriptions: int) -> None:
        """Count no more a connection of a key."""
        if key_id is None:
            return
        self._connections[key_id] -= 1
        if not self._connections[key_id]:
            del self._connections[key_id]
        self.add(key_id, -subscriptions)

    def check(self, key_id: str | None, more: int) -> None:
        """Refuse so many more subscriptions of a key, if that are too many.

        Raises:
            Problem: 429, they are.
        """
        if key_id is not None and self._subscriptions[key_id] + more > SUBSCRIPTIONS_MAX:
            detail = f"A key has at most {SUBSCRIPTIONS_MAX} subscriptions."
            raise Problem(Code.STREAM_TOO_MANY, detail)

    def add(self, key_id: str | None, subscriptions: int) -> None:
        """Count so many more subscriptions of a key, or less."""
        if key_id is None:
            return
        self._subscriptions[key_id] += subscriptions
        if not self._subscriptions[key_id]:
            del self._subscriptions[key_id]
