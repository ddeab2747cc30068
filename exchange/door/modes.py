"""Who keeps the door of a process: nobody on loopback, something in front of it, or keys."""

from enum import StrEnum


class Door(StrEnum):
    """The setting ``DOOR``. ``LOOPBACK`` is that of a process without one.

    The first two are open: whoever gets through is everybody. On loopback that is whoever uses this
    machine; ``OPEN`` says that something else keeps others away.
    """

    LOOPBACK = "loopback"
    OPEN = "open"
    KEYS = "keys"
