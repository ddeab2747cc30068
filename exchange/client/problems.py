"""What may go wrong, and what is known then of a command.

    ExchangeError
    ├── Refused               the exchange says no, and why: ``code`` and ``problem``
    └── Unanswered            in time
        ├── Unavailable       nothing was done
        └── OutcomeUnknown    it may have been done, once

After ``OutcomeUnknown`` send the same request value again: it has its key, so it takes effect at
most once, however often it is sent.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

DETAIL_CHARS_MAX: Final = 300  # of what an answer says that is no problem: a proxy's page, say

_members: Final = msgspec.json.Decoder(dict[str, Any])


class Problem(Struct, frozen=True):
    """An error that the exchange tells (RFC 9457); ``members`` has all that it says."""

    code: str
    status: int
    detail: str
    members: Mapping[str, Any]

    @property
    def is_decided(self) -> bool:
        """Whether it is in the log, so that every resend gets it too."""
        return "sequence" in self.members


class ExchangeError(Exception):
    """A request was not answered as it should be."""


class Refused(ExchangeError):
    """The exchange refuses the request."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.code}: {problem.detail}")
        self.problem = problem

    @property
    def code(self) -> str:
        return self.problem.code


class Unanswered(ExchangeError):
    """There is no answer; ``reason`` says why the last attempt had none."""

    def __init__(self, told: str, reason: str) -> None:
        super().__init__(f"{told}: {reason}")
        self.reason = reason


class Unavailable(Unanswered):
    """Nobody answered in time. Nothing was done, or what was asked changes nothing."""


class OutcomeUnknown(Unanswered):
    """A command may have been done, or may still be. Send the same request value again."""


def problem_of(status: int, body: bytes) -> Problem:
    """Read a problem; an answer that is none, a proxy's say, has the code ``http.STATUS``."""
    try:
        members = _members.decode(body)
        return problem_from({"status": status, **members})
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError):
        text = body[: 4 * DETAIL_CHARS_MAX].decode(errors="replace")[:DETAIL_CHARS_MAX]
        return Problem(f"http.{status}", status, text or "the answer has no body", {})


def problem_from(members: Mapping[str, Any]) -> Problem:
    """Return the problem that an error of the stream or of a batch's entry tells.

    Raises:
        KeyError: It has no code.
    """
    return Problem(str(members["code"]), int(members["status"]), str(members["detail"]), members)
