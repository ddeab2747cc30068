"""What belongs to whom: a caller acts for its own client, and sees nothing of others.

Through an open door everybody is everybody, so the clients that requests name count. By a key the
client is the key's. A body that names another is refused. What another client owns is not there,
unless the caller may see all.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request

from exchange.door.caller import STRANGER, Caller
from exchange.gateway.http.declaration import Access
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import check_id, idempotency_key

# The key of a request's scope under which the entrance leaves who asks.
CALLER: Final = "exchange.caller"
UNNAMED: Final = ""  # the client of a body that names none: no client has this id


Body = TypeVar("Body", bound=Struct)


def caller_of(request: Request) -> Caller:
    """Return who asks."""
    caller: Caller = request.scope[CALLER]
    return caller


def command_key(request: Request, in_body: str | None = None) -> str | None:
    """Return the idempotency key of a command: its own, or that of the signed text.

    So the same bytes, sent again by whoever overheard them, are the same command.

    Raises:
        Problem: 422, the request has two different keys, or one that can be none.
    """
    return idempotency_key(request, in_body) or caller_of(request).idempotency_key


def is_stranger(caller: Caller) -> bool:
    """Tell whether nothing is known of a caller, who so hears what is for everybody."""
    return caller is STRANGER


def check_access(caller: Caller, access: Access) -> None:
    """Refuse a caller without the scope that something asks for.

    Raises:
        Problem: 403, the key has none of the scopes.
    """
    if access.scopes and not caller.scopes & access.scopes:
        wanted = " or ".join(scope.value for scope in sorted(access.scopes))
        detail = f"This needs the scope {wanted}; nothing was done."
        raise Problem(Code.SCOPE_MISSING, detail, outcome="none")


def acting_client(caller: Caller, named: str | None) -> str | None:
    """Return for which client a command acts; None if nobody is named at an open door.

    Raises:
        Problem: 403, it names another client than the caller's.
    """
    if caller.client_id is None:
        return named or None
    if named and named != caller.client_id:
        detail = f"The key is not of the client {named}. Nothing was done."
        raise Problem(Code.NOT_YOURS, detail, outcome="none")
    return caller.client_id


def of_client(caller: Caller, body: Body) -> Body:
    """Return a command's body with the client for which it acts.

    Raises:
        Problem: 403, it names another client than the caller's; 422, it has to name one.
    """
    named: str = getattr(body, "client_id")  # noqa: B009  each such body has one
    client_id = acting_client(caller, named)
    if client_id is None:
        raise invalid("client_id", "is required")
    if client_id == named:
        return body
    return msgspec.structs.replace(body, client_id=client_id)


def seen_client(caller: Caller, named: str | None) -> str | None:
    """Return whose data is asked for; None if no client is named and the caller has none.

    Raises:
        Problem: 404, it is another client's; 422, the name can be none.
    """
    if named is None:
        return caller.client_id
    check_id(named, "client_id")
    if not may_see(caller, named):
        raise Problem(Code.CLIENT_NOT_FOUND, f"There is no client {named}.")
    return named


def owner_of(caller: Caller, parameters: Mapping[str, str]) -> str:
    """Return the client whose data a query asks for.

    Raises:
        Problem: As ``seen_client``; 422, it has to name one.
    """
    client_id = seen_client(caller, parameters.get("client_id"))
    if client_id is None:
        raise invalid("client_id", "is required")
    return client_id


def may_see(caller: Caller, client_id: str | None) -> bool:
    """Tell whether what belongs to a client is there for a caller."""
    return caller.sees_all or (client_id is not None and client_id == caller.client_id)
