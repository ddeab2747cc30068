"""Ctrl-C and its like: the first asks for an orderly stop, a second one for a stop at once."""

import asyncio
import signal
import time
from types import TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `make` and `timeout` pass a signal on that the terminal has sent as well: that is still the first.
SAME_INTERRUPT_S = 0.5


class Interrupts:
    """Counts interrupts while it is entered."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._first_s = 0.0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def interrupt(self) -> None:
        """Note an interrupt; a second one within ``SAME_INTERRUPT_S`` is the first one again."""
        now_s = time.monotonic()
        if not self.first.is_set():
            self._first_s = now_s
            self.first.set()
        elif now_s - self._first_s > SAME_INTERRUPT_S:
            self.second.set()
