"""The form of a command: which version it is of, and what its bytes leave out.

A field that commands gained later is left out where it has its default, so that the bytes, and the
hash, of an earlier request stay what they were.
"""

from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from exchange.domain.commands import Command, RetryQuarantined

LATER_COMMANDS: Final[dict[str, int]] = {
    "LimitOpenOrders": 2,
    "PlaceShard": 2,
    "RetryQuarantined": 2,
    "CancelAllOrders": 3,
    "CreateAccount": 4,
    "SuspendClient": 4,
    "ResumeClient": 4,
    "IssueKey": 4,
    "RotateKey": 4,
    "RevokeKey": 4,
}
"""What commands gained (``Type``, ``Type.field`` or ``Type.field=value``), and in which version.

An earlier matcher would refuse a command that uses one of these as malformed. A command has the
lowest version whose readers understand it, so only commands that use something new wait for a newer
matcher.
"""

SIGNED_VERSION: Final = 4
"""The version whose matchers put the key by which a command was signed into the log."""

_SomeCommand = TypeVar("_SomeCommand", bound=Command | RetryQuarantined)

encoder = msgspec.json.Encoder()


def commands_version() -> int:
    """Return the latest version of commands that this build reads."""
    return max(LATER_COMMANDS.values(), default=1)


def command_version(command: Struct, *, signed: bool = False) -> int:
    """Return the version that a command is sent with: the lowest whose readers understand it.

    ``signed`` says that a key signed it, which an earlier matcher would not put into the log.
    """
    name, first = type(command).__name__, SIGNED_VERSION if signed else 1
    used = (
        version
        for what, version in LATER_COMMANDS.items()
        if what.startswith(name) and _uses(command, what)  # the first is quick, and seldom true
    )
    return max((first, *used))


def _uses(command: Struct, what: str) -> bool:
    """Tell whether a command uses what an entry of ``LATER_COMMANDS`` names."""
    name, _, field = what.partition(".")
    field, _, value = field.partition("=")
    if type(command).__name__ != name:
        return False
    if value:
        return bool(getattr(command, field) == value)
    return not field or getattr(command, field) != _default_of(command, field)


def _default_of(command: Struct, field: str) -> object:
    fields, defaults = command.__struct_fields__, command.__struct_defaults__
    return defaults[fields.index(field) - len(fields)]  # a later field has one


def without_defaults(command: _SomeCommand) -> _SomeCommand:
    """Have fields that equal their defaults left out: msgspec leaves out what *is* the default."""
    defaults = command.__struct_defaults__
    if not defaults:
        return command
    fields = command.__struct_fields__[-len(defaults) :]
    equal = {
        name: default
        for name, default in zip(fields, defaults, strict=True)
        if getattr(command, name) == default
    }
    return msgspec.structs.replace(command, **equal)
