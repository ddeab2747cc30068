"""Why somebody is not let in; the gateway makes a problem of it."""

from enum import StrEnum


class Reason(StrEnum):
    """What is wrong with what a caller showed."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    BAD = "bad"
    CLOCK = "clock"
    EXPIRED_KEY = "expired_key"
    REVOKED_KEY = "revoked_key"
    ADDRESS = "address"


class Refused(Exception):
    """A caller is not let in; the detail says what to do."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Unavailable(Exception):
    """Nobody can be let in now: it is not known which keys are good."""
