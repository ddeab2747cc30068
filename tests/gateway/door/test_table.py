"""The table of scopes in the documentation is that of the declarations."""

from starlette.routing import Route

from exchange.config import PROJECT
from exchange.domain.values import KeyScope
from exchange.gateway.app import ROUTES
from exchange.gateway.http.declaration import OPERATIONS, Access
from exchange.gateway.stream.protocol.messages import CONTROLS, MESSAGES, Subscribe, scope_of

HEAD = "| Request, or message of the stream | Scope | |\n|---|---|---|\n"


def test_the_table_of_scopes_is_that_of_the_declarations() -> None:
    text = (PROJECT / "docs" / "protocol.md").read_text()
    lines = [*map(of_route, ROUTES), *of_messages()]

    assert text.partition(HEAD)[2].splitlines()[: len(lines)] == lines


def of_route(route: Route) -> str:
    (method,) = (route.methods or set()) - {"HEAD"}
    return row(f"{method} {route.path}", OPERATIONS[route.endpoint].scope)


def of_messages() -> list[str]:
    found = []
    for kind, message in (MESSAGES | CONTROLS).items():
        if message is Subscribe:
            found += [row("subscribe", Access.PUBLIC), row("subscribe (orders)", Access.READ)]
        else:
            found.append(row(kind, scope_of(message)))
    return found


def row(what: str, access: Access) -> str:
    scopes = " or ".join(f"`{scope}`" for scope in KeyScope if scope in access.scopes)
    if access is Access.ANY_KEY or not scopes:
        scopes = ""
    return f"| `{what}` | {scopes} | {access.meaning} |"
