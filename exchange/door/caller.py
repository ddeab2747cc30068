"""Who asks: a client by one of its keys, everybody through an open door, or a stranger."""

from typing import Final

from msgspec import Struct

from exchange.domain.values import KeyScope

EVERY_SCOPE: Final = frozenset(KeyScope)


class Caller(Struct, frozen=True):
    """Who asks, and what they may.

    Who comes through an open door has no client and no key, and may everything. A stranger has
    neither and may nothing: what is public asks for no scope.

    Attributes:
        client_id: Whose key it is.
        key_id: The key that the request, or the token, is signed with.
        scopes: What they may.
        created: When a signed request was signed, in Unix seconds; None if it has a token.
        idempotency_key: The key of a signed command that names none: the same text is the same
            command, on every gateway and for ever.
        ends_s: When a token ends, in Unix seconds.
        is_passed_on: Whether one of our own processes asks, for this caller.
    """

    client_id: str | None
    key_id: str | None
    scopes: frozenset[KeyScope]
    created: int | None = None
    idempotency_key: str | None = None
    ends_s: int | None = None
    is_passed_on: bool = False

    @property
    def sees_all(self) -> bool:
        """Whether what belongs to any client may be read."""
        return KeyScope.AUDIT in self.scopes


ANYBODY: Final = Caller(None, None, EVERY_SCOPE)
# One of our own processes that looks for nobody else.
WATCHER: Final = Caller(None, None, frozenset({KeyScope.AUDIT}))
STRANGER: Final = Caller(None, None, frozenset())
